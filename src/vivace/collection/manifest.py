"""Which sealed segments make up a collection: one small file, replaced as a whole.

What it does not name does not exist. It is derived: without it everything is rebuilt.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from vivace.collection.checked import Checked
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


_FILE: Final = Checked(Manifest, "manifest", FORMAT, OLDEST, "It is rebuilt")


def write(folder: Path, manifest: Manifest) -> None:
    """Make it the collection's manifest, durable.

    Raises:
        OSError: it cannot be written; the one before still holds.
    """
    _FILE.write(folder / FILE, manifest)


def read(folder: Path) -> Manifest | None:
    """The collection's manifest; None where there is no file.

    Raises:
        CorruptIndex: it is damaged, or of a format that this Vivace does not read.
    """
    return _FILE.read(folder / FILE)


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
