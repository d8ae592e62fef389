"""A sealed segment's folder: ids, float16 rows and a family's codes, as its manifest lists them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from vivace.errors import BadInput, CorruptIndex
from vivace.index import files, graph, native, rowfile
from vivace.index.coded import CodedIndex
from vivace.index.files import FileEntry
from vivace.index.flat import FlatIndex
from vivace.index.graph import GraphIndex
from vivace.index.hnsw import HnswIndex
from vivace.index.ivf import IvfIndex
from vivace.index.pq import PqIndex
from vivace.protocols import VectorIndex
from vivace.types import Float16Vectors, Ids, Metric

IDS = "ids.npy"
VECTORS = "vectors.faiss"
CODES = "codes.faiss"
_CLASSES: tuple[type[CodedIndex], ...] = (PqIndex, IvfIndex, HnswIndex, GraphIndex)
_CODED: dict[str, type[CodedIndex]] = {c.family: c for c in _CLASSES}
FAMILIES: tuple[str, ...] = ("flat", *_CODED)
"""Every family; `available()` names those whose libraries are installed."""


class SegmentFiles(msgspec.Struct, frozen=True):
    """Describes a segment's folder. Stored in the manifest, not in the folder."""

    family: str
    params: dict[str, int]
    n: int
    dim: int
    metric: Metric
    files: tuple[FileEntry, ...]


def available() -> tuple[str, ...]:
    """The families whose libraries are installed."""
    return tuple(f for f in FAMILIES if f != GraphIndex.family or graph.installed())


def of_family(name: str) -> type[VectorIndex]:
    """The class of a family.

    Raises:
        BadInput: there is no such family.
    """
    return FlatIndex if name == FlatIndex.family else _coded(name)


def write(
    folder: Path,
    ids: Ids,
    vectors: Iterable[Float16Vectors],
    *,
    dim: int,
    metric: Metric,
    family: str = "flat",
    params: Mapping[str, int] | None = None,
) -> SegmentFiles:
    """Write a segment of vectors given in parts, in the order of the strictly ascending ids (n,).

    Memory holds one part and, except for `flat`, the codes. Everything is durable when this
    returns. A failure leaves an incomplete folder, which the caller removes.

    Raises:
        BadInput: there is no such family.
        BadVectors: NaN or infinity, or shapes that do not fit.
        OSError: the folder exists or cannot be written.
    """
    of_family(family)
    native.check_ids(ids)
    folder.parent.mkdir(mode=files.FOLDER_MODE, parents=True, exist_ok=True)
    folder.mkdir(mode=files.FOLDER_MODE)
    entries = [
        _write_ids(folder / IDS, ids),
        rowfile.write(folder / VECTORS, vectors, n=len(ids), dim=dim, metric=metric),
    ]
    chosen = dict(params or {})
    if family in _CODED:
        flat = FlatIndex.open(ids, folder / VECTORS, dim=dim, metric=metric)
        entries.append(_CODED[family].build(flat, **chosen).save(folder / CODES))
    files.sync(folder)
    files.sync(folder.parent)
    return SegmentFiles(family, chosen, len(ids), dim, metric, tuple(entries))


def build(flat: FlatIndex, family: str, params: Mapping[str, int] | None = None) -> VectorIndex:
    """Build an index of a family over existing rows, in memory only.

    Raises:
        BadInput: there is no such family.
    """
    if family == FlatIndex.family:
        return flat
    return _coded(family).build(flat, **(params or {}))


def _coded(family: str) -> type[CodedIndex]:
    if family not in _CODED:
        raise BadInput(f"no index family {family!r}", fix=f"Use one of {', '.join(FAMILIES)}")
    return _CODED[family]


def open_segment(folder: Path, described: SegmentFiles) -> VectorIndex:
    """Map a segment without reading it all: `files.damaged(folder, described.files)` does that.

    Raises:
        CorruptIndex: a file is missing, cut or of another kind than described; names the file.
    """
    ids = _read_ids(folder / IDS, described.n)
    flat = FlatIndex.open(ids, folder / VECTORS, dim=described.dim, metric=described.metric)
    if described.family == FlatIndex.family:
        return flat
    if described.family not in _CODED:
        raise CorruptIndex(f"{folder} is of family {described.family!r}", fix="It is rebuilt")
    return _CODED[described.family].open(flat, folder / CODES)


def _write_ids(path: Path, ids: Ids) -> FileEntry:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(ids, np.int64), allow_pickle=False)
    return files.write(path, [buffer.getbuffer()])


def _read_ids(path: Path, n: int) -> Ids:
    try:
        ids = np.load(path, mmap_mode="r" if n else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptIndex(f"{path}: {error}", fix="It is rebuilt") from error
    if ids.shape != (n,) or ids.dtype != np.int64:
        raise CorruptIndex(f"{path} does not hold {n} ids", fix="It is rebuilt")
    return np.asarray(ids)
