"""The sealed segments of a collection on disk: a folder each, and the manifest that names them.

The manifest is replaced as a whole, and what it does not name does not exist. It is derived:
without it every segment is rebuilt from the store.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from vivace.collection.checksummed_json import ABSENT, ChecksummedJson, signature
from vivace.collection.dense import Dense, Segment, live_ids, live_vectors
from vivace.errors import CorruptIndex, StoreUnwritable
from vivace.index import files, segments
from vivace.index.flat import FlatIndex
from vivace.index.segments import SegmentFiles
from vivace.store.store import Store
from vivace.types import Bitmap, Ids, Metric

MANIFEST: Final = "manifest.json"
FOLDER: Final = "segments"
_NAME: Final = re.compile(r"\w[\w-]*(\.\w[\w-]*)*", re.ASCII)
_IN_MEMORY = 64 << 20
"""Bytes of rows up to which `SegmentDirectory.rows` copies into memory instead of a file."""
_ASIDE = "tuning-"
_LEFT_SECONDS = 86_400
"""Age of a copy of the rows after which no process uses it any more."""


class SegmentEntry(msgspec.Struct, frozen=True):
    """A sealed segment: all live chunks with ids from `first` to `last`, as of the manifest."""

    name: str
    first: int
    last: int
    files: SegmentFiles
    dead: bytes = b""
    """Rows removed since it was sealed, as packed bits (little-endian), zlib-compressed; may be
    empty."""

    @staticmethod
    def dead_bits(ids: Ids, live: Bitmap) -> bytes:
        """`dead` of a segment's ids (n,), each below `len(live)`."""
        dead = ~live[ids]
        if not dead.any():
            return b""
        return zlib.compress(np.packbits(dead, bitorder="little").tobytes(), 1)

    def dead_rows(self) -> Bitmap:
        """(n,), which rows are removed.

        Raises:
            ValueError, zlib.error: `dead` is damaged.
        """
        n = self.files.n
        if not self.dead:
            return np.zeros(n, np.bool_)
        size = (n + 7) // 8
        # bounded: a few bytes could unpack to gigabytes
        bits = np.frombuffer(zlib.decompressobj().decompress(self.dead, size + 1), np.uint8)
        if len(bits) != size:
            raise ValueError(f"its removed rows are not of {n}")
        return np.unpackbits(bits, count=n, bitorder="little").astype(np.bool_)


class Manifest(msgspec.Struct, frozen=True):
    """The chunks with ids below `next_id` as of `epoch`; only the store holds later ones."""

    uuid: str
    embedder: str
    dim: int
    metric: Metric
    generation: int
    epoch: int
    stamp: str
    """The store's stamp of that epoch. It differs between histories that reached the same epoch."""
    next_id: int
    segments: tuple[SegmentEntry, ...]


_FILE: Final = ChecksummedJson(Manifest, "manifest", format=1, oldest=1, fix="It is rebuilt")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of the collection in `folder`, durably.

    Raises:
        OSError: it cannot be written; the old one still holds.
    """
    _FILE.write(folder / MANIFEST, manifest)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of the collection in `folder`; None where there is no file.

    Raises:
        CorruptIndex: it is damaged, or of a format that this Vivace does not read.
    """
    manifest = _FILE.read(folder / MANIFEST)
    if manifest is not None and (reason := _contradiction(manifest)):
        raise CorruptIndex(f"{folder / MANIFEST} contradicts itself: {reason}", fix=_FILE.fix)
    return manifest


def _contradiction(manifest: Manifest) -> str:
    """Why no collection can be as the manifest says; "" if one can. Its checksum proves nothing."""
    if manifest.next_id < 0 or manifest.dim < 1 or manifest.epoch < 0:
        return "its counts"
    names = [entry.name for entry in manifest.segments]
    if len(set(names)) < len(names):
        return "two segments share a name"
    for entry in manifest.segments:
        held = entry.files
        listed = [file.name for file in held.files]
        # a name never leads out of the collection's folder
        if not all(_NAME.fullmatch(name) for name in (entry.name, *listed)):
            return "the names of its files"
        if not 0 <= entry.first <= entry.last < manifest.next_id:
            return f"the ids of segment {entry.name}"
        if not 1 <= held.n <= entry.last - entry.first + 1:
            return f"the size of segment {entry.name}"
        if (held.dim, held.metric) != (manifest.dim, manifest.metric):
            return f"the vectors of segment {entry.name}"
    return ""


class SegmentDirectory:
    """What other processes and the next opening find. Changing it takes the write lock."""

    def __init__(self, store: Store, home: Path) -> None:
        self.folder = home / FOLDER
        self.manifest: Manifest | None = None
        """The manifest on disk, if it belongs to the store."""
        self._store = store
        self._home = home
        self._signature = ABSENT

    @property
    def epoch(self) -> int:
        """The epoch that the sealed segments show without the store's help."""
        return self.manifest.epoch if self.manifest else 0

    def changed(self) -> bool:
        """Whether a process has replaced the manifest since the last call."""
        before, self._signature = self._signature, signature(self._home / MANIFEST)
        return before != self._signature

    def publish(self, dense: Dense, epoch: int, next_id: int) -> None:
        """Write a manifest of the sealed segments in `dense`.

        Does nothing while a segment before the tail exists in memory only: the manifest has no way
        to say so.

        Raises:
            OSError: it cannot be written; the old manifest still holds.
        """
        sealed = [s for s in dense.segments if s.sealed is not None]
        if len(sealed) + len(dense.tail) < len(dense.segments):
            return
        identity = self._store.stored_identity()
        manifest = Manifest(
            identity.uuid,
            identity.embedder,
            identity.dim,
            identity.metric,
            identity.generation,
            epoch,
            self._store.stamp(epoch),
            dense.tail[0].first if dense.tail else next_id,
            tuple(
                SegmentEntry(
                    s.sealed.name,
                    s.first,
                    s.last,
                    s.sealed.files,
                    SegmentEntry.dead_bits(s.index.ids, dense.live),
                )
                for s in sealed
                if s.sealed is not None
            ),
        )
        write_manifest(self._home, manifest)
        self.manifest = manifest
        self.changed()

    def remove_unfinished(self) -> None:
        """Remove files that a crash left before they were renamed. Call it on taking the lock."""
        for unfinished in self._home.glob(f"*{files.UNFINISHED}"):
            unfinished.unlink(missing_ok=True)

    def clean(self, dense: Dense) -> None:
        """Remove segment folders that neither the manifest nor `dense` names: a crash left them."""
        try:
            manifest = read_manifest(self._home)
        except CorruptIndex:
            return
        if not self.folder.is_dir():
            return
        named = {entry.name for entry in manifest.segments} if manifest else set()
        named |= {s.sealed.name for s in dense.segments if s.sealed}
        for path in self.folder.iterdir():
            if path.name not in named:
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def rows(self, dense: Dense) -> Iterator[FlatIndex]:
        """An exact index over the live rows, valid inside the block.

        Maps a single sealed segment without removed rows as it is. Otherwise copies the rows, to
        memory or, if they are many, to a mapped file in the collection's folder that is removed
        at the end; memory then holds one part of them at a time.

        Raises:
            StoreUnwritable: the copy cannot be written.
        """
        if len(dense.segments) == 1 and not dense.segments[0].removed:
            flat = self._mapped(dense.segments[0])
            if flat is not None:
                yield flat
                return
        dim = self._store.dim
        empty = np.empty(0, np.int64)
        ids = np.concatenate([empty, *(live_ids(s, dense.live) for s in dense.segments)])
        if 2 * dim * len(ids) <= _IN_MEMORY:
            parts = [np.empty((0, dim), np.float16), *live_vectors(dense.segments, dense.live)]
            yield FlatIndex.build(ids, np.concatenate(parts), metric=dense.metric)
            return
        folder: Path | None = None
        try:
            try:
                self._remove_old_copies()
                folder = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self._home))
                vectors = live_vectors(dense.segments, dense.live)
                written = segments.write(
                    folder / "rows", ids, vectors, dim=dim, metric=dense.metric, family="flat"
                )
            except OSError as error:
                raise StoreUnwritable(
                    f"{self._home} cannot be written: {error.strerror}",
                    fix="Check its permissions and that there is room for a copy of the vectors",
                ) from error
            copied = segments.open_segment(folder / "rows", written)
            assert isinstance(copied, FlatIndex)
            yield copied
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def _remove_old_copies(self) -> None:
        """Remove copies of the rows that a killed process left."""
        for path in self._home.glob(f"{_ASIDE}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    def _mapped(self, segment: Segment) -> FlatIndex | None:
        """The segment's rows as an exact index; None where they have to be copied."""
        if isinstance(segment.index, FlatIndex):
            return segment.index
        if segment.sealed is None:
            return None
        described = msgspec.structs.replace(segment.sealed.files, family="flat", params={})
        try:
            flat = segments.open_segment(self.folder / segment.sealed.name, described)
        except (CorruptIndex, OSError):  # its files were merged away; the open index still holds
            return None
        return flat if isinstance(flat, FlatIndex) else None
