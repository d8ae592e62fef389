"""The store and the indexes derived from it, kept in step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from vivace.collection import recovery, sealing, term_recovery, verification
from vivace.collection.background import Background
from vivace.collection.dense import Dense, Segment
from vivace.collection.keywords import FAILURES, Keywords
from vivace.collection.plan_state import PlanState, StoredPlan
from vivace.collection.recovery import Problem
from vivace.collection.segment_directory import SegmentDirectory
from vivace.collection.snapshot import Snapshot
from vivace.errors import CollectionLocked, CorruptIndex, MissingExtra, StoreError, StoreUnwritable
from vivace.index.flat import FlatIndex
from vivace.run.background import BackgroundExecutor
from vivace.settings import Index
from vivace.store.changes import Change, Committed
from vivace.store.lock import WriteLock
from vivace.store.store import Store
from vivace.trace import Trace
from vivace.types import Decision, Finding, UpkeepProgress

LOCK = "write.lock"
Progress: TypeAlias = Callable[[UpkeepProgress], None]
Decide: TypeAlias = Callable[[Decision], None]
_DEFAULTS = Index()


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
        self._directory = SegmentDirectory(store, folder)
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
        self.executor = BackgroundExecutor()
        self.background = Background(self._tend, self.executor)
        self._removed_since = 0
        """Chunks, since the manifest was written: whoever opens it has to replay them."""
        self._plans = PlanState(folder, settings, trace, decide)
        self._keywords = term_recovery.opened(
            store, folder, settings, trace, self._lock, self._lost_terms
        )
        problems = self._load({}, anew=True)
        if problems:
            self._tell(problems)
        if problems or self._to_do():
            self._tend(mend=bool(problems), opening=True)

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
        decide: Decide = lambda _: None,
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
        self.background.close()
        self.executor.close()
        with self._changing:
            try:
                self._keywords.release()
            finally:
                self._lock.release()
                self.store.close()

    def settle(self) -> None:
        """Wait until nothing is left to be sealed or merged."""
        self.background.drain()

    def snapshot(self) -> Snapshot:
        """The newest state, including what other processes have committed.

        Raises:
            EmbedderMismatch: another process has given the collection another embedder.
        """
        if self.settled() is None and self._changing.acquire(blocking=False):
            # whoever does not get the lock searches the last state instead of waiting
            try:
                self._refresh()
            finally:
                self._changing.release()
        return self._current

    def settled(self) -> Snapshot | None:
        """What `snapshot` returns, in microseconds; None where that has to catch up. Raises so."""
        news = self.store.epoch() != self._current.epoch or self._plans.maybe_changed()
        return None if news else self._current

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
            except FAILURES:
                # the change is durable: keep it findable, and let the next opening mend the files
                self._replace_terms("terms.commit_failed")
            self._publish(committed.epoch, dense)
        if self._to_do():
            self.background.wake()
        return committed

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the write lock, together with others of this process, on the newest state."""
        with self._holding:
            if not self._holders:
                self._lock.acquire()
                try:
                    self._directory.remove_unfinished()
                    with self._changing:
                        self._refresh()
                    self._directory.clean(self._dense)
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

    # -- the plan -----------------------------------------------------------------------------

    @property
    def stored_plan(self) -> StoredPlan | None:
        """What is searched and sealed by; None before any tuning."""
        return self._plans.stored

    def set_plan(self, stored: StoredPlan) -> None:
        """Search by another plan from now on, and seal by it; nothing is built.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the folder cannot be written. The plan before still holds.
        """
        with self._held(), self._changing:
            self._plans.keep(stored)
            self._publish(self._current.epoch, self._dense)

    def adopt_plan(self, stored: StoredPlan, *, instead_of: StoredPlan | None) -> None:
        """As `set_plan`, at once, and kept on the disk only if it can be; never raises.

        Where another process has kept a plan meanwhile, that one holds and not this.
        """
        with self._changing:
            self._plans.refresh()
            if self._plans.stored != instead_of:
                self._publish(self._current.epoch, self._dense)
                return
            self._plans.adopt(stored)
            self._publish(self._current.epoch, self._dense)
        try:
            self.set_plan(stored)
        except StoreError:
            # a writer elsewhere, or a folder that cannot be written: it lasts as long as this
            self._trace.count("plan.unwritten")

    def rows(self) -> AbstractContextManager[FlatIndex]:
        """See `SegmentDirectory.rows`."""
        return self._directory.rows(self._dense)

    # -- sealing and merging ----------------------------------------------------------------

    def _to_do(self) -> bool:
        return (
            self._removed_since >= max(self._settings.seal_chunks, len(self._dense) // 100)
            or self._next_job() is not None
        )

    def _next_job(self) -> sealing.Job | None:
        return sealing.next_job(self._dense, self._plans.policy)

    def _tend(self, *, mend: bool = False, opening: bool = False) -> None:
        """Do what there is to do; if somebody else is writing, it is theirs."""
        try:
            with self._working, self._held():
                try:
                    while self._to_do():
                        job = self._next_job()
                        if opening and job is not None and job.reason == sealing.BY_PLAN:
                            # everything is found, if slower: nobody has to wait for it
                            self.background.wake()
                            break
                        self._run(job)
                    if mend:
                        self._run(None)
                except (OSError, CorruptIndex):
                    # everything is still found: in the tail, or in the segments to be merged
                    self._trace.count("segments.failed")
                    self._directory.clean(self._dense)
        except (CollectionLocked, StoreUnwritable):
            self._trace.count("segments.left_to_others")
        except StoreError:  # whoever searches or writes meets it too, and is told
            self._trace.count("segments.failed")

    def _run(self, job: sealing.Job | None) -> None:
        """One job to its end; without one, the manifest alone. Inside `_working` and `_held`."""
        new: Segment | None = None
        if job is not None:
            with self._trace.span(f"segments.{job.reason}"):
                new = self._written(job)
            self._trace.count("segments.rows_written", len(new.index.ids) if new else 0)
            if new is not None:
                here = {s.index.family for s in self._dense.segments if s.sealed}
                self._plans.explain(new, here)
        with self._changing:
            dense = self._dense if job is None else self._dense.replaced(job.first, job.last, new)
            self._directory.publish(dense, self._current.epoch, self._next_id)
            self._removed_since = 0
            self._publish(self._current.epoch, dense)
        shown = 0 if self._keywords.in_memory else self._keywords.shown
        if (through := min(shown, self._directory.epoch)) > self.store.trimmed():
            self.store.trim(through)
        self._directory.clean(self._dense)

    def _written(self, job: sealing.Job) -> Segment | None:
        while True:
            try:
                return sealing.write(
                    job,
                    self._directory.folder,
                    dim=self.store.dim,
                    metric=self.store.metric,
                    policy=self._plans.policy,
                )
            except MissingExtra as error:  # never of the family it falls back to
                self._plans.exclude_family(error)

    # -- the state --------------------------------------------------------------------------

    def _publish(self, epoch: int, dense: Dense) -> None:
        self._dense = dense = dense.with_plan(self._plans.plan)
        before = getattr(self, "_current", None)
        self._current = Snapshot(self.store, epoch, dense, self._keywords.state(), before=before)

    def _load(self, known: dict[str, Segment], *, anew: bool) -> tuple[Problem, ...]:
        """Take the whole state over from the files and the store."""
        self._directory.changed()
        self._plans.refresh()
        with recovery.load(self.store, self.folder, known=known) as loaded:
            self._keywords.catch_up(anew=anew)
            self._next_id = self.store.next_id()
            self._generation = self.store.stored_identity().generation
        self._directory.manifest = loaded.manifest
        self._publish(loaded.epoch, loaded.dense)
        return loaded.problems

    def _refresh(self) -> None:
        """Catch up with other processes. Caller holds `_changing`."""
        since = self._current.epoch
        if self._plans.refresh():
            self._publish(since, self._dense)
        followed = not self._keywords.in_memory and self._keywords.follow()
        identity = self.store.stored_identity()
        if self._directory.changed() or identity.generation != self._generation:
            known = {s.sealed.name: s for s in self._dense.segments if s.sealed}
            self._tell(self._load(known, anew=followed))
            return
        with self.store.reading():
            epoch = self.store.epoch()
            overtaken = since < self.store.trimmed()
            if not overtaken and (epoch, followed) != (since, False):
                dense = self._dense.changed(
                    *recovery.added(self.store, self._next_id), self.store.removed(since=since)
                )
                self._next_id = self.store.next_id()
                self._keywords.catch_up(anew=followed)
                self._publish(epoch, dense)
        if overtaken:
            known = {s.sealed.name: s for s in self._dense.segments if s.sealed}
            self._tell(self._load(known, anew=True))

    def _tell(self, problems: Sequence[Problem]) -> None:
        recovery.tell(problems, self.folder, self._trace, self._decide)

    # -- the keyword side -------------------------------------------------------------------

    def _lost_terms(self, kind: str, reason: str) -> None:
        self._tell((Problem(kind, "terms", reason),))

    def _begin_terms(self) -> None:
        self._keywords = term_recovery.begun(
            self._keywords, self.store, self.folder, self._settings, self._trace, self._lost_terms
        )
        self._publish(self._current.epoch, self._dense)

    def _commit_terms(self) -> None:
        try:
            self._keywords.commit()
        except FAILURES:
            self._replace_terms("terms.commit_failed")

    def _replace_terms(self, counted: str) -> None:
        self._trace.count(counted)
        self._keywords = term_recovery.volatile(self.store, self.folder, self._settings)

    # -- upkeep: outside `writing`, from any thread -------------------------------------------

    def verify(self, progress: Progress) -> list[Finding]:
        """Everything that is wrong with the files; nothing is changed. `progress` may raise."""
        return verification.findings(self.store, self.folder, progress)

    def reshape(self, progress: Progress) -> None:
        """Every segment as the plan wants it, written aside, as few of them as can be.

        `progress` may raise to stop it. Raises what `rebuild` raises.
        """
        with self._working, self.writing():
            self._compact_segments(progress, "plan")

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
                    self._directory.manifest = None
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
        for job in sealing.full_jobs(self._dense, self._plans.policy):
            self._run(replace(job, live=self._dense.live))
            done += sum(len(s) for s in job.inputs)
            progress(UpkeepProgress(f"{step}: segments", min(done, total), total))
        if self._directory.manifest is None or self._directory.epoch < self._current.epoch:
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
                self._keywords = term_recovery.volatile(self.store, self.folder, self._settings)
                self._publish(self._current.epoch, self._dense)
                raise
            self._keywords = keywords
            self._publish(self._current.epoch, self._dense)
