"""Verifies the store's checksums, and the indexes against the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vivace.collection import keywords, recovery
from vivace.collection.segment_directory import (
    FOLDER,
    MANIFEST,
    Manifest,
    SegmentEntry,
    read_manifest,
)
from vivace.errors import CorruptIndex, VivaceError
from vivace.index import terms as term_index
from vivace.store import integrity
from vivace.store.store import FILE as STORE
from vivace.store.store import Store
from vivace.types import Finding, Ids, OnUpkeep, UpkeepProgress

_REBUILD = "Run `vivace rebuild`"
_TRIES = 3
_RESTORE = "Restore a backup, or delete the document and ingest it again"


def findings(store: Store, folder: Path, progress: OnUpkeep) -> list[Finding]:
    """Everything that is wrong with the files, read as another process would read them."""
    found = [
        Finding(STORE, what, _RESTORE)
        for what in integrity.findings(folder / STORE, store.dim, progress)
    ]
    for check in (_segments, _terms):
        try:
            found += check(store, folder, progress)
        except VivaceError as error:
            found.append(Finding(str(folder), error.what, error.fix))
    return found


def _segments(store: Store, folder: Path, progress: OnUpkeep) -> list[Finding]:
    for _ in range(_TRIES):
        try:
            manifest = read_manifest(folder)
        except CorruptIndex as error:
            return [Finding(MANIFEST, error.what, _REBUILD)]
        if manifest is None:
            missing = Finding(MANIFEST, "missing", _REBUILD)
            return [missing] if store.trimmed() else []
        with store.reading():
            found = list(_against_store(store, folder, manifest, progress))
        if not found or read_manifest(folder) == manifest:
            break
        # a writer has replaced the manifest meanwhile
    return found


def _against_store(
    store: Store, folder: Path, manifest: Manifest, progress: OnUpkeep
) -> Iterator[Finding]:
    if reason := recovery.stale(manifest, store):
        yield Finding(MANIFEST, reason, _REBUILD)
        return
    done, total = 0, sum(entry.files.n for entry in manifest.segments)
    removed = store.removed(since=manifest.epoch)
    for entry in manifest.segments:
        progress(UpkeepProgress("segments", done, total))
        for what in _segment(store, folder / FOLDER / entry.name, entry, removed):
            yield Finding(f"{FOLDER}/{entry.name}", what, _REBUILD)
        done += entry.files.n
    progress(UpkeepProgress("segments", total, total))


def _segment(store: Store, here: Path, entry: SegmentEntry, removed: Ids) -> Iterator[str]:
    segment = recovery.open_checked(here, entry)
    if isinstance(segment, str):
        yield segment
        return
    index = segment.index
    live = ~entry.dead_rows()
    live &= ~np.isin(index.ids, removed)
    ids: Ids = index.ids[live]
    rows = index.vectors.view(np.uint8)[live]
    at = 0
    for stored, vectors in store.vectors(first=entry.first, last=entry.last):
        here_ids = ids[at : at + len(stored)]
        if not np.array_equal(here_ids, stored):
            yield "holds other chunks than the store"
            return
        if not np.array_equal(rows[at : at + len(stored)], vectors.view(np.uint8)):
            yield "holds other vectors than the store"
            return
        at += len(stored)
    if at != len(ids):
        yield "holds chunks that the store does not have"


def _terms(store: Store, folder: Path, progress: OnUpkeep) -> Iterator[Finding]:
    here = folder / keywords.FOLDER
    progress(UpkeepProgress("terms", 0, 1))
    if not here.is_dir():
        if store.epoch():
            yield Finding(keywords.FOLDER, "missing", _REBUILD)
        return
    for _ in range(_TRIES):
        found = [
            Finding(f"{keywords.FOLDER}/{name}", "missing or damaged", _REBUILD)
            for name in term_index.damage(here)
        ]
        with store.reading():
            reason = "" if found else keywords.problem(store, here)
        if not found and not reason:
            break
        # a writer may have committed or merged meanwhile: look again
    yield from found
    if reason:
        yield Finding(keywords.FOLDER, reason, _REBUILD)
    progress(UpkeepProgress("terms", 1, 1))
