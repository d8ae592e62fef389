"""The keyword side: the term index, and a tail in memory for the chunks it has not committed yet.

Commits of the index are expensive and therefore grouped; the tail makes an acknowledged chunk
findable by its words at once. `SHOWN` records which state of the store the index shows. It names
tantivy's own commit, which is written at another moment: the index is usable only if both agree.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from vivace.errors import CollectionLocked, CorruptIndex, StoreUnwritable, what_of
from vivace.index import files
from vivace.index.term_tail import TermTail
from vivace.index.terms import TantivyTerms, TermSearcher
from vivace.ingest.chunking import indexed_text
from vivace.settings import Index
from vivace.store.connections import WriteLock
from vivace.store.store import Store
from vivace.text.terms import VERSION
from vivace.text.terms import terms as terms_of
from vivace.trace import Trace
from vivace.types import Chunk, Ids

FOLDER = "terms"
SHOWN = "shown.json"
MAKING = "terms.making"
"""Exists beside the folder while a new index is built: until then its absence is no damage."""
Lost = Callable[[str, str], None]
"""Called when the index is unusable: with "missing", "damaged" or "stale", and the reason."""
_REPORT_EVERY = 1024
_FAILURES = (CorruptIndex, OSError, ValueError, RuntimeError)
"""What tantivy's binding and the files of its index raise."""


class Shown(msgspec.Struct, frozen=True):
    """The state of the store that the committed index shows."""

    uuid: str
    epoch: int
    stamp: str
    opstamp: int
    """Of tantivy's commit."""
    terms: int = 1
    """`text.terms.VERSION` when its terms were made."""


@dataclass(frozen=True, slots=True)
class TermState:
    """An immutable state of the keyword side."""

    main: TermSearcher
    tail: TermTail
    dirty: bool
    """Whether `main` still holds chunks that have been removed."""


class Keywords:
    """Keeps the term index in step with the store; the states it returns are safe in any thread.

    Its methods must be called by one thread at a time. Where the index on disk can be neither used
    nor written, the terms are indexed in memory instead.
    """

    _terms: TantivyTerms
    _shown: int
    """The epoch of the committed index."""
    _unfinished: bool
    """Whether a commit was cut off: the index may hold more than it says, until a replay."""
    _main: TermSearcher
    _tail: TermTail
    _dirty: bool
    _epoch: int
    """The epoch that index and tail show together."""
    _pending: int
    _since: float
    """When the oldest pending change was made, by the monotonic clock."""

    def __init__(
        self,
        store: Store,
        home: Path,
        settings: Index,
        trace: Trace,
        lost: Lost,
        lock: WriteLock,
    ) -> None:
        self._store = store
        self._folder = home / FOLDER
        self._making = home / MAKING
        self._settings = settings
        self._trace = trace
        self._lost = lost
        usable = self._open()
        if (
            usable
            and not self._unfinished
            # the tail may lag behind, but not without limit
            and store.count(since=self._shown) <= settings.terms_chunks
        ):
            return
        try:
            lock.acquire()
        except (CollectionLocked, StoreUnwritable):
            if not usable:
                self._index_in_memory()
            return
        try:
            self._mend(usable)
        finally:
            lock.release()

    @property
    def in_memory(self) -> bool:
        """Whether the terms are indexed in memory only."""
        return self._terms.in_memory

    @property
    def durable_epoch(self) -> int:
        """The epoch that the index on disk shows; 0 if it is in memory."""
        return 0 if self.in_memory else self._shown

    @property
    def pending(self) -> int:
        """Chunks added or removed since the last commit."""
        return self._pending

    def state(self) -> TermState:
        return TermState(self._main, self._tail, self._dirty)

    # -- writing: inside the collection's write lock ------------------------------------------

    def begin(self) -> None:
        """Bring the index on disk to the store's epoch before it is written to."""
        if self.in_memory:
            self._mend(self._open())
        elif self._unfinished or self._shown < self._store.epoch():
            self._mend(usable=True)

    def change(self, chunks: Sequence[tuple[Chunk, bool]], removed: Ids, epoch: int) -> None:
        """Add chunks, each with whether its title is indexed, and drop the removed ids.

        Commits if many changes have gathered or the oldest has waited long enough.
        """
        try:
            added = list(_terms(chunks))
            for chunk_id in removed.tolist():
                self._terms.delete(chunk_id)
            for chunk_id, words in added:
                self._terms.add(chunk_id, words)
            if not self._pending:
                self._since = time.monotonic()
            self._pending += len(added) + len(removed)
            self._epoch = epoch
            if self._due():
                self._commit()
            else:
                self._dirty = self._dirty or bool(np.any(~np.isin(removed, self._tail.ids)))
                self._tail = self._tail.changed(added, removed)
        except _FAILURES:
            self._commit_failed()

    def commit(self) -> None:
        """Move the tail into the index, durably."""
        try:
            self._commit()
        except _FAILURES:
            self._commit_failed()

    def rebuild(self, progress: Callable[[int], None]) -> None:
        """Replace the index on disk by one made from the store; `progress` gets chunks done.

        Raises:
            OSError, ValueError: it cannot be written. The terms are then indexed in memory, as they
                are when `progress` raises.
        """
        self.release()
        try:
            self._start_empty()
            with self._store.reading():
                self._replay(progress)
        except BaseException:
            self.release()
            self._index_in_memory()
            raise

    def release(self) -> None:
        """Let another process write the index."""
        self._terms.release()

    def has_removed(self) -> bool:
        """Whether the statistics of the committed files still count chunks that were removed."""
        try:
            meta = json.loads((self._folder / "meta.json").read_bytes())
            return any(segment.get("deletes") for segment in meta["segments"])
        except (OSError, ValueError, KeyError, TypeError):
            return True

    # -- reading ------------------------------------------------------------------------------

    def follow(self) -> bool:
        """Adopt what another process has committed; returns whether there was anything.

        Call it before the store's reading transaction that the state has to agree with: the store
        is never behind the index.
        """
        if self.in_memory:
            return False
        try:
            shown = _read_shown(self._folder)
            known = shown.epoch == self._shown and not self._unfinished
            if known or _stale(shown, self._store) or _opstamp(self._folder) != shown.opstamp:
                return False  # during another process's commit, the tail covers what is missing
            self._terms.follow()
            if _opstamp(self._folder) != shown.opstamp:
                return False
        except _FAILURES:
            return False
        self._shown, self._main = shown.epoch, self._terms.searcher()
        self._unfinished = False
        return True

    def catch_up(self, *, restart: bool) -> None:
        """Bring the tail to the store's epoch without writing, as a reading process does.

        `restart` rebuilds the tail from the committed index's epoch on.
        """
        epoch, trimmed = self._store.epoch(), self._store.trimmed()
        if self.in_memory:
            if 0 < self._shown < trimmed:
                self._terms, self._shown = TantivyTerms.volatile(), 0
            self._replay()
            return
        restart = restart or self._epoch < trimmed
        since = self._shown if restart else self._epoch
        removed = self._store.removed(since=max(since, trimmed))
        tail = TermTail() if restart else self._tail
        self._tail = tail.changed(_terms(self._store.texts(since=since)), removed)
        # the tail holds what an unfinished commit added, too; a search returns it once
        self._dirty = (
            self._unfinished
            or self._shown < trimmed
            or bool(len(self._store.removed(since=self._shown)))
        )
        self._epoch = epoch

    # -- the index ----------------------------------------------------------------------------

    def _adopt(self, terms: TantivyTerms, epoch: int, *, unfinished: bool = False) -> None:
        """Continue with this index, which shows `epoch`, and an empty tail."""
        self._terms = terms
        self._main = terms.searcher()
        self._tail = TermTail()
        self._shown = epoch
        self._epoch = epoch
        self._unfinished = unfinished
        self._dirty = False
        self._pending = 0
        self._since = 0.0

    def _open(self) -> bool:
        """Adopt the index on disk; returns whether it is usable."""
        if self._making.exists():
            return False
        try:
            if not self._folder.is_dir():
                if self._store.epoch():
                    self._lost("missing", "there is none")
                return False
            terms = TantivyTerms.open(self._folder)
            shown = _read_shown(self._folder)
            if reason := _stale(shown, self._store):
                self._lost("stale", reason)
                return False
            unfinished = _opstamp(self._folder) != shown.opstamp
            self._adopt(terms, shown.epoch, unfinished=unfinished)
        except _FAILURES as error:
            self._lost("damaged", what_of(error))
            return False
        return True

    def _mend(self, usable: bool) -> None:
        """Bring the index on disk to the store's epoch; build a new one if it is not usable."""
        try:
            if not usable:
                self._start_empty()
            try:
                with self._store.reading():
                    self._replay()
            finally:
                self.release()
        except _FAILURES:
            self._trace.count("terms.unwritable")
            self._index_in_memory()

    def _start_empty(self) -> None:
        self._making.touch(mode=files.FILE_MODE)
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._adopt(TantivyTerms.create(self._folder), 0)

    def _index_in_memory(self) -> None:
        self._adopt(TantivyTerms.volatile(), 0)
        with self._store.reading():
            self._replay()

    def _replay(self, progress: Callable[[int], None] = lambda _: None) -> None:
        """Bring the index to the store's epoch and commit. Idempotent.

        Call it in a reading transaction of the store.
        """
        epoch, since = self._store.epoch(), self._shown
        removed = self._store.removed(since=since) if since else np.empty(0, np.int64)
        for chunk_id in removed.tolist():
            self._terms.delete(chunk_id)
        for done, (chunk_id, words) in enumerate(_terms(self._store.texts(since=since))):
            self._terms.add(chunk_id, words)
            if done % _REPORT_EVERY == 0:
                progress(done)
        self._epoch = epoch
        self._commit()

    def _commit(self) -> None:
        self._terms.commit(self._epoch)
        if not self.in_memory:
            shown = Shown(
                self._store.uuid,
                self._epoch,
                self._store.stamp(self._epoch),
                _opstamp(self._folder),
                VERSION,
            )
            files.replace(self._folder / SHOWN, msgspec.json.encode(shown))
            self._making.unlink(missing_ok=True)
        self._adopt(self._terms, self._epoch)

    def _commit_failed(self) -> None:
        """Keep every chunk findable: the changes are durable in the store.

        The next opening mends the files.
        """
        self._trace.count("terms.commit_failed")
        self._index_in_memory()

    def _due(self) -> bool:
        waited = time.monotonic() - self._since >= self._settings.terms_seconds
        return self._pending > 0 and (waited or self._pending >= self._settings.terms_chunks)


def problem(store: Store, folder: Path) -> str:
    """Why the index in `folder` does not hold what it says of this store; "" if it does.

    Call it in a reading transaction of the store.
    """
    try:
        shown = _read_shown(folder)
        if (reason := _stale(shown, store)) or _opstamp(folder) != shown.opstamp:
            return reason or "its last commit was cut off"
        held = TantivyTerms.open(folder).searcher().ids()
    except _FAILURES as error:
        return what_of(error)
    # chunks removed since may or may not be in it: tantivy's own merges drop them early
    added = store.ids(since=shown.epoch)
    here = np.setdiff1d(store.ids(), added)
    gone = store.removed(since=shown.epoch)
    if len(np.setdiff1d(here, held)) or len(np.setdiff1d(held, np.concatenate([here, gone]))):
        return "it holds other chunks than the store"
    return ""


def _terms(chunks: Iterable[tuple[Chunk, bool]]) -> Iterable[tuple[int, list[str]]]:
    for chunk, title in chunks:
        yield chunk.id, terms_of(indexed_text(chunk, index_title=title))


def _read_shown(folder: Path) -> Shown:
    try:
        return msgspec.json.decode((folder / SHOWN).read_bytes(), type=Shown)
    except (OSError, msgspec.MsgspecError, UnicodeError) as error:
        raise CorruptIndex(f"{folder}: no readable {SHOWN}", fix="It is rebuilt") from error


def _stale(shown: Shown, store: Store) -> str:
    """Why the index shows no state of this store; "" if it does."""
    if shown.uuid != store.uuid:
        return "it belongs to another collection"
    if shown.terms != VERSION:
        return f"its terms are of version {shown.terms}, not {VERSION}"
    return store.unknown_state(shown.epoch, shown.stamp)


def _opstamp(folder: Path) -> int:
    try:
        return int(json.loads((folder / "meta.json").read_bytes())["opstamp"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptIndex(f"{folder}: no readable meta.json", fix="It is rebuilt") from error
