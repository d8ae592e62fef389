"""The keyword side: the term index, and in memory the terms of what it has not committed yet.

The index's commits are dear and therefore grouped; the tail covers the gap, so that an acknowledged
chunk is found by its words at once. `SHOWN` says which state of the store the index shows. It names
tantivy's own commit, which changes at another moment: only where both agree can the index be used.
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

from vivace.errors import CorruptIndex, what_of
from vivace.index import files
from vivace.index.term_tail import TermTail
from vivace.index.terms import TantivyTerms, TermSearcher
from vivace.ingest.chunking import indexed_text
from vivace.settings import Index
from vivace.store.store import Store
from vivace.text.terms import VERSION
from vivace.text.terms import terms as terms_of
from vivace.types import Chunk, Ids

FOLDER = "terms"
SHOWN = "shown.json"
MAKING = "terms.making"
"""Beside the folder until an index that is made anew shows something: till then it is no damage."""
Lost = Callable[[str, str], None]
"""Told when the index could not be used: missing, damaged or stale, and why."""
_TOLD_EVERY = 1024
FAILURES = (CorruptIndex, OSError, ValueError, RuntimeError)
"""What tantivy raises through its binding, and what its files can do."""


def _nothing(_: int) -> None: ...


class Shown(msgspec.Struct, frozen=True):
    """Which state of the store the committed index shows."""

    uuid: str
    epoch: int
    stamp: str
    opstamp: int
    """Of tantivy's commit."""
    terms: int = 1
    """`text.terms.VERSION` of the terms in it."""


@dataclass(frozen=True, slots=True)
class TermState:
    """One state of the keyword side; later ones do not change it."""

    main: TermSearcher
    tail: TermTail
    dirty: bool
    """Whether `main` still holds chunks that have been removed."""


class Keywords:
    """Made by `open`. Belongs to one thread at a time; the states it hands out to any."""

    def __init__(
        self, store: Store, folder: Path, settings: Index, terms: TantivyTerms, epoch: int
    ) -> None:
        self._store = store
        self._folder = folder / FOLDER
        self._settings = settings
        self._terms = terms
        self.shown = epoch
        """The epoch of the committed index."""
        self._epoch = epoch
        self.unfinished = False
        """Whether a commit was cut off: the index may hold more than it says, until a replay."""
        self._tail = TermTail()
        self._dirty = False
        self._main = terms.searcher()
        self._pending = 0
        self._since = 0.0

    @classmethod
    def open(cls, store: Store, folder: Path, settings: Index, lost: Lost) -> Keywords | None:
        """The index on the disk as it was committed; None where it cannot be used."""
        here = folder / FOLDER
        if (folder / MAKING).exists():
            return None
        try:
            if not here.is_dir():
                if store.epoch():
                    lost("missing", "there is none")
                return None
            terms = TantivyTerms.open(here)
            shown = _shown(here)
            if reason := _stale(shown, store):
                lost("stale", reason)
                return None
            keywords = cls(store, folder, settings, terms, shown.epoch)
            keywords.unfinished = _opstamp(here) != shown.opstamp
            return keywords
        except FAILURES as error:
            lost("damaged", what_of(error))
            return None

    @classmethod
    def anew(cls, store: Store, folder: Path, settings: Index) -> Keywords:
        """An empty index in place of what is on the disk. The caller holds the write lock.

        Raises:
            OSError, ValueError: it cannot be written.
        """
        here = folder / FOLDER
        (folder / MAKING).touch()
        if here.exists():
            shutil.rmtree(here)
        return cls(store, folder, settings, TantivyTerms.create(here), 0)

    @classmethod
    def volatile(cls, store: Store, folder: Path, settings: Index) -> Keywords:
        """An empty index that dies with the process."""
        return cls(store, folder, settings, TantivyTerms.volatile(), 0)

    @property
    def in_memory(self) -> bool:
        return self._terms.in_memory

    @property
    def pending(self) -> int:
        """Chunks added or removed since the last commit."""
        return self._pending

    def state(self) -> TermState:
        return TermState(self._main, self._tail, self._dirty)

    def change(self, chunks: Sequence[tuple[Chunk, bool]], removed: Ids, epoch: int) -> None:
        """Show the chunks (with: is the title indexed?) and drop the removed ids.

        Commits where enough has gathered or waited long enough; raises what `commit` raises.
        """
        added = list(_terms(chunks))
        for id in removed.tolist():
            self._terms.delete(id)
        for id, words in added:
            self._terms.add(id, words)
        if not self._pending:
            self._since = time.monotonic()
        self._pending += len(added) + len(removed)
        self._epoch = epoch
        if self._due():
            self.commit()
            return
        self._dirty = self._dirty or bool(np.any(~np.isin(removed, self._tail.ids)))
        self._tail = self._tail.changed(added, removed)

    def commit(self) -> None:
        """Move everything into the index, durable.

        Raises:
            OSError, ValueError, RuntimeError: it cannot be written.
        """
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
            self._folder.with_name(MAKING).unlink(missing_ok=True)
        self.shown = self._epoch
        self._main, self._tail = self._terms.searcher(), TermTail()
        self._dirty, self._pending, self.unfinished = False, 0, False

    def replay(self, told: Callable[[int], None] = _nothing) -> None:
        """Bring the index to the store's epoch and commit. Doing it twice changes nothing.

        Call it in a reading transaction of the store. `told` learns how many chunks are done.
        """
        epoch, since = self._store.epoch(), self.shown
        removed = self._store.removed(since=since) if since else np.empty(0, np.int64)
        for id in removed.tolist():
            self._terms.delete(id)
        for done, (id, words) in enumerate(_terms(self._store.texts(since=since))):
            self._terms.add(id, words)
            if done % _TOLD_EVERY == 0:
                told(done)
        self._epoch = epoch
        self.commit()

    def follow(self) -> bool:
        """Take over what another process has committed; whether there was anything.

        Call it before the transaction of the store that the state is to agree with: the store is
        never behind the index.
        """
        try:
            shown = _shown(self._folder)
            if (shown.epoch, False) == (self.shown, self.unfinished) or _stale(shown, self._store):
                return False
            if _opstamp(self._folder) != shown.opstamp:
                return False  # a commit is under way: the tail covers it until the next time
            self._terms.follow()
            if _opstamp(self._folder) != shown.opstamp:
                return False
        except FAILURES:
            return False
        self.shown, self._main = shown.epoch, self._terms.searcher()
        self.unfinished = False
        return True

    def catch_up(self, *, anew: bool) -> None:
        """Bring the tail to the store's epoch, without writing: what a reading process does."""
        if self.in_memory:
            if 0 < self.shown < self._store.trimmed():
                self._terms, self.shown = TantivyTerms.volatile(), 0
            self.replay()
            return
        epoch, trimmed = self._store.epoch(), self._store.trimmed()
        anew = anew or self._epoch < trimmed
        since = self.shown if anew else self._epoch
        removed = self._store.removed(since=max(since, trimmed))
        tail = TermTail() if anew else self._tail
        self._tail = tail.changed(_terms(self._store.texts(since=since)), removed)
        # what an unfinished commit added is in the tail too, and found once
        self._dirty = (
            self.unfinished
            or self.shown < trimmed
            or bool(len(self._store.removed(since=self.shown)))
        )
        self._epoch = epoch

    def release(self) -> None:
        """Let another process write."""
        self._terms.release()

    def _due(self) -> bool:
        waited = time.monotonic() - self._since >= self._settings.terms_seconds
        return self._pending > 0 and (waited or self._pending >= self._settings.terms_chunks)

    def has_removed(self) -> bool:
        """Whether the committed files still count chunks that were removed in their statistics."""
        try:
            meta = json.loads((self._folder / "meta.json").read_bytes())
            return any(segment.get("deletes") for segment in meta["segments"])
        except (OSError, ValueError, KeyError, TypeError):
            return True


def problem(store: Store, folder: Path) -> str:
    """Why the index in `folder` does not hold what it says of this store; "" if it does.

    Call it in a reading transaction of the store.
    """
    try:
        shown = _shown(folder)
        if (reason := _stale(shown, store)) or _opstamp(folder) != shown.opstamp:
            return reason or "its last commit was cut off"
        held = TantivyTerms.open(folder).searcher().ids()
    except FAILURES as error:
        return what_of(error)
    # what was removed since may be in it or not: its own merges drop it early
    added = store.ids(since=shown.epoch)
    here = np.setdiff1d(store.ids(), added)
    gone = store.removed(since=shown.epoch)
    if len(np.setdiff1d(here, held)) or len(np.setdiff1d(held, np.concatenate([here, gone]))):
        return "it holds other chunks than the store"
    return ""


def _terms(chunks: Iterable[tuple[Chunk, bool]]) -> Iterable[tuple[int, list[str]]]:
    for chunk, title in chunks:
        yield chunk.id, terms_of(indexed_text(chunk, index_title=title))


def _shown(folder: Path) -> Shown:
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
    if shown.epoch > store.epoch():
        return f"it shows epoch {shown.epoch}; the store is at {store.epoch()}"
    if shown.epoch < store.trimmed():
        return f"it shows epoch {shown.epoch}, which the store has forgotten"
    if shown.stamp != store.stamp(shown.epoch):
        return f"its epoch {shown.epoch} is of another history of the store"
    return ""


def _opstamp(folder: Path) -> int:
    try:
        return int(json.loads((folder / "meta.json").read_bytes())["opstamp"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptIndex(f"{folder}: no readable meta.json", fix="It is rebuilt") from error
