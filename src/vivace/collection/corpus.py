"""The store and the indexes derived from it, kept in step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from vivace.collection import recovery, sealing, verification
from vivace.collection.dense import Dense, Segment
from vivace.collection.keywords import Keywords
from vivace.collection.plan_state import PlanState, StoredPlan
from vivace.collection.recovery import Problem
from vivace.collection.sealing import SealingThread
from vivace.collection.segment_directory import SegmentDirectory
from vivace.collection.snapshot import Snapshot
from vivace.errors import CollectionLocked, CorruptIndex, MissingExtra, StoreError, StoreUnwritable
from vivace.index.flat import FlatIndex
from vivace.run.background import BackgroundExecutor
from vivace.settings import Index
from vivace.store.connections import WriteLock
from vivace.store.store import Store
from vivace.store.transaction import Change, Committed
from vivace.trace import Trace
from vivace.types import Decision, Finding, OnUpkeep, UpkeepProgress

Decide: TypeAlias = Callable[[Decision], None]
_DEFAULTS = Index()


class Corpus:
    """A collection's store with both of its indexes.

    `snapshot` may be called from any thread, `apply` from one thread inside `writing`.

    A change is durable in the store first, then visible in a new snapshot of both indexes, and only
    then acknowledged. A background thread seals and merges segments; it writes the manifest durably
    before it swaps the snapshot. After a crash anywhere, the manifest names no incomplete file, and
    what is missing is replayed from the store.
    """

    def __init__(
        self, store: Store, folder: Path, trace: Trace, settings: Index, decide: Decide
    ) -> None:
        self.store = store
        self.folder = folder
        self.trace = trace
        self._settings = settings
        self._decide = decide
        self._directory = SegmentDirectory(store, folder)
        self._lock = WriteLock(folder)
        self._holders = 0
        self._holding = threading.Lock()
        """Guards the write lock and `_holders`; taken before `_changing`."""
        self._changing = threading.Lock()
        """Guards the state; never held while vectors are read or written."""
        self._working = threading.Lock()
        """Held during a seal or merge; taken before the other two."""
        self.executor = BackgroundExecutor()
        self.sealing_thread = SealingThread(self._tend, self.executor)
        self._removed_since = 0
        """Chunks removed since the manifest was written: opening the collection replays them."""
        self.plans = PlanState(folder, settings, trace, decide)
        self.keywords = Keywords(store, folder, settings, trace, self._lost_terms, self._lock)
        problems = self._load({}, restart=True)
        if problems:
            self._report(problems)
        if problems or self._has_work():
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
        """Open or create the collection in `folder`. Raises what `Store.open` raises."""
        store = Store.open(
            folder, embedder=embedder, dim=dim, metric=settings.metric, create=create
        )
        try:
            return cls(store, folder, trace, settings, decide)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Finish the seal or merge that runs, and release the files."""
        self.sealing_thread.close()
        self.executor.close()
        with self._changing:
            try:
                self.keywords.release()
            finally:
                self._lock.release()
                self.store.close()

    def settle(self) -> None:
        """Wait until no segment is left to be sealed or merged."""
        self.sealing_thread.drain()

    @property
    def dense(self) -> Dense:
        """The present state of the vectors, without looking for other processes' commits."""
        return self._dense

    @property
    def locked(self) -> bool:
        """Whether this process holds the collection's write lock."""
        return self._lock.held

    def snapshot(self) -> Snapshot:
        """The newest state, including what other processes have committed.

        Raises:
            EmbedderMismatch: another process has given the collection another embedder.
        """
        if self.settled() is None and self._changing.acquire(blocking=False):
            # without the lock, return the last state instead of waiting
            try:
                self._refresh()
            finally:
                self._changing.release()
        return self._current

    def settled(self) -> Snapshot | None:
        """What `snapshot` returns, in microseconds; None if it first has to catch up.

        Raises what `snapshot` raises.
        """
        changed = self.store.epoch() != self._current.epoch or self.plans.maybe_changed()
        return None if changed else self._current

    # -- writing ----------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the collection's write lock, with everything that others have written applied.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the folder cannot be written.
        """
        with self._held():
            with self._changing:
                self.keywords.begin()
                self._publish(self._current.epoch, self._dense)
            try:
                yield
            finally:
                with self._changing:
                    try:
                        if self.keywords.pending:
                            self.keywords.commit()
                            self._publish(self._current.epoch, self._dense)
                    finally:
                        self.keywords.release()

    def apply(self, changes: Sequence[Change]) -> Committed:
        """Make the changes durable and findable.

        Raises:
            StoreUnwritable: the disk is full or read-only; nothing was changed.
            BadInput: a change cannot be stored; nothing was changed.
        """
        with self._changing:
            committed = self.store.commit(changes)
            dense = self._dense.changed(committed.added, committed.vectors, committed.removed)
            self._removed_since += len(committed.removed)
            if len(committed.added):
                self._next_id = int(committed.added[-1]) + 1
            self.keywords.change(committed.chunks, committed.removed, committed.epoch)
            self._publish(committed.epoch, dense)
        if self._has_work():
            self.sealing_thread.wake()
        return committed

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the write lock on the newest state; threads of this process share it."""
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
        """The plan that searches and sealing follow; None before any tuning."""
        return self.plans.stored

    def set_plan(self, stored: StoredPlan) -> None:
        """Follow another plan from now on, on disk too; builds nothing.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the folder cannot be written. The old plan still holds.
        """
        with self._held(), self._changing:
            self.plans.keep(stored)
            self._publish(self._current.epoch, self._dense)

    def adopt_plan(self, stored: StoredPlan, *, instead_of: StoredPlan | None) -> None:
        """Follow another plan at once, and write it to disk if possible; never raises.

        If another process has written a plan meanwhile, that one holds.
        """
        with self._changing:
            self.plans.refresh()
            overtaken = self.plans.stored != instead_of
            if not overtaken:
                self.plans.adopt(stored)
            self._publish(self._current.epoch, self._dense)
        if overtaken:
            return
        try:
            self.set_plan(stored)
        except StoreError:
            # another writer, or a read-only folder: the plan holds in this process only
            self.trace.count("plan.unwritten")

    def rows(self) -> AbstractContextManager[FlatIndex]:
        """See `SegmentDirectory.rows`."""
        return self._directory.rows(self._dense)

    # -- sealing and merging ----------------------------------------------------------------

    def next_job(self) -> sealing.Job | None:
        """The segment to write next; None if none is due."""
        return sealing.next_job(self._dense, self.plans.policy)

    def _has_work(self) -> bool:
        return (
            self._removed_since >= max(self._settings.seal_chunks, len(self._dense) // 100)
            or self.next_job() is not None
        )

    def _tend(self, *, mend: bool = False, opening: bool = False) -> None:
        """Write what is due; leave it to another process if that is writing."""
        try:
            with self._working, self._held():
                try:
                    while self._has_work():
                        job = self.next_job()
                        if opening and job is not None and job.reason == sealing.BY_PLAN:
                            # searches are right without it, only slower: opening need not wait
                            self.sealing_thread.wake()
                            break
                        self._run(job)
                    if mend:
                        self._run(None)
                except (OSError, CorruptIndex):
                    # the tail, or the segments to be merged, still hold every row
                    self.trace.count("segments.failed")
                    self._directory.clean(self._dense)
        except (CollectionLocked, StoreUnwritable):
            self.trace.count("segments.left_to_others")
        except StoreError:  # every search and write meets it too and raises it
            self.trace.count("segments.failed")

    def _run(self, job: sealing.Job | None) -> None:
        """Do one job, or write the manifest alone. Inside `_working` and `_held`."""
        new: Segment | None = None
        if job is not None:
            with self.trace.span(f"segments.{job.reason}"):
                new = self._written(job)
            self.trace.count("segments.rows_written", len(new.index.ids) if new else 0)
            if new is not None:
                here = {s.index.family for s in self._dense.segments if s.sealed}
                self.plans.explain(new, here)
        with self._changing:
            dense = self._dense if job is None else self._dense.replaced(job.first, job.last, new)
            self._directory.publish(dense, self._current.epoch, self._next_id)
            self._removed_since = 0
            self._publish(self._current.epoch, dense)
        through = min(self.keywords.durable_epoch, self._directory.epoch)
        if through > self.store.trimmed():
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
                    policy=self.plans.policy,
                )
            except MissingExtra as error:  # the family it falls back to needs no extra
                self.plans.exclude_family(error)

    # -- the state --------------------------------------------------------------------------

    def _publish(self, epoch: int, dense: Dense) -> None:
        self._dense = dense = dense.with_plan(self.plans.plan)
        before = getattr(self, "_current", None)
        self._current = Snapshot(self.store, epoch, dense, self.keywords.state(), before=before)

    def _load(self, known: dict[str, Segment], *, restart: bool) -> tuple[Problem, ...]:
        """Replace the whole state by that of the files and the store."""
        self._directory.changed()
        self.plans.refresh()
        with recovery.load(self.store, self.folder, known=known) as loaded:
            self.keywords.catch_up(restart=restart)
            self._next_id = self.store.next_id()
            self._generation = self.store.stored_identity().generation
        self._directory.manifest = loaded.manifest
        self._publish(loaded.epoch, loaded.dense)
        return loaded.problems

    def _refresh(self) -> None:
        """Catch up with other processes. The caller holds `_changing`."""
        since = self._current.epoch
        if self.plans.refresh():
            self._publish(since, self._dense)
        followed = self.keywords.follow()
        identity = self.store.stored_identity()
        if self._directory.changed() or identity.generation != self._generation:
            self._reload(restart=followed)
            return
        with self.store.reading():
            epoch = self.store.epoch()
            overtaken = since < self.store.trimmed()
            if not overtaken and (epoch, followed) != (since, False):
                dense = self._dense.changed(
                    *recovery.added(self.store, self._next_id), self.store.removed(since=since)
                )
                self._next_id = self.store.next_id()
                self.keywords.catch_up(restart=followed)
                self._publish(epoch, dense)
        if overtaken:
            self._reload(restart=True)

    def _reload(self, *, restart: bool) -> None:
        known = {s.sealed.name: s for s in self._dense.segments if s.sealed}
        self._report(self._load(known, restart=restart))

    def _report(self, problems: Sequence[Problem]) -> None:
        recovery.report(problems, self.folder, self.trace, self._decide)

    def _lost_terms(self, kind: str, reason: str) -> None:
        self._report((Problem(kind, "terms", reason),))

    # -- upkeep: outside `writing`, from any thread -------------------------------------------

    def verify(self, progress: OnUpkeep) -> list[Finding]:
        """Everything that is wrong with the files; changes nothing. `progress` may raise."""
        return verification.findings(self.store, self.folder, progress)

    def reshape(self, progress: OnUpkeep) -> None:
        """Write every segment as the plan wants it, and as few segments as possible.

        `progress` may raise to stop it. Raises what `rebuild` raises.
        """
        with self._working, self.writing():
            self._compact_segments(progress, "plan")

    def rebuild(self, progress: OnUpkeep) -> None:
        """Build every index from the store.

        `progress` may raise to stop it: every chunk is then still found.

        Raises:
            CollectionLocked, StoreUnwritable: as `writing` does.
        """
        with self._working, self.writing():
            with self._changing:
                with self.store.reading():
                    dense = recovery.from_store(self.store)
                self._directory.manifest = None
                self._publish(self._current.epoch, dense)
            self._compact_segments(progress, "rebuild")
            self._rebuild_terms(progress)

    def compact(self, progress: OnUpkeep) -> None:
        """Write as few segments as possible, without removed rows; compact terms and store too.

        `progress` may raise to stop it. Raises what `rebuild` raises.
        """
        with self._working, self.writing():
            with self._changing:
                self.keywords.commit()
                self._publish(self._current.epoch, self._dense)
            self._compact_segments(progress, "compact")
            if self.keywords.has_removed():
                self._rebuild_terms(progress)
            progress(UpkeepProgress("store", 0, 1))
            self.store.compact()
            progress(UpkeepProgress("store", 1, 1))

    def _compact_segments(self, progress: OnUpkeep, step: str) -> None:
        total, done = len(self._dense), 0
        progress(UpkeepProgress(f"{step}: segments", done, total))
        for job in sealing.full_jobs(self._dense, self.plans.policy):
            self._run(replace(job, live=self._dense.live))
            done += sum(len(s) for s in job.inputs)
            progress(UpkeepProgress(f"{step}: segments", min(done, total), total))
        if self._directory.manifest is None or self._directory.epoch < self._current.epoch:
            self._run(None)

    def _rebuild_terms(self, progress: OnUpkeep) -> None:
        with self._changing:
            total = self.store.count()
            try:
                self.keywords.rebuild(lambda done: progress(UpkeepProgress("terms", done, total)))
            finally:
                self._publish(self._current.epoch, self._dense)
