"""Tuning the index of one collection: on request, and by itself when its recall falls."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, TypeAlias

import msgspec

from vivace.collection.corpus import Corpus
from vivace.collection.plan_state import StoredPlan
from vivace.collection.upkeep import Stopped, stepping
from vivace.errors import Closed, CollectionLocked, InfeasibleObjective, VivaceError
from vivace.protocols import Embedder
from vivace.run.work import Priority, work_context
from vivace.settings import Settings, Tune
from vivace.trace import Trace
from vivace.tune.guard import FloorMissed, RecallGuard, RecallWatch, raised
from vivace.tune.metrics import Recall
from vivace.tune.race import tune
from vivace.tune.tuning import Tuning
from vivace.tune.workload import workload_for
from vivace.types import Decision, Objective, OnUpkeep, Plan, UpkeepProgress

logger = logging.getLogger("vivace.tune")
Decide: TypeAlias = Callable[[Decision], None]
FAILED: Final = "tune.failed"
_REPORT_SECONDS: Final = 0.1
"""Seconds between two reports of the same step: a race makes thousands."""
_PATIENCE: Final = 60.0
"""Seconds that a plan waits to be stored while another process writes."""
POLL_SECONDS: Final = 0.2
"""Seconds between two attempts to store a plan."""


def objective_of(settings: Tune) -> Objective:
    """The objective of the settings; a limit of 0 is none."""
    memory = int(settings.memory_mib * (1 << 20)) or None
    return Objective(settings.recall, settings.p95_ms or None, memory)


class SelfTuning:
    """Tunes the index of one collection and watches its recall; one tuning runs at a time.

    Made and closed on the event loop.
    """

    def __init__(
        self,
        corpus: Corpus,
        embedder: Embedder,
        settings: Settings,
        trace: Trace,
        decide: Decide,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._corpus = corpus
        self._embedder = embedder
        self._settings = settings
        self._trace = trace
        self._decide = decide
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._one = asyncio.Lock()
        self._stop = threading.Event()
        self._closing = False
        self.retuning: asyncio.Task[None] | None = None
        self._reshaping: asyncio.Future[None] | None = None
        self._last: float | None = None
        self._exhausted: Plan | None = None
        """The plan that misses the floor at its greatest effort; recorded once."""
        self.watch: RecallWatch | None = None
        if settings.tune.guard:
            share = settings.tune.guard_share
            self.watch = RecallWatch(
                lambda floor: RecallGuard(floor, share=share), self.objective, trace, self._missed
            )

    @property
    def objective(self) -> Objective:
        """The objective the plan was made for; without a plan, that of the settings."""
        stored = self._corpus.stored_plan
        if stored is None or not stored.plan.family:  # no index was chosen yet
            return objective_of(self._settings.tune)
        return stored.objective

    def recall(self) -> Recall:
        """Recall on the newest live questions that were answered again; zero questions at first."""
        if self.watch is None:
            return Recall(0.0, 0.0, 1.0, 0)
        return self.watch.estimate()

    async def tune(
        self,
        objective: Objective | None = None,
        *,
        budget_seconds: float | None = None,
        apply: bool = True,
        families: Sequence[str] | None = None,
        progress: OnUpkeep | None = None,
        low_priority: bool = False,
    ) -> Tuning:
        """See `Collection.tune`. With `low_priority` the race runs only on otherwise idle CPU."""
        wanted = objective or objective_of(self._settings.tune)
        budget = budget_seconds or self._settings.tune.budget_seconds
        async with self._one:
            self._check()
            with work_context(Priority.BACKGROUND):
                tuning = await self._measured(
                    wanted, budget, families, progress, low_priority, apply
                )
            if apply and tuning.conclusive:
                await self._apply(tuning, progress, low_priority)
            return tuning

    async def close(self) -> None:
        """End a running tuning without applying it, and stop watching. Idempotent."""
        self._closing = True
        self._stop.set()
        if self.watch is not None:
            await asyncio.to_thread(self.watch.close)
        if self._reshaping is not None:
            self._reshaping.cancel()
        if self.retuning is not None:
            await asyncio.wait([self.retuning])
        async with self._one:
            pass

    # -- one tuning -------------------------------------------------------------------------

    async def _measured(
        self,
        objective: Objective,
        budget: float,
        families: Sequence[str] | None,
        progress: OnUpkeep | None,
        low_priority: bool,
        apply: bool,
    ) -> Tuning:
        log, width = self._settings.queries.log, self._settings.search.candidates
        self._stop.clear()
        with ExitStack() as stack:
            flat = await asyncio.to_thread(stack.enter_context, self._corpus.rows())
            workload = await workload_for(self._corpus.store, flat, self._embedder, log=log)

            def race(step: OnUpkeep) -> Tuning:
                return tune(
                    flat,
                    workload,
                    objective,
                    width=width,
                    families=families,
                    budget_seconds=budget,
                    progress=step,
                )

            try:
                return await self._raced(race, progress, low_priority)
            except InfeasibleObjective as error:
                if apply:
                    await asyncio.to_thread(self._record_infeasible, error)
                raise

    async def _raced(
        self, race: Callable[[OnUpkeep], Tuning], progress: OnUpkeep | None, low_priority: bool
    ) -> Tuning:
        """The race, run on its own thread; cancelling ends it with the best plan so far."""

        def work() -> Tuning:
            try:
                return race(self._stepped(progress))
            except KeyboardInterrupt as error:  # raised by `step` before anything was measured
                raise Stopped from error

        task: asyncio.Future[Tuning]
        if low_priority:
            task = asyncio.wrap_future(self._corpus.executor.submit(work))
        else:
            task = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._stop.set()
            await asyncio.wait([task])
            if isinstance(task.exception(), Stopped) or self._closing:
                raise
            if (current := asyncio.current_task()) is not None:
                current.uncancel()
            return task.result()
        except Stopped as stopped:
            raise Closed("the collection") from stopped

    def _stepped(self, progress: OnUpkeep | None) -> OnUpkeep:
        """The callback of the race: reports its steps, and raises when the race should end."""
        reported: tuple[UpkeepProgress | None, float] = None, 0.0
        ended = False

        def step(now: UpkeepProgress) -> None:
            nonlocal reported, ended
            # the race still measures its report after the first interrupt; a close does not need it
            if self._closing or (self._stop.is_set() and not ended):
                ended = True
                raise KeyboardInterrupt
            at = time.monotonic()
            if progress is None or (now == reported[0] and at - reported[1] < _REPORT_SECONDS):
                return
            reported = now, at
            self._loop.call_soon_threadsafe(progress, now)

        return step

    async def _apply(self, tuning: Tuning, progress: OnUpkeep | None, low_priority: bool) -> None:
        """Search and seal by the plan from now on; rewrite the segments that do not follow it."""
        self._check()
        before = self._corpus.stored_plan
        plan, reason = tuning.plan, tuning.reason
        if before is not None:
            plan = replace(plan, stages=before.plan.stages)
            if low_priority and _same_index(before.plan, plan) and before.plan.effort > plan.effort:
                # live questions have shown that less misses the floor; the race's own have not
                plan = replace(plan, effort=before.plan.effort)
                reason += f" Its effort stays at {plan.effort}, which live questions needed."
        await self._store_plan(StoredPlan(plan, tuning.objective, tuning.rows, tuning.source))
        decision = Decision(
            "plan",
            _plain(before.plan) if before else None,
            _plain(replace(plan, stages=tuning.plan.stages)),
            reason,
            _evidence(tuning),
            tuple(_plain(rejected) for rejected in tuning.rejected),
        )
        await asyncio.to_thread(self._decide, decision)
        self._restart()
        self._reshaping = asyncio.ensure_future(
            stepping(
                self._corpus.reshape,
                progress,
                executor=self._corpus.executor if low_priority else None,
            )
        )
        try:
            await self._reshaping
        except asyncio.CancelledError:
            self._reshaping.cancel()
            if not self._closing:
                raise
            # the next opening reshapes what is left
            raise Closed("the collection") from None
        self._restart()  # searches meanwhile did not follow the plan

    async def _store_plan(self, stored: StoredPlan) -> None:
        """Make it the collection's plan. Measuring was expensive, so wait for another writer."""
        until = time.monotonic() + _PATIENCE
        while True:
            self._check()
            try:
                return await asyncio.to_thread(self._corpus.set_plan, stored)
            except CollectionLocked:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    def _record_infeasible(self, error: InfeasibleObjective) -> None:
        nearest = error.nearest
        kept = _plain(self._corpus.stored_plan.plan) if self._corpus.stored_plan else None
        evidence = _evidence(nearest) if isinstance(nearest, Tuning) else {}
        self._decide(Decision("plan", kept, kept, f"{error.what}.", evidence))

    def _restart(self) -> None:
        self._exhausted = None
        if self.watch is not None:
            self.watch.restart(self.objective)

    def _check(self) -> None:
        if self._closing:
            raise Closed("the collection")

    # -- recall under the floor -----------------------------------------------------------------

    def _missed(self, missed: FloorMissed) -> None:
        """Raise the effort at once and tune again later. Called on the watch's thread."""
        asked = self._corpus.snapshot().approximate_plan(missed.width)
        if asked is None:
            return
        plan, efforts = asked
        stored = self._corpus.stored_plan
        if stored is not None and stored.plan.family not in ("", plan.family):
            # the segments do not follow the plan yet, so the miss is not the plan's fault
            self._trace.count("recall.before_the_plan")
            return
        # an effort below the least is searched as the least
        effort = max(plan.effort, efforts[0]) if plan.effort else 0
        more = replace(plan, effort=raised(effort, efforts, missed.seen, missed.floor))
        if more.effort > plan.effort:
            self._raise(plan, more, missed)
        elif plan != self._exhausted:
            self._exhausted = plan
            self._record_missed(plan, plan, missed, "the effort is the greatest already")
        self._loop.call_soon_threadsafe(self.retune)

    def _raise(self, plan: Plan, more: Plan, missed: FloorMissed) -> None:
        before = self._corpus.stored_plan
        stored = StoredPlan(more, self.objective)
        if before is not None:
            more = replace(more, stages=before.plan.stages)
            stored = msgspec.structs.replace(before, plan=more, objective=self.objective)
        self._corpus.adopt_plan(stored, instead_of=before)
        if self.watch is not None:
            self.watch.restart(self.objective)
        why = f"the effort is raised from {plan.effort or 'its default'} to {more.effort}"
        self._record_missed(plan, more, missed, why)
        self._trace.count("recall.raised")

    def _record_missed(self, before: Plan, after: Plan, missed: FloorMissed, done: str) -> None:
        seen, k = missed.seen, self.objective.k
        reason = (
            f"Recall@{k} of {seen.queries} live questions was {seen.mean:.3f}"
            f" ({seen.low:.3f} to {seen.high:.3f}), under the floor of {missed.floor:g}; {done}."
        )
        evidence = {"floor": missed.floor, "k": k, "width": missed.width, **_plain(seen)}
        self._decide(Decision("recall", _plain(before), _plain(after), reason, evidence))

    def retune(self) -> None:
        """Begin a tuning in background unless one runs or the last was too recent. On the loop."""
        settings, now = self._settings.tune, self._clock()
        running = self._one.locked() or (self.retuning is not None and not self.retuning.done())
        soon = self._last is not None and now - self._last < settings.retune_seconds
        if settings.retune and not (running or soon or self._closing):
            self._last = now
            self.retuning = self._loop.create_task(self._retuned())

    async def _retuned(self) -> None:
        try:
            await self.tune(self.objective, low_priority=True)
            self._trace.count("tune.again")
        except InfeasibleObjective:  # recorded as a decision
            self._trace.count("tune.infeasible")
        except (Closed, Stopped):
            pass
        except (VivaceError, OSError) as error:
            self._trace.count(FAILED)
            logger.warning("%s could not be tuned again: %s", self._corpus.folder, error)


def _same_index(one: Plan, other: Plan) -> bool:
    return (one.family, one.params) == (other.family, other.params)


def _plain(value: object) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(value)
    return plain


def _evidence(tuning: Tuning) -> dict[str, object]:
    """The tuning without the fields that a decision has of its own."""
    return {k: v for k, v in _plain(tuning).items() if k not in ("rejected", "reason")}
