"""Loads the dense side: maps the sealed segments and reads all other rows from the store.

Segments that the manifest names and the folder does not hold intact are rebuilt, and reported.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vivace.collection.dense import Dense, Sealed, Segment
from vivace.collection.plan_state import LARGEST
from vivace.collection.segment_directory import (
    FOLDER,
    MANIFEST,
    Manifest,
    SegmentEntry,
    read_manifest,
)
from vivace.errors import CorruptIndex, MissingExtra, what_of
from vivace.index import files, segments
from vivace.index.flat import FlatIndex
from vivace.run.host import cores
from vivace.store.store import Store
from vivace.trace import Trace
from vivace.types import Bitmap, Decision, Float16Vectors, Ids

logger = logging.getLogger("vivace.collection")
_RETRIES = 20
"""A reader starts again if a writer publishes meanwhile; after so many times it stops trying."""
_Opened: TypeAlias = dict[str, Segment | str]
"""By name: an open segment, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A derived file that could not be used, and why."""

    kind: str
    """missing, damaged or stale."""
    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """One state of the dense side. `problems` have been mended from the store, in memory."""

    dense: Dense
    epoch: int
    manifest: Manifest | None
    problems: tuple[Problem, ...]


@contextmanager
def load(
    store: Store, folder: Path, *, known: Mapping[str, Segment] | None = None
) -> Iterator[Loaded]:
    """One state, inside a reading transaction of the store that lasts as long as the block.

    Args:
        known: segments that are open already, by name; they are not checked again.

    Raises:
        StoreError: the store itself is damaged.
    """
    opened: _Opened = dict(known or {})
    for attempt in range(_RETRIES):
        problems, manifest = list[Problem](), None
        try:
            manifest = read_manifest(folder)
        except CorruptIndex as error:
            problems.append(Problem("damaged", MANIFEST, error.what))
        if manifest is not None:
            opened |= _opened(folder / FOLDER, manifest, opened)
        with store.reading():
            last = attempt == _RETRIES - 1
            if not last and manifest is not None and _overtaken(store, folder, manifest, opened):
                opened = {n: s for n, s in opened.items() if isinstance(s, Segment)}
                continue
            yield _state(store, manifest, opened, problems)
            return


def stale(manifest: Manifest, store: Store) -> str:
    """Why the manifest does not belong to this store; "" if it does."""
    identity = store.stored_identity()
    for name in ("uuid", "embedder", "dim", "metric", "generation"):
        if getattr(manifest, name) != getattr(identity, name):
            return f"its {name} is {getattr(manifest, name)!r}, not {getattr(identity, name)!r}"
    if manifest.next_id > (known := store.next_id()):
        return f"its ids end at {manifest.next_id}; the store's at {known}"
    return store.unknown_state(manifest.epoch, manifest.stamp)


def _overtaken(store: Store, folder: Path, manifest: Manifest, opened: _Opened) -> bool:
    """Whether a writer has published another manifest since, so that this one may be obsolete."""
    usable = all(isinstance(opened[entry.name], Segment) for entry in manifest.segments)
    if usable and manifest.epoch >= store.trimmed():
        return False
    try:
        return read_manifest(folder) != manifest
    except CorruptIndex:
        return False


def _opened(folder: Path, manifest: Manifest, known: _Opened) -> _Opened:
    """The manifest's segments that are not known yet, checked in parallel: reading frees the
    GIL."""
    missing = [entry for entry in manifest.segments if entry.name not in known]
    if not missing:
        return {}
    with ThreadPoolExecutor(min(cores(), len(missing))) as pool:
        found = pool.map(lambda entry: open_checked(folder / entry.name, entry), missing)
        return {entry.name: segment for entry, segment in zip(missing, found, strict=True)}


def open_checked(here: Path, entry: SegmentEntry) -> Segment | str:
    """The segment, with every byte checked; or what is wrong with it."""
    if not here.is_dir():
        return "missing"
    if bad := files.damaged(here, entry.files.files, threads=cores()):
        return f"{', '.join(bad)} damaged"
    try:
        index = segments.open_segment(here, entry.files)
    except (CorruptIndex, MissingExtra, OSError) as error:
        return what_of(error)
    ids = index.ids
    if len(ids) != entry.files.n or not len(ids) or ids[0] < entry.first or ids[-1] > entry.last:
        return "holds other chunks than it should"
    return Segment(index, 0, Sealed(entry.name, entry.files))


def _state(
    store: Store, manifest: Manifest | None, opened: _Opened, problems: list[Problem]
) -> Loaded:
    epoch = store.epoch()
    if manifest is not None and (reason := stale(manifest, store)):
        problems.append(Problem("stale", MANIFEST, reason))
        manifest = None
    if manifest is None and not problems and store.trimmed():
        problems.append(Problem("missing", MANIFEST, "there is none"))
    if manifest is not None:
        dense = _from_manifest(store, manifest, opened, problems)
        if len(dense) == store.count():
            return Loaded(dense, epoch, manifest, tuple(problems))
        reason = f"it leads to {len(dense)} chunks; the store has {store.count()}"
        problems.append(Problem("stale", MANIFEST, reason))
    return Loaded(from_store(store), epoch, None, tuple(problems))


def report(
    problems: Sequence[Problem], folder: Path, trace: Trace, decide: Callable[[Decision], None]
) -> None:
    """Count each problem, record it as a decision, and log it."""
    for problem in problems:
        side = "terms" if problem.what == "terms" else "segments"
        trace.count(f"{side}.{problem.kind}")
        reason = f"{problem.what} is {problem.kind}: {problem.reason}."
        decide(Decision("rebuild", problem.what, "rebuilt from the store", reason))
        logger.warning("%s: %s It is rebuilt from the store", folder, reason)


def added(store: Store, first: int) -> tuple[Ids, Float16Vectors]:
    """The store's ids (n,) from `first` on, and their vectors."""
    none = np.empty(0, np.int64), np.empty((0, store.dim), np.float16)
    return _joined([none, *store.vectors(first=first)])


def from_store(store: Store) -> Dense:
    """Everything in memory, read from the store."""
    return _in_memory(Dense(metric=store.metric), store, 0, store.next_id() - 1)


def _from_manifest(
    store: Store, manifest: Manifest, opened: _Opened, problems: list[Problem]
) -> Dense:
    live = np.zeros(manifest.next_id, np.bool_)
    found: list[Segment | SegmentEntry] = []
    for entry in manifest.segments:
        segment = opened[entry.name]
        if isinstance(segment, str):
            kind = "missing" if segment == "missing" else "damaged"
            problems.append(Problem(kind, f"segment {entry.name}", segment))
            found.append(entry)
            continue
        try:
            dead = entry.dead_rows()
        except (ValueError, zlib.error) as error:
            problems.append(Problem("damaged", f"segment {entry.name}", str(error)))
            found.append(entry)
            continue
        live[segment.index.ids[~dead]] = True
        found.append(segment)
    removed = store.removed(since=manifest.epoch)
    live[removed[removed < len(live)]] = False
    dense = Dense((), live, store.metric)
    for item in found:
        if isinstance(item, SegmentEntry):
            dense = _in_memory(dense, store, item.first, item.last)
            continue
        gone = len(item.index.ids) - int(np.count_nonzero(live[item.index.ids]))
        if gone < len(item.index.ids):
            kept = replace(item, removed=gone)
            dense = replace(dense, segments=(*dense.segments, kept))
    return _in_memory(dense, store, manifest.next_id, store.next_id() - 1)


def _in_memory(dense: Dense, store: Store, first: int, last: int) -> Dense:
    """The state with the store's chunks of these ids added in memory, behind its segments."""
    added: list[Segment] = []
    live = dense.live
    for ids, vectors in _parts(store, first, last):
        if len(live) <= ids[-1]:
            longer: Bitmap = np.zeros(int(ids[-1]) + 1, np.bool_)
            longer[: len(live)] = live
            live = longer
        live[ids] = True
        added.append(Segment(FlatIndex.build(ids, vectors, metric=store.metric)))
    return replace(dense, segments=(*dense.segments, *added), live=live)


def _parts(store: Store, first: int, last: int) -> Iterator[tuple[Ids, Float16Vectors]]:
    """The store's vectors in pieces of about a segment's largest size."""
    batches: list[tuple[Ids, Float16Vectors]] = []
    rows = 0
    for batch in store.vectors(first=first, last=last):
        batches.append(batch)
        rows += len(batch[0])
        if rows >= LARGEST:
            yield _joined(batches)
            batches, rows = [], 0
    if batches:
        yield _joined(batches)


def _joined(batches: list[tuple[Ids, Float16Vectors]]) -> tuple[Ids, Float16Vectors]:
    return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])
