"""Which sealed segments make up a collection: one small file, replaced as a whole.

What it does not name does not exist. It is derived: without it everything is rebuilt.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec
import numpy as np

from vivace.errors import CorruptIndex
from vivace.index import files
from vivace.index.segments import SegmentFiles
from vivace.types import Bitmap, Ids, Metric

FILE = "manifest.json"
FOLDER = "segments"
FORMAT = 1
OLDEST = 1
"""A Vivace that knows this format can read what this one writes."""


class SegmentEntry(msgspec.Struct, frozen=True):
    """A sealed segment: all live chunks with ids from `first` to `last`, as of the manifest."""

    name: str
    first: int
    last: int
    files: SegmentFiles
    dead: bytes = b""
    """Rows removed since it was sealed, as packed bits (little), compressed; empty for none."""


class Manifest(msgspec.Struct, frozen=True):
    """The chunks with ids below `next_id` as of `epoch`; later ones are in the store alone."""

    uuid: str
    embedder: str
    dim: int
    metric: Metric
    generation: int
    epoch: int
    stamp: str
    """The store's of that epoch: another history's epoch of the same number has another."""
    next_id: int
    segments: tuple[SegmentEntry, ...]


class _File(msgspec.Struct, frozen=True):
    format: int
    oldest: int
    crc32: int
    manifest: msgspec.Raw


def write(folder: Path, manifest: Manifest) -> None:
    """Make it the collection's manifest, durable.

    Raises:
        OSError: it cannot be written; the one before still holds.
    """
    body = msgspec.json.encode(manifest)
    whole = _File(FORMAT, OLDEST, zlib.crc32(body), msgspec.Raw(body))
    files.replace(folder / FILE, msgspec.json.encode(whole))


def read(folder: Path) -> Manifest | None:
    """The collection's manifest; None where there is no file.

    Raises:
        CorruptIndex: it is damaged, or of a format that this Vivace does not read.
    """
    path = folder / FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CorruptIndex(f"{path}: {error.strerror}", fix="It is rebuilt") from error
    try:
        whole = msgspec.json.decode(data, type=_File)
        if zlib.crc32(bytes(whole.manifest)) != whole.crc32:
            raise CorruptIndex(f"{path} fails its checksum", fix="It is rebuilt")
        if whole.oldest > FORMAT:
            raise CorruptIndex(
                f"{path} has format {whole.format}; this Vivace reads up to {FORMAT}",
                fix="It is rebuilt",
            )
        return msgspec.json.decode(whole.manifest, type=Manifest)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise CorruptIndex(f"{path} cannot be read: {error}", fix="It is rebuilt") from error


def dead_bits(ids: Ids, live: Bitmap) -> bytes:
    """`SegmentEntry.dead` of a segment's ids (n,), all of which `live` reaches."""
    dead = ~live[ids]
    return zlib.compress(np.packbits(dead, bitorder="little").tobytes(), 1) if dead.any() else b""


def dead_rows(entry: SegmentEntry) -> Bitmap:
    """(n,), the rows that `SegmentEntry.dead` says are removed."""
    n = entry.files.n
    if not entry.dead:
        return np.zeros(n, np.bool_)
    bits = np.frombuffer(zlib.decompress(entry.dead), np.uint8)
    return np.unpackbits(bits, count=n, bitorder="little").astype(np.bool_)
