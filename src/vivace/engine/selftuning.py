"""A collection that tunes itself: when it is asked to, and when its recall falls."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, TypeAlias

import msgspec

from vivace.collection.corpus import Corpus
from vivace.collection.planned import Planned
from vivace.collection.upkeep import Stopped, stepping
from vivace.errors import Closed, CollectionLocked, InfeasibleObjective, VivaceError
from vivace.protocols import Embedder
from vivace.run.background import lower_priority
from vivace.run.work import Priority, work_context
from vivace.settings import Settings, Tune
from vivace.trace import Trace
from vivace.tune.guard import RecallGuard, raised
from vivace.tune.intervals import Recall
from vivace.tune.race import tune
from vivace.tune.tuning import Tuning
from vivace.tune.watch import Missed, RecallWatch
from vivace.tune.workload import questions
from vivace.types import Decision, Objective, Plan, UpkeepProgress

logger = logging.getLogger("vivace.tune")
Progress: TypeAlias = Callable[[UpkeepProgress], None]
Decide: TypeAlias = Callable[[Decision], None]
FAILED: Final = "tune.failed"
_TOLD_EACH = 0.1
"""Seconds between two reports of one step: a race takes thousands."""
_PATIENCE: Final = 60.0
"""Seconds that a plan waits to be kept while another process writes."""
_LOOKS: Final = 0.2


def objective_of(settings: Tune) -> Objective:
    """What the settings ask for; a limit of 0 is none."""
    memory = int(settings.memory_mib * (1 << 20)) or None
    return Objective(settings.recall, settings.p95_ms or None, memory)


class SelfTuning:
    """Made and closed on the event loop. One tuning at a time."""

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
        self._again: asyncio.Task[None] | None = None
        self._reshaping: asyncio.Future[None] | None = None
        self._last: float | None = None
        self._at_most: Plan | None = None
        """The plan that was found wanting and could not be asked for more; told of once."""
        self.watch: RecallWatch | None = None
        if settings.tune.guard:
            share = settings.tune.guard_share
            self.watch = RecallWatch(
                lambda floor: RecallGuard(floor, share=share), self.objective, trace, self._missed
            )

    @property
    def objective(self) -> Objective:
        """What the plan was made for; before any, what the settings ask for."""
        planned = self._corpus.planned
        if planned is None or not planned.plan.family:  # no index was chosen yet
            return objective_of(self._settings.tune)
        return planned.objective

    def recall(self) -> Recall:
        """Of the newest live questions that were answered again; of none before there are any."""
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
        progress: Progress | None = None,
        gives_way: bool = False,
    ) -> Tuning:
        """See `Collection.tune`. With `gives_way` every other thread of the machine goes first."""
        wanted = objective or objective_of(self._settings.tune)
        budget = budget_seconds or self._settings.tune.budget_seconds
        async with self._one:
            self._check()
            with work_context(Priority.BACKGROUND):
                tuning = await self._measured(wanted, budget, families, progress, gives_way, apply)
            if apply and tuning.conclusive:
                await self._apply(tuning, progress, gives_way)
            return tuning

    async def close(self) -> None:
        """End what runs without applying it; stop watching. Idempotent."""
        self._closing = True
        self._stop.set()
        if self.watch is not None:
            await asyncio.to_thread(self.watch.close)
        if self._reshaping is not None:
            self._reshaping.cancel()
        if self._again is not None:
            await asyncio.wait([self._again])
        async with self._one:
            pass

    # -- one tuning -------------------------------------------------------------------------

    async def _measured(
        self,
        objective: Objective,
        budget: float,
        families: Sequence[str] | None,
        progress: Progress | None,
        gives_way: bool,
        apply: bool,
    ) -> Tuning:
        log, width = self._settings.queries.log, self._settings.search.candidates
        self._stop.clear()
        with ExitStack() as stack:
            flat = await asyncio.to_thread(stack.enter_context, self._corpus.rows())
            asked = await questions(self._corpus.store, flat, self._embedder, log=log)

            def race(step: Progress) -> Tuning:
                return tune(
                    flat,
                    asked,
                    objective,
                    width=width,
                    families=families,
                    budget_seconds=budget,
                    progress=step,
                )

            try:
                return await self._raced(race, progress, gives_way)
            except InfeasibleObjective as error:
                if apply:
                    await asyncio.to_thread(self._refused, error)
                raise

    async def _raced(
        self, race: Callable[[Progress], Tuning], progress: Progress | None, gives_way: bool
    ) -> Tuning:
        """The race on a thread of its own; cancelling it ends it with the best so far."""

        def work() -> Tuning:
            if gives_way:
                lower_priority()
            try:
                return race(self._stepped(progress))
            except KeyboardInterrupt as error:  # our own: there was nothing to keep
                raise Stopped from error

        # not of a shared pool: a thread that has stepped back can never step forward
        thread = ThreadPoolExecutor(1, thread_name_prefix="vivace-tune")
        task = asyncio.wrap_future(thread.submit(work))
        thread.shutdown(wait=False)
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

    def _stepped(self, progress: Progress | None) -> Progress:
        """What the race tells its steps to; ends it when it is to stop."""
        told: tuple[UpkeepProgress | None, float] = None, 0.0
        ended = False

        def step(now: UpkeepProgress) -> None:
            nonlocal told, ended
            # once ended it goes on to measure what it reports; nobody wants that who closes
            if self._closing or (self._stop.is_set() and not ended):
                ended = True
                raise KeyboardInterrupt
            at = time.monotonic()
            if progress is None or (now == told[0] and at - told[1] < _TOLD_EACH):
                return
            told = now, at
            self._loop.call_soon_threadsafe(progress, now)

        return step

    async def _apply(self, tuning: Tuning, progress: Progress | None, gives_way: bool) -> None:
        """Search and seal by the plan from now on; what is sealed otherwise is written anew."""
        self._check()
        before = self._corpus.planned
        plan, reason = tuning.plan, tuning.reason
        if before is not None:
            plan = replace(plan, stages=before.plan.stages)
            if gives_way and _same_index(before.plan, plan) and before.plan.effort > plan.effort:
                # live questions have shown that less misses the floor; those of the race have not
                plan = replace(plan, effort=before.plan.effort)
                reason += f" Its effort stays at {plan.effort}, which live questions needed."
        await self._kept(Planned(plan, tuning.objective, tuning.rows, tuning.source))
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
            stepping(self._corpus.reshape, progress, gives_way=gives_way)
        )
        try:
            await self._reshaping
        except asyncio.CancelledError:
            self._reshaping.cancel()
            if not self._closing:
                raise
            # what is left is made good by the next opening
            raise Closed("the collection") from None
        self._restart()  # what was searched meanwhile was not the plan's

    async def _kept(self, planned: Planned) -> None:
        """Make it the collection's plan; what was measured is worth waiting for another writer."""
        until = time.monotonic() + _PATIENCE
        while True:
            self._check()
            try:
                return await asyncio.to_thread(self._corpus.set_plan, planned)
            except CollectionLocked:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(_LOOKS)

    def _refused(self, error: InfeasibleObjective) -> None:
        nearest = error.nearest
        kept = _plain(self._corpus.planned.plan) if self._corpus.planned else None
        evidence = _evidence(nearest) if isinstance(nearest, Tuning) else {}
        self._decide(Decision("plan", kept, kept, f"{error.what}.", evidence))

    def _restart(self) -> None:
        self._at_most = None
        if self.watch is not None:
            self.watch.restart(self.objective)

    def _check(self) -> None:
        if self._closing:
            raise Closed("the collection")

    # -- recall under the floor -----------------------------------------------------------------

    def _missed(self, missed: Missed) -> None:
        """More effort at once, a better plan later; on the watch's thread."""
        asked = self._corpus.snapshot().asked(missed.width)
        if asked is None:
            return
        plan, efforts = asked
        planned = self._corpus.planned
        if planned is not None and planned.plan.family not in ("", plan.family):
            # the segments are not yet as the plan wants them; it is no fault of the plan's
            self._trace.count("recall.before_the_plan")
            return
        # less than the least is asked as the least
        effort = max(plan.effort, efforts[0]) if plan.effort else 0
        more = replace(plan, effort=raised(effort, efforts, missed.seen, missed.floor))
        if more.effort > plan.effort:
            self._raise(plan, more, missed)
        elif plan != self._at_most:
            self._at_most = plan
            self._tell(plan, plan, missed, "the effort is the greatest already")
        self._loop.call_soon_threadsafe(self._tune_again)

    def _raise(self, plan: Plan, more: Plan, missed: Missed) -> None:
        before = self._corpus.planned
        planned = Planned(more, self.objective)
        if before is not None:
            more = replace(more, stages=before.plan.stages)
            planned = msgspec.structs.replace(before, plan=more, objective=self.objective)
        self._corpus.adopt_plan(planned, instead_of=before)
        if self.watch is not None:
            self.watch.restart(self.objective)
        why = f"the effort is raised from {plan.effort or 'its default'} to {more.effort}"
        self._tell(plan, more, missed, why)
        self._trace.count("recall.raised")

    def _tell(self, before: Plan, after: Plan, missed: Missed, done: str) -> None:
        seen, k = missed.seen, self.objective.k
        reason = (
            f"Recall@{k} of {seen.queries} live questions was {seen.mean:.3f}"
            f" ({seen.low:.3f} to {seen.high:.3f}), under the floor of {missed.floor:g}; {done}."
        )
        evidence = {"floor": missed.floor, "k": k, "width": missed.width, **_plain(seen)}
        self._decide(Decision("recall", _plain(before), _plain(after), reason, evidence))

    def _tune_again(self) -> None:
        """On the event loop: begin a tuning that nobody asked for, if it is time for one."""
        settings, now = self._settings.tune, self._clock()
        running = self._one.locked() or (self._again is not None and not self._again.done())
        soon = self._last is not None and now - self._last < settings.retune_seconds
        if settings.retune and not (running or soon or self._closing):
            self._last = now
            self._again = self._loop.create_task(self._tuned_again())

    async def _tuned_again(self) -> None:
        try:
            await self.tune(self.objective, gives_way=True)
            self._trace.count("tune.again")
        except InfeasibleObjective:  # told as a decision
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
    """What the choice rests on, without what a decision says elsewhere."""
    return {k: v for k, v in _plain(tuning).items() if k not in ("rejected", "reason")}
