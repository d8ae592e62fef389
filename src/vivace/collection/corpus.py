"""The store and the indexes derived from it, kept in step."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vivace.collection.dense import Dense
from vivace.collection.snapshot import Snapshot
from vivace.errors import CollectionLocked, CorruptIndex, StoreUnwritable
from vivace.index.terms import TantivyTerms, damage
from vivace.ingest.chunking import indexed_text
from vivace.store.changes import Change, Committed
from vivace.store.lock import WriteLock
from vivace.store.store import Store
from vivace.text.terms import terms as terms_of
from vivace.trace import Trace
from vivace.types import Chunk, Decision, Finding, Ids, UpkeepProgress

Progress: TypeAlias = Callable[[UpkeepProgress], None]
Decide: TypeAlias = Callable[[Decision], None]
LOCK = "write.lock"
TERMS = "terms"
_REBUILD = "vivace rebuild"
_FOLLOW_SECONDS = 0.02
"""How often at most to look whether another process's terms have caught up with its store."""


class Corpus:
    """What is findable now. `snapshot` from any thread; `apply` from one, inside `writing`.

    A change is in the store first, durable, and then in both indexes; only then is the new snapshot
    published and the change acknowledged. A crash in between is replayed from the store.
    """

    def __init__(self, store: Store, folder: Path, trace: Trace, decide: Decide) -> None:
        self.store = store
        self.folder = folder
        self._trace = trace
        self._decide = decide
        self._lock = WriteLock(folder / LOCK)
        self._refreshing = threading.Lock()
        self._next_follow = 0.0
        self._generation = store.identity.generation
        self._terms = self._open_terms()
        with self.store.reading():
            epoch, dense = self.store.epoch(), self._dense_since(Dense(), 0)
        self._dense = dense
        self._current = Snapshot(store, epoch, dense, self._terms.searcher())

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        embedder: str,
        dim: int,
        trace: Trace,
        create: bool = True,
        decide: Decide = lambda _: None,
    ) -> Corpus:
        """Open or make the collection in `folder`; raises what `Store.open` raises."""
        store = Store.open(folder, embedder=embedder, dim=dim, create=create)
        try:
            return cls(store, folder, trace, decide)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        with self._refreshing:
            try:
                self._terms.release()
            finally:
                self._lock.release()
                self.store.close()

    def snapshot(self) -> Snapshot:
        """The newest state, including what other processes have committed."""
        if self._behind() and self._refreshing.acquire(blocking=False):
            # whoever does not get the lock searches the last state instead of waiting
            try:
                self._refresh()
            finally:
                self._refreshing.release()
        return self._current

    def _behind(self) -> bool:
        if self.store.epoch() != self._current.epoch:
            return True
        # another process commits to the store first: its terms follow within milliseconds
        return self._terms.epoch < self._current.epoch and time.monotonic() >= self._next_follow

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the collection's write lock, caught up with whoever held it before.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the folder cannot be written.
        """
        self._lock.acquire()
        try:
            with self._refreshing:
                self._refresh()
                if self._terms.epoch != self._current.epoch:
                    self._replay(self._terms)
                    self._publish(self._current.epoch, self._dense)
            yield
        finally:
            try:
                with self._refreshing:
                    self._terms.release()
            finally:
                self._lock.release()

    def apply(self, changes: Sequence[Change]) -> Committed:
        """Make the changes durable and findable.

        Raises:
            StoreUnwritable: the disk is full or read-only; nothing was changed.
            BadInput: a change that cannot be stored; nothing was changed.
        """
        with self._refreshing:
            committed = self.store.commit(changes)
            dense = self._dense.changed(committed.added, committed.vectors, committed.removed)
            try:
                self._index_terms(self._terms, committed.removed, committed.chunks)
                self._terms.commit(committed.epoch)
            except (OSError, ValueError, RuntimeError):
                # the change is durable: keep it findable, and let the next opening mend the files
                self._trace.count("terms.commit_failed")
                self._terms = self._rebuilt_terms(TantivyTerms.volatile())
            self._publish(committed.epoch, dense)
            return committed

    # -- upkeep: outside `writing`, from any thread ----------------------------------------

    def verify(self, progress: Progress) -> list[Finding]:
        """Everything that is wrong with the files; nothing is changed."""
        progress(UpkeepProgress("terms", 0, 1))
        bad = damage(self.folder / TERMS) if (self.folder / TERMS).exists() else [TERMS]
        progress(UpkeepProgress("terms", 1, 1))
        return [Finding(f"{TERMS}/{name}", "missing or damaged", _REBUILD) for name in bad]

    def rebuild(self, progress: Progress, what: str | None = None) -> None:
        """Make every index anew from the store."""
        with self.writing(), self._refreshing:
            progress(UpkeepProgress("terms", 0, 1))
            self._terms = self._mended_terms(None, self.folder / TERMS)
            dense = self._dense_since(Dense(), 0)
            self._publish(self._current.epoch, dense)
            progress(UpkeepProgress("terms", 1, 1))

    def compact(self, progress: Progress) -> None:
        """Merge what is in several pieces into one, without what has been removed."""
        with self.writing(), self._refreshing:
            self._publish(self._current.epoch, self._dense_since(Dense(), 0))

    def _publish(self, epoch: int, dense: Dense) -> None:
        self._dense = dense
        self._current = Snapshot(self.store, epoch, dense, self._terms.searcher())

    def _refresh(self) -> None:
        """Catch up with other processes. Caller holds `_refreshing`."""
        since = self._current.epoch
        with self.store.reading():
            epoch = self.store.epoch()
            dense = self._dense
            if epoch != since:
                generation = self.store.stored_identity().generation
                stale, self._generation = generation != self._generation, generation
                dense = self._dense_since(*((Dense(), 0) if stale else (dense, since)))
        self._next_follow = time.monotonic() + _FOLLOW_SECONDS
        shown = self._terms.epoch
        try:
            if self._terms.in_memory:
                self._replay(self._terms)
            else:
                self._terms.follow()
        except (CorruptIndex, OSError, ValueError):
            self._trace.count("terms.follow_failed")
        if (epoch, self._terms.epoch) != (since, shown):
            self._publish(epoch, dense)

    def _dense_since(self, dense: Dense, since: int) -> Dense:
        first = max([int(s.index.ids[-1]) + 1 for s in dense.segments], default=0)
        batches = list(self.store.vectors(first=first))
        ids = np.concatenate([b[0] for b in batches]) if batches else np.empty(0, np.int64)
        vectors = (
            np.concatenate([b[1] for b in batches])
            if batches
            else np.empty((0, self.store.dim), np.float16)
        )
        removed: Ids = self.store.removed(since=since) if since else np.empty(0, np.int64)
        return dense.changed(ids, vectors, removed)

    def _open_terms(self) -> TantivyTerms:
        """The term index as the store has it: opened, caught up, or built anew."""
        folder = self.folder / TERMS
        terms: TantivyTerms | None = None
        try:
            terms = TantivyTerms.open(folder)
            if terms.epoch == self.store.epoch():
                return terms
            stale = "terms.stale"
        except CorruptIndex:
            stale = "terms.damaged" if folder.exists() else "terms.missing"
        except (OSError, ValueError):
            stale = "terms.unreadable"
        try:
            self._lock.acquire()
        except CollectionLocked:
            # a writer at work is about to commit, and is followed
            return terms or self._rebuilt_terms(TantivyTerms.volatile())
        except StoreUnwritable:
            return self._rebuilt_terms(TantivyTerms.volatile())
        try:
            if self.store.epoch():
                self._trace.count(stale)
                if terms is None:
                    reason = f"The term index was {stale.partition('.')[2]}."
                    self._decide(Decision("rebuild", TERMS, TERMS, reason))
            return self._mended_terms(terms, folder)
        except (OSError, ValueError):
            self._trace.count("terms.unwritable")
            return self._rebuilt_terms(TantivyTerms.volatile())
        finally:
            self._lock.release()

    def _mended_terms(self, terms: TantivyTerms | None, folder: Path) -> TantivyTerms:
        """The index on disk, caught up with the store. Caller holds the write lock."""
        if terms is None:
            if folder.exists():
                shutil.rmtree(folder)
            terms = TantivyTerms.create(folder)
        try:
            self._replay(terms)
        finally:
            terms.release()
        return terms

    def _rebuilt_terms(self, terms: TantivyTerms) -> TantivyTerms:
        self._replay(terms)
        return terms

    def _replay(self, terms: TantivyTerms) -> None:
        """Bring `terms` to the store's epoch. Doing it twice changes nothing."""
        with self.store.reading():
            epoch, since = self.store.epoch(), terms.epoch
            removed = self.store.removed(since=since) if since else np.empty(0, np.int64)
            self._index_terms(terms, removed, self.store.texts(since=since))
        terms.commit(epoch)

    def _index_terms(
        self,
        terms: TantivyTerms,
        removed: Ids,
        chunks: Sequence[tuple[Chunk, bool]] | Iterator[tuple[Chunk, bool]],
    ) -> None:
        for id in removed.tolist():
            terms.delete(id)
        for chunk, title_indexed in chunks:
            terms.add(chunk.id, terms_of(indexed_text(chunk, index_title=title_indexed)))
