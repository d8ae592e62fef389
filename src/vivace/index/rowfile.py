"""The file of a segment's float16 rows, in FAISS's own format: written as a stream, read mapped.

The file is an `IndexScalarQuantizer` of type QT_fp16 as `faiss.write_index` writes it: a header,
then n * dim float16 row by row. It serves exact search, refining and filtered scans, and numpy maps
it as a plain array (an unaligned one: the header's length is odd).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.errors import BadVectors, CorruptIndex
from vivace.index import files, native
from vivace.types import Float16Vectors, Metric, Vectors

_TOTAL_AT = 8
"""Offset of the number of rows (int64) in the header: after a fourcc and the dimension."""
_BLOCK = 65_536
"""Rows copied at a time."""


def blocks(vectors: Float16Vectors) -> Iterator[NDArray[np.uint8]]:
    """The rows as bytes (m, 2 * dim), in blocks small enough to copy."""
    for at in range(0, len(vectors), _BLOCK):
        yield np.ascontiguousarray(vectors[at : at + _BLOCK]).view(np.uint8)


def floats(vectors: Float16Vectors, rows: int = 8_192) -> Iterator[Vectors]:
    """The rows as float32 (m, dim), in blocks between which a build can be interrupted."""
    codes = vectors.view(np.uint8)
    for at in range(0, len(codes), rows):
        yield np.ascontiguousarray(codes[at : at + rows]).view(np.float16).astype(np.float32)


def sample(vectors: Float16Vectors, rows: int, *, least: int = 1) -> Vectors:
    """At most `rows` of the vectors, evenly spaced, so that training on them is repeatable.

    They are repeated if there are fewer than `least`.
    """
    codes = vectors.view(np.uint8)[:: max(1, len(vectors) // rows)][:rows]
    taken: Vectors = np.ascontiguousarray(codes).view(np.float16).astype(np.float32)
    if len(taken) < least:
        taken = np.resize(taken, (least, vectors.shape[1]))
    return taken


def write(
    path: Path, vectors: Iterable[Float16Vectors], *, n: int, dim: int, metric: Metric
) -> files.FileEntry:
    """Write n rows given in parts; memory holds one part.

    Raises:
        BadVectors: NaN or infinity, parts of another dimension, or not n rows in all.
        OSError: the file cannot be written.
    """

    def parts() -> Iterator[bytes | memoryview]:
        yield _header(n, dim, metric)
        seen = 0
        for part in vectors:
            native.check_rows(part, dim)
            seen += len(part)
            for block in blocks(part):
                yield block.reshape(-1).data
        if seen != n:
            raise BadVectors(f"{seen} vectors for {n} ids", fix="Give one vector an id")

    return files.write(path, parts())


def read(path: Path, *, n: int, dim: int, metric: Metric) -> tuple[Any, NDArray[np.uint8]]:
    """The FAISS index and its rows as bytes (n, 2 * dim), both mapped.

    Raises:
        CorruptIndex: missing, cut, or not the rows described.
    """
    import faiss

    try:
        head = path.stat().st_size - 2 * n * dim
        if head != len(_header(n, dim, metric)):
            raise CorruptIndex(f"{path} does not have the size of {n} rows", fix="It is rebuilt")
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        rows = np.empty((0, 2 * dim), np.uint8)
        if n:
            rows = np.asarray(np.memmap(path, np.uint8, "r", head, (n, 2 * dim)))
    except (RuntimeError, OSError, ValueError) as error:
        raise CorruptIndex(f"{path}: {error}", fix="It is rebuilt") from error
    found = (index.ntotal, index.d, index.metric_type, index.sa_code_size())
    if found != (n, dim, native.measure(metric), 2 * dim):
        raise CorruptIndex(f"{path} does not hold {n} {metric} rows of {dim}", fix="It is rebuilt")
    return index, rows


def _header(n: int, dim: int, metric: Metric) -> bytes:
    """The bytes that FAISS writes before n rows: its header of an empty index, with the counts
    set."""
    import faiss

    header = bytearray(faiss.serialize_index(native.halves(dim, metric)).tobytes())
    struct.pack_into("<q", header, _TOTAL_AT, n)
    struct.pack_into("<Q", header, len(header) - 8, 2 * n * dim)
    return bytes(header)
