"""Which index, searched how, meets an objective at the least CPU? Constrained racing.

Formulas rule candidates out before anything is built; each build is searched with the least effort
whose recall is surely at or above the floor; a candidate that costs clearly more than the best so
far is dropped at once (the racing of Maron and Moore, "Hoeffding races", 1994, under constraints);
the finalists are timed side by side. Two thirds of the questions decide, the rest report: see
`Race.report`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from vivace.errors import BadInput, InfeasibleObjective
from vivace.index import segments
from vivace.index.flat import FlatIndex
from vivace.protocols import VectorIndex
from vivace.run import host
from vivace.tune import choice, measure, metrics, tuning
from vivace.tune.choice import IndexCandidate, megabytes
from vivace.tune.ladder import Ladder, LadderRung, RaceEntry, trial
from vivace.tune.measure import Contender, Times
from vivace.tune.tuning import Rejected, Tuning
from vivace.tune.workload import Questions, Workload, pattern, split, with_neighbours
from vivace.types import Objective, OnUpkeep, Plan, Trial, UpkeepProgress

_DEAR: Final = 1.5
"""The ratio to the best CPU from which on a candidate is dropped."""
_FAMILY_DEAR: Final = 2.0
"""The ratio to the best CPU from which on no more of a family is built: parameters change less."""
_NEIGHBOURS_SHARE: Final = 0.15
"""Share of the budget that finding the true neighbours may take."""
_RACE_SHARE: Final = 0.9
"""Share of the budget after which building and trying ends, to leave time for the last timing."""
_ROUNDS: Final = 5
_FINALISTS: Final = 4
_CORRECTIONS: Final = 3
_SLOW_MS: Final = 5.0
"""Milliseconds from which on an index is timed with few questions."""
_BAD_LUCK: Final = 0.3
"""Logarithm of how far a p95 may exceed its limit and still be timed again."""
_ROOM: Final = 2
"""Times its size that building an index takes in memory; all of a race are kept to its end."""
_FEW_ROWS: Final = 1_000
"""Rows below which a scan takes no longer than the call around it, so that no index gains."""


def tune(
    flat: FlatIndex,
    workload: Workload,
    objective: Objective,
    *,
    width: int | None = None,
    families: Sequence[str] | None = None,
    budget_seconds: float = 120.0,
    builds: int = 8,
    progress: OnUpkeep = lambda _: None,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuning:
    """The plan that meets the objective over these rows at the least CPU per question.

    Runs on the calling thread alone, leaves no thread settings behind, and builds without the GIL.

    Args:
        width: neighbours that a search asks for, of which the objective's k are judged; k by
            default.
        families: the families that may be chosen; all by default.
        builds: the most indexes to build.
        progress: called every few milliseconds between builds; may raise to end the tuning. A
            `KeyboardInterrupt`, also the user's own, ends it with the best plan so far; any other
            exception is passed on.

    Raises:
        BadInput: an objective outside its range, too few questions, or no such family.
        BadVectors: questions of another dimension, or with NaN or infinity.
        InfeasibleObjective: nothing that was tried meets it; carries the nearest `Tuning`.
        KeyboardInterrupt: raised by `progress` before anything was measured.
    """
    _check(objective, flat)
    width = max(width or 0, objective.k)
    race = Race(flat, workload, objective, width, budget_seconds, builds, progress, seed, clock)
    try:
        race.run(segments.FAMILIES if families is None else families)
    except KeyboardInterrupt:
        if not race.entries:
            raise
        race.interrupted = True
    return race.report()


@dataclass(slots=True)
class Race:
    """One run of `tune`, whose arguments these are."""

    flat: FlatIndex
    workload: Workload
    objective: Objective
    width: int
    budget: float
    most_builds: int
    progress: OnUpkeep
    seed: int
    clock: Callable[[], float]
    began: float = field(init=False)
    at: UpkeepProgress = field(init=False)
    builds: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    beside: list[Trial] = field(default_factory=list)
    """Efforts that were timed beside those of the entries."""
    entries: list[RaceEntry] = field(default_factory=list)
    interrupted: bool = False
    every: Questions = field(init=False)
    deciding: Questions = field(init=False)
    held: Questions = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.at = UpkeepProgress("neighbours")

    def run(self, families: Sequence[str]) -> None:
        """Find neighbours, then build and try candidate after candidate."""
        n, dim = self.flat.vectors.shape
        usable, self.rejected = choice.installed(families)
        listed = choice.listed(n, dim, usable)
        self.every, _ = with_neighbours(
            self.flat,
            self.workload.vectors,
            self.objective.k,
            seconds=self.budget * _NEIGHBOURS_SHARE,
            seed=self.seed,
            step=lambda done, total: self._step("neighbours", done, total),
        )
        self.deciding, self.held = split(self.every, self.seed)
        allowed, rejected = choice.affordable(listed, self.objective.memory_bytes)
        self.rejected += rejected
        if FlatIndex.family in families or not allowed:
            self._exact()
        if not allowed and listed and self.objective.memory_bytes is not None:
            # so that the report can say what the smallest one would do
            smallest = min(listed, key=lambda c: c.resident)
            if smallest.resident < self.flat.footprint.resident:
                allowed = [smallest]
        if n < _FEW_ROWS and self._best() is not None:
            reason = f"{n} rows are searched as soon without an index"
            self.rejected += [Rejected(c.family, dict(c.params), reason) for c in allowed]
            allowed = []
        for number, candidate in enumerate(allowed):
            self._step("candidates", number, len(allowed))
            if not self._room(candidate):
                continue
            self._build(candidate)

    def report(self) -> Tuning:
        """The choice, measured on the held-out third.

        The best plan by the deciding questions is measured on the held-out ones. If its mean misses
        the floor there, it gets the least effort that exceeds the floor on the deciding questions
        by as much as was missed, up to three times; if p95 or the floor is still missed, the next
        best plan follows. So the held-out questions only ever make the choice more careful; where
        they did, its held-out recall is slightly flattered.
        """
        if not self.entries:  # nothing could be built in time: the rows themselves remain
            self._exact()
        finalists = [entry.trial() for entry in self._finals()]
        measured = [entry.trial() for entry in self.entries]
        order = choice.ranked(finalists, self.objective)
        order += choice.ranked([t for t in measured if t not in finalists], self.objective)
        passed = list[str]()
        for decided in order:
            entry = next(e for e in self.entries if e.plan == decided.plan)
            held = self._held_out(entry)
            if held is not None:
                others = [other for other in order if other is not decided]
                said = choice.reason(held, decided, others, self.objective)
                return self._tuning(held, " ".join([*passed, said]))
            passed.append(f"{choice.named(decided.plan)} did not hold on the held-out questions.")
        near = next(
            e for e in self.entries if e.plan == choice.nearest(measured, self.objective).plan
        )
        why = choice.shortfall(measured, self.objective) if not order else passed[-1].rstrip(".")
        among = "Of what was tried before it was ended, n" if self.interrupted else "N"
        raise InfeasibleObjective(
            f"{among}othing keeps to the objective: {why}",
            nearest=self._tuning(self._on_held_out(near, near.plan.effort), f"{why}."),
            fix="Ask for less recall, allow more time or memory, or take the nearest plan",
        )

    def _room(self, candidate: IndexCandidate) -> bool:
        """Whether a build, time and memory are left for it; if not, the reason is recorded."""
        left = self.began + _RACE_SHARE * self.budget - self.clock()
        if (times := self._behind(candidate.family)) > _FAMILY_DEAR:
            reason = f"what was tried of its family takes {times:.2g} times the CPU of the best"
        elif self.builds >= self.most_builds:
            reason = f"{self.most_builds} builds had been made"
        elif left <= 0:
            self.interrupted = True
            reason = f"the {self.budget:g} s for tuning were over"
        elif (free := _free_bytes()) is not None and _ROOM * candidate.resident > free:
            needs, has = (megabytes(size) for size in (_ROOM * candidate.resident, free))
            reason = f"building it takes about {needs} of memory, and the machine has {has} free"
        elif candidate.seconds > left:
            reason = f"building takes about {candidate.seconds:.3g} s, {left:.3g} s were left"
        else:
            return True
        self.rejected.append(Rejected(candidate.family, dict(candidate.params), reason))
        return False

    def _behind(self, family: str) -> float:
        """The ratio of a family's best CPU to the best of all; 0 while unknown."""
        of_family = [entry.relative for entry in self.entries if entry.plan.family == family]
        best = self._best()
        return min(of_family) / best.relative if best is not None and of_family else 0.0

    def _exact(self) -> None:
        """Enter the rows themselves: no build, full recall, and the CPU to beat."""
        plan, ladder = Plan(FlatIndex.family), self._ladder(self.flat)
        times = self._timed([Contender(self.flat, 0)], few=True)[0]
        known = metrics.exact_recall(len(self.deciding))
        self.entries.append(RaceEntry(plan, self.flat, ladder, known, 0.0, times))

    def _build(self, candidate: IndexCandidate) -> None:
        self.builds += 1
        began = self.clock()
        built = segments.build(self.flat, candidate.family, candidate.params)
        seconds = self.clock() - began
        self._try(candidate.family, dict(candidate.params), built, seconds)

    def _try(self, family: str, params: dict[str, int], index: VectorIndex, seconds: float) -> None:
        ladder, best = self._ladder(index), self._best()
        ratios = list[float]()

        def too_expensive(effort: int, rung: LadderRung) -> bool:
            # in batches, which are cheaper: one that is expensive even so is timed side by side
            if best is None or rung.cpu_ms <= _DEAR * best.times.cpu_ms:
                return False
            mine, its = self._timed([Contender(index, effort), best.contender], few=True)
            ratios.append(mine.cpu_ms / its.cpu_ms)
            return ratios[-1] > _DEAR

        effort = ladder.least(self.objective.recall, too_expensive)
        if effort is None:
            effort = max(ladder.rungs)
            left = ratios and ratios[-1] > _DEAR and best is not None
            if not left:
                ladder.on_all(effort)
            found = ladder.recall(effort)
            reason = f"finds {found.mean:.3f} ({found.low:.3f} to {found.high:.3f}) at most"
            if found.mean >= self.objective.recall:
                reason += ": more and other questions would be needed to be sure of the floor"
            if left and best is not None:
                reason = (
                    f"at effort {effort} takes {ratios[-1]:.2g} times the CPU of "
                    f"{choice.named(best.plan)} and has not reached the floor"
                )
            self.rejected.append(Rejected(family, params, reason))
        self._enter(Plan(family, params, effort), index, ladder, seconds, best)

    def _enter(
        self, plan: Plan, index: VectorIndex, ladder: Ladder, seconds: float, best: RaceEntry | None
    ) -> None:
        """Time a plan side by side with the best so far and with other efforts of its own."""
        efforts = ladder.beside(plan.effort)
        contenders = [Contender(index, effort) for effort in (plan.effort, *efforts)]
        against = best or (self.entries[0] if self.entries else None)
        rivals = [against.contender] if against is not None else []
        mine, *others = self._timed([*contenders, *rivals], few=True)
        relative = 1.0
        if against is not None:
            relative = against.relative * mine.cpu_ms / max(others[-1].cpu_ms, 1e-9)
        recall = ladder.recall(plan.effort)
        self.entries.append(RaceEntry(plan, index, ladder, recall, seconds, mine, relative))
        for effort, times in zip(efforts, others):
            other = replace(plan, effort=effort)
            self.beside.append(trial(other, index, ladder.recall(effort), seconds, times))

    def _lacks(self, entry: RaceEntry) -> dict[str, float]:
        return choice.lacks(entry.trial(), self.objective)

    def _best(self) -> RaceEntry | None:
        fit = [entry for entry in self.entries if not self._lacks(entry)]
        return min(fit, key=lambda entry: entry.relative, default=None)

    def _finals(self) -> list[RaceEntry]:
        """The entries that may be best, timed side by side and for longer."""
        running = []
        for entry in self.entries:
            lacking = self._lacks(entry)
            # a p95 that is missed by little may have been bad luck
            if not lacking or (set(lacking) == {"p95"} and lacking["p95"] < _BAD_LUCK):
                running.append(entry)
        running.sort(key=lambda entry: entry.relative)
        limit = _DEAR * running[0].relative if running else 0.0
        running = [entry for entry in running if entry.relative <= limit][:_FINALISTS]
        self._step("finals", 0, len(running))
        times = self._timed([entry.contender for entry in running]) if running else []
        for entry, its in zip(running, times):
            entry.times = its
        return running

    def _held_out(self, entry: RaceEntry) -> Trial | None:
        """The entry on the held-out questions, with more effort if needed; None if it fails."""
        effort, floor = entry.plan.effort, self.objective.recall
        asked = floor
        for _ in range(_CORRECTIONS + 1):
            held = self._on_held_out(entry, effort)
            if held.recall >= floor:
                break
            asked = min(1.0, asked + floor - held.recall)
            found = entry.ladder.least(asked, lambda effort, rung: False)
            greatest = entry.index.efforts(self.width)[1]
            if effort >= greatest:
                return None
            effort = max(effort + 1, found) if found else min(greatest, round(1.25 * effort) + 1)
        for _ in range(2):
            missed = choice.lacks(held, self.objective).keys() - {"recall"}
            if held.recall >= floor and not missed:
                return held
            if held.recall < floor:
                return None
            held = self._on_held_out(entry, effort)  # p95 once more: noise only ever adds
        return None

    def _on_held_out(self, entry: RaceEntry, effort: int) -> Trial:
        """The entry measured on the held-out third."""
        held, k = self.held, self.width
        self._step("held out", 0, 1)
        if entry.index.capabilities.exact:
            recall = metrics.exact_recall(len(held))
        else:
            found = entry.index.search(held.vectors, k, effort=effort)
            recall = metrics.mean_recall(held.recalls(found, 0, len(held)), held.groups)
        slow = entry.times.cpu_ms > _SLOW_MS
        times = measure.times(
            [Contender(entry.index, effort)],
            held.vectors[: 16 if slow else None],
            k,
            rounds=2 if slow else _ROUNDS,
            step=self._tick,
        )[0]
        plan = replace(entry.plan, effort=effort)
        return trial(plan, entry.index, recall, entry.build_seconds, times)

    def _tuning(self, chosen: Trial, reason: str) -> Tuning:
        n, dim = self.flat.vectors.shape
        measured = [*(entry.trial() for entry in self.entries), *self.beside]
        return Tuning(
            objective=self.objective,
            chosen=chosen,
            trials=tuple(measured),
            rejected=tuple(self.rejected),
            reason=reason,
            rows=n,
            dim=dim,
            metric=self.flat.metric,
            source=self.workload.source,
            queries=len(self.every),
            pattern=pattern(self.every.vectors, self.every.true.ids),
            machine=tuning.machine(),
            data=tuning.fingerprint(self.flat, self.workload.vectors),
            builds=self.builds,
            seconds=self.clock() - self.began,
            interrupted=self.interrupted,
        )

    def _ladder(self, index: VectorIndex) -> Ladder:
        return Ladder(index, self.deciding, self.width, self._tick)

    def _timed(self, contenders: Sequence[Contender], *, few: bool = False) -> list[Times]:
        """Times on deciding questions; fewer questions where a contender is slow."""
        questions, rounds = self.deciding.vectors, 2 if few else _ROUNDS
        slowest = max(
            (e.times.cpu_ms for e in self.entries if any(c.index is e.index for c in contenders)),
            default=65e-6 * len(self.flat.ids),
        )
        asked = 16 if slowest > _SLOW_MS else 64 if few else len(questions)
        return measure.times(
            contenders, questions[:asked], self.width, rounds=rounds, step=self._tick
        )

    def _step(self, step: str, done: int, total: int) -> None:
        self.at = UpkeepProgress(step, done, total)
        self._tick()

    def _tick(self) -> None:
        self.progress(self.at)


def _free_bytes() -> int | None:
    """Free memory of this machine or its quota; None where it is unknown."""
    memory = host.memory()
    return memory.free if memory is not None else None


def _check(objective: Objective, flat: FlatIndex) -> None:
    if not 0 < objective.recall <= 1 or objective.k < 1:
        raise BadInput(
            f"recall {objective.recall:g} of the {objective.k} nearest cannot be kept to",
            fix="Ask for a recall above 0 and up to 1, and for 1 nearest or more",
        )
    if not len(flat.ids):
        raise BadInput("there are no vectors to tune an index for", fix="Add documents first")
