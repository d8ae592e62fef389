"""The store and the indexes derived from it, kept in step."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vivace.collection import manifest as manifests
from vivace.collection import recovery, sealing, verification
from vivace.collection.background import Background
from vivace.collection.dense import Dense, Segment
from vivace.collection.keywords import FAILURES, Keywords
from vivace.collection.manifest import Manifest, SegmentEntry
from vivace.collection.recovery import Problem
from vivace.collection.snapshot import Snapshot
from vivace.errors import CollectionLocked, CorruptIndex, EmbedderMismatch, StoreUnwritable
from vivace.settings import Index
from vivace.store.changes import Change, Committed
from vivace.store.lock import WriteLock
from vivace.store.store import Store
from vivace.trace import Trace
from vivace.types import Decision, Finding, Halves, Ids, UpkeepProgress

LOCK = "write.lock"
Progress: TypeAlias = Callable[[UpkeepProgress], None]
Decide: TypeAlias = Callable[[Decision], None]
_DEFAULTS = Index()


def _untold(_: object) -> None: ...


class Corpus:
    """What is findable now. `snapshot` from any thread; `apply` from one, inside `writing`.

    A change is in the store first, durable, and then in a new snapshot of both indexes; only then
    is it acknowledged. Sealing and merging go on behind, on a thread of their own, and publish by
    swapping the snapshot once the manifest is durable. A crash anywhere leaves files that nothing
    names, and is replayed from the store.
    """

    def __init__(
        self, store: Store, folder: Path, trace: Trace, settings: Index, decide: Decide
    ) -> None:
        self.store = store
        self.folder = folder
        self._segments = folder / manifests.FOLDER
        self._trace = trace
        self._settings = settings
        self._decide = decide
        self._lock = WriteLock(folder / LOCK)
        self._holders = 0
        self._holding = threading.Lock()
        """Taken before `_changing` where both are."""
        self._changing = threading.Lock()
        """Of the state; never held while vectors are read or written."""
        self._working = threading.Lock()
        """Of segments: one seal or merge at a time. Taken before the others."""
        self._background = Background(self._tend)
        self._removed_since = 0
        """Chunks, since the manifest was written: whoever opens it has to replay them."""
        self._manifest: Manifest | None = None
        self._keywords = self._opened_keywords()
        problems = self._load({}, anew=True)
        if problems:
            self._tell(problems)
        if problems or sealing.next_job(self._dense, settings):
            self._tend()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        embedder: str,
        dim: int,
        trace: Trace,
        settings: Index = _DEFAULTS,
        create: bool = True,
        decide: Decide = _untold,
    ) -> Corpus:
        """Open or make the collection in `folder`; raises what `Store.open` raises."""
        store = Store.open(
            folder, embedder=embedder, dim=dim, metric=settings.metric, create=create
        )
        try:
            return cls(store, folder, trace, settings, decide)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Finish the sealing that was begun, let go of the files."""
        self._background.close()
        with self._changing:
            try:
                self._keywords.release()
            finally:
                self._lock.release()
                self.store.close()

    def settle(self) -> None:
        """Wait until nothing is left to be sealed or merged."""
        self._background.drain()

    def snapshot(self) -> Snapshot:
        """The newest state, including what other processes have committed.

        Raises:
            EmbedderMismatch: another process has given the collection another embedder.
        """
        if self.store.epoch() != self._current.epoch and self._changing.acquire(blocking=False):
            # whoever does not get the lock searches the last state instead of waiting
            try:
                self._refresh()
            finally:
                self._changing.release()
        return self._current

    # -- writing ----------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the collection's write lock, caught up with whoever held it before.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the folder cannot be written.
        """
        with self._held():
            with self._changing:
                self._begin_terms()
            try:
                yield
            finally:
                with self._changing:
                    try:
                        if self._keywords.pending:
                            self._commit_terms()
                            self._publish(self._current.epoch, self._dense)
                    finally:
                        self._keywords.release()

    def apply(self, changes: Sequence[Change]) -> Committed:
        """Make the changes durable and findable.

        Raises:
            StoreUnwritable: the disk is full or read-only; nothing was changed.
            BadInput: a change that cannot be stored; nothing was changed.
        """
        with self._changing:
            committed = self.store.commit(changes)
            dense = self._dense.changed(committed.added, committed.vectors, committed.removed)
            self._removed_since += len(committed.removed)
            if len(committed.added):
                self._next_id = int(committed.added[-1]) + 1
            try:
                self._keywords.change(committed.chunks, committed.removed, committed.epoch)
                if self._keywords.due:
                    self._keywords.commit()
            except FAILURES:
                # the change is durable: keep it findable, and let the next opening mend the files
                self._replace_terms("terms.commit_failed")
            self._publish(committed.epoch, dense)
        if self._to_do():
            self._background.wake()
        return committed

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the write lock, together with others of this process, on the newest state."""
        with self._holding:
            if not self._holders:
                self._lock.acquire()
                try:
                    with self._changing:
                        self._refresh()
                    self._clean()
                except BaseException:
                    self._lock.release()
                    raise
            self._holders += 1
        try:
            yield
        finally:
            with self._holding:
                self._holders -= 1
                if not self._holders:
                    self._lock.release()

    # -- sealing and merging ----------------------------------------------------------------

    def _to_do(self) -> bool:
        return (
            self._removed_since >= max(self._settings.seal_chunks, len(self._dense) // 100)
            or sealing.next_job(self._dense, self._settings) is not None
        )

    def _tend(self) -> None:
        """Do what there is to do; if somebody else is writing, it is theirs."""
        try:
            with self._working, self._held():
                while self._to_do():
                    job = sealing.next_job(self._dense, self._settings)
                    self._run(job)
        except (CollectionLocked, StoreUnwritable):
            self._trace.count("segments.left_to_others")
        except (OSError, CorruptIndex):
            self._trace.count("segments.failed")

    def _run(self, job: sealing.Job | None) -> None:
        """One job to its end; without one, the manifest alone. Inside `_working` and `_held`."""
        new: Segment | None = None
        if job is not None:
            with self._trace.span(f"segments.{job.reason}"):
                new = sealing.write(
                    job,
                    self._segments,
                    dim=self.store.dim,
                    metric=self.store.metric,
                    settings=self._settings,
                )
            self._trace.count("segments.rows_written", len(new.index.ids) if new else 0)
            if new is not None:
                self._tell_family(new)
        with self._changing:
            dense = self._dense if job is None else self._dense.replaced(job.first, job.last, new)
            if all(s.sealed for s in dense.segments[: len(dense.segments) - len(dense.tail)]):
                self._write_manifest(dense)
            self._publish(self._current.epoch, dense)
        if (shown := self._shown()) > self.store.trimmed():
            self.store.trim(shown)
        self._clean()

    def _write_manifest(self, dense: Dense) -> None:
        identity, epoch = self.store.identity, self._current.epoch
        entries = tuple(
            SegmentEntry(
                s.sealed.name,
                s.first,
                s.last,
                s.sealed.files,
                manifests.dead_bits(s.index.ids, dense.live),
            )
            for s in dense.segments
            if s.sealed is not None
        )
        manifest = Manifest(
            identity.uuid,
            identity.embedder,
            identity.dim,
            identity.metric,
            self.store.stored_identity().generation,
            epoch,
            self.store.stamp(epoch),
            dense.tail[0].first if dense.tail else self._next_id,
            entries,
        )
        manifests.write(self.folder, manifest)
        self._manifest, self._signature = manifest, _signature(self.folder)
        self._removed_since = 0

    def _shown(self) -> int:
        """The epoch up to which both sides are durable without the store's help."""
        shown = 0 if self._keywords.in_memory else self._keywords.shown
        return min(shown, self._manifest.epoch if self._manifest else 0)

    def _clean(self) -> None:
        """Remove the folders of segments that the manifest does not name."""
        if not self._segments.is_dir():
            return
        try:
            manifest = manifests.read(self.folder)
        except CorruptIndex:
            return
        named = {entry.name for entry in manifest.segments} if manifest else set()
        named |= {s.sealed.name for s in self._dense.segments if s.sealed}
        for path in self._segments.iterdir():
            if path.name not in named:
                shutil.rmtree(path, ignore_errors=True)

    # -- the state --------------------------------------------------------------------------

    def _publish(self, epoch: int, dense: Dense) -> None:
        self._dense = dense
        before = getattr(self, "_current", None)
        self._current = Snapshot(self.store, epoch, dense, self._keywords.state(), before=before)

    def _load(self, known: dict[str, Segment], *, anew: bool) -> tuple[Problem, ...]:
        """Take the whole state over from the files and the store."""
        self._signature = _signature(self.folder)
        with recovery.load(self.store, self.folder, known=known) as loaded:
            self._keywords.catch_up(anew=anew)
            self._next_id = self.store.next_id()
            self._generation = self.store.stored_identity().generation
        self._manifest = loaded.manifest
        self._publish(loaded.epoch, loaded.dense)
        return loaded.problems

    def _refresh(self) -> None:
        """Catch up with other processes. Caller holds `_changing`."""
        self._check_identity()
        since = self._current.epoch
        followed = not self._keywords.in_memory and self._keywords.follow()
        signature = _signature(self.folder)
        if signature != self._signature or self._replaced_vectors():
            known = {s.sealed.name: s for s in self._dense.segments if s.sealed}
            if problems := self._load(known, anew=followed):
                self._tell(problems)
            return
        with self.store.reading():
            epoch = self.store.epoch()
            overtaken = since < self.store.trimmed()
            if not overtaken and (epoch, followed) != (since, False):
                dense = self._dense.changed(*self._added(), self.store.removed(since=since))
                self._next_id = self.store.next_id()
                self._keywords.catch_up(anew=followed)
                self._publish(epoch, dense)
        if overtaken:
            known = {s.sealed.name: s for s in self._dense.segments if s.sealed}
            self._tell(self._load(known, anew=True))

    def _added(self) -> tuple[Ids, Halves]:
        batches = list(self.store.vectors(first=self._next_id))
        if not batches:
            return np.empty(0, np.int64), np.empty((0, self.store.dim), np.float16)
        return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])

    def _replaced_vectors(self) -> bool:
        return self.store.stored_identity().generation != self._generation

    def _check_identity(self) -> None:
        now, then = self.store.stored_identity(), self.store.identity
        if (now.embedder, now.dim) != (then.embedder, then.dim):
            raise EmbedderMismatch(
                f"{self.folder} has been given the embedder {now.embedder} ({now.dim} dimensions)"
                f" since it was opened with {then.embedder} ({then.dim})",
                fix="Open it again with embed.model set to that",
            )

    # -- the keyword side -------------------------------------------------------------------

    def _opened_keywords(self) -> Keywords:
        """The term index as the store has it: opened, or built anew."""
        found = self._committed_keywords()
        if found is not None and not found.unfinished:
            # a tail may be behind it, but not for ever
            if self.store.count(since=found.shown) <= self._settings.terms_chunks:
                return found
        try:
            self._lock.acquire()
        except (CollectionLocked, StoreUnwritable):
            return found or self._volatile_keywords()
        try:
            return self._mended_keywords(found)
        finally:
            self._lock.release()

    def _committed_keywords(self) -> Keywords | None:
        def lost(kind: str, reason: str) -> None:
            self._tell((Problem(kind, "terms", reason),))

        return Keywords.open(self.store, self.folder, self._settings, lost)

    def _mended_keywords(self, found: Keywords | None) -> Keywords:
        """The index on the disk at the store's epoch. Caller holds the write lock."""
        try:
            keywords = found or Keywords.anew(self.store, self.folder, self._settings)
            try:
                with self.store.reading():
                    keywords.replay()
            finally:
                keywords.release()
            return keywords
        except FAILURES:
            self._trace.count("terms.unwritable")
            return self._volatile_keywords()

    def _volatile_keywords(self) -> Keywords:
        keywords = Keywords.volatile(self.store, self.folder, self._settings)
        with self.store.reading():
            keywords.replay()
        return keywords

    def _begin_terms(self) -> None:
        """The index on the disk, at the newest epoch, before it is written to."""
        keywords = self._keywords
        if keywords.in_memory:
            keywords = self._mended_keywords(self._committed_keywords())
        elif keywords.unfinished or keywords.shown < self._current.epoch:
            keywords = self._mended_keywords(keywords)
        if keywords is not self._keywords or keywords.shown == self._current.epoch:
            self._keywords = keywords
            self._publish(self._current.epoch, self._dense)

    def _commit_terms(self) -> None:
        try:
            self._keywords.commit()
        except FAILURES:
            self._replace_terms("terms.commit_failed")

    def _replace_terms(self, counted: str) -> None:
        self._trace.count(counted)
        self._keywords = self._volatile_keywords()

    # -- upkeep: outside `writing`, from any thread -------------------------------------------

    def verify(self, progress: Progress) -> list[Finding]:
        """Everything that is wrong with the files; nothing is changed. `progress` may raise."""
        return verification.findings(self.store, self.folder, progress)

    def rebuild(self, progress: Progress, what: str | None = None) -> None:
        """Make every index anew from the store; `what` is segments, terms, or None for both.

        `progress` may raise to stop it: what was found before is still found.

        Raises:
            CollectionLocked, StoreUnwritable: as `writing` does.
        """
        with self._working, self.writing():
            if what in (None, "segments"):
                with self._changing:
                    with self.store.reading():
                        dense = recovery.from_store(self.store)
                    self._manifest = None
                    self._publish(self._current.epoch, dense)
                self._compact_segments(progress, "rebuild")
            if what in (None, "terms"):
                self._rebuild_terms(progress)

    def compact(self, progress: Progress) -> None:
        """As few segments as can be, without removed rows; the same of the terms and the store.

        `progress` may raise to stop it. Raises what `rebuild` raises.
        """
        with self._working, self.writing():
            with self._changing:
                self._commit_terms()
                self._publish(self._current.epoch, self._dense)
            self._compact_segments(progress, "compact")
            if self._keywords.has_removed():
                self._rebuild_terms(progress)
            progress(UpkeepProgress("store", 0, 1))
            self.store.compact()
            progress(UpkeepProgress("store", 1, 1))

    def _compact_segments(self, progress: Progress, step: str) -> None:
        total, done = len(self._dense), 0
        progress(UpkeepProgress(f"{step}: segments", done, total))
        for job in sealing.full_jobs(self._dense):
            self._run(replace(job, live=self._dense.live))
            done += sum(len(s) for s in job.inputs)
            progress(UpkeepProgress(f"{step}: segments", min(done, total), total))
        if self._manifest is None or self._manifest.epoch < self._current.epoch:
            self._run(None)

    def _rebuild_terms(self, progress: Progress) -> None:
        with self._changing:
            total = self.store.count()
            self._keywords.release()
            keywords = Keywords.anew(self.store, self.folder, self._settings)
            try:
                with self.store.reading():
                    keywords.replay(lambda at: progress(UpkeepProgress("terms", at, total)))
            except BaseException:
                keywords.release()
                self._keywords = self._volatile_keywords()
                self._publish(self._current.epoch, self._dense)
                raise
            self._keywords = keywords
            self._publish(self._current.epoch, self._dense)

    # -- what is told -------------------------------------------------------------------------

    def _tell(self, problems: Sequence[Problem]) -> None:
        for problem in problems:
            side = "terms" if problem.what == "terms" else "segments"
            self._trace.count(f"{side}.{problem.kind}")
            reason = f"{problem.what} is {problem.kind}: {problem.reason}."
            self._decide(Decision("rebuild", problem.what, "rebuilt from the store", reason))

    def _tell_family(self, new: Segment) -> None:
        family = new.index.family
        if any(s.sealed and s.index.family == family for s in self._dense.segments):
            return
        auto = self._settings.family == "auto"
        self._decide(
            Decision(
                "default",
                None,
                family,
                f"Exact search answers within a millisecond up to {sealing.FLAT_UP_TO:,} chunks a"
                " segment; beyond, codes with exact rescoring do."
                if auto
                else "index.family says so.",
                evidence={"chunks": len(new.index.ids), "at": time.time()},
            )
        )


def _signature(folder: Path) -> tuple[int, int, int]:
    """Of the manifest's file: it is replaced, never changed."""
    try:
        status = os.stat(folder / manifests.FILE)
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)
