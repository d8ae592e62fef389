"""The sealed segments of a collection as the disk has them: a folder each, named by a manifest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vivace.collection import manifest as manifests
from vivace.collection.dense import Dense
from vivace.collection.manifest import Manifest, SegmentEntry
from vivace.errors import CorruptIndex
from vivace.index import files
from vivace.store.store import Store


class Published:
    """What other processes and the next opening find. Changing it takes the write lock."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.folder = folder / manifests.FOLDER
        self.manifest: Manifest | None = None
        """The one on the disk, where it belongs to the store."""
        self._store = store
        self._home = folder
        self._signature = (0, 0, 0)

    @property
    def epoch(self) -> int:
        """What the sealed segments show without the store's help."""
        return self.manifest.epoch if self.manifest else 0

    def noticed(self) -> bool:
        """Whether another process has replaced the manifest since the last call."""
        try:
            status = os.stat(self._home / manifests.FILE)
            # it is replaced, never changed
            signature = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            signature = (0, 0, 0)
        before, self._signature = self._signature, signature
        return before != signature

    def publish(self, dense: Dense, epoch: int, next_id: int) -> None:
        """Make the sealed segments of a state durable as the collection's.

        Nothing happens while one before the tail is in memory alone: the manifest could not say so.

        Raises:
            OSError: it cannot be written; the manifest before still holds.
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
                    manifests.dead_bits(s.index.ids, dense.live),
                )
                for s in sealed
                if s.sealed is not None
            ),
        )
        manifests.write(self._home, manifest)
        self.manifest = manifest
        self.noticed()

    def forget_begun(self) -> None:
        """Remove files that were never put in place; for who has just got the write lock."""
        for begun in self._home.glob(f"*{files.BEGUN}"):
            begun.unlink(missing_ok=True)

    def clean(self, dense: Dense) -> None:
        """Remove the folders that neither the manifest nor the state names: a crash left them."""
        try:
            manifest = manifests.read(self._home)
        except CorruptIndex:
            return
        if not self.folder.is_dir():
            return
        named = {entry.name for entry in manifest.segments} if manifest else set()
        named |= {s.sealed.name for s in dense.segments if s.sealed}
        for path in self.folder.iterdir():
            if path.name not in named:
                shutil.rmtree(path, ignore_errors=True)
