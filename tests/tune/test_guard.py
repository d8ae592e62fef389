"""The guard keeps its share of CPU, is right about recall, and mends an effort that is too low."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vivace.index.flat import FlatIndex
from vivace.index.pq import PqIndex
from vivace.tune.guard import RecallGuard, RecallTicket, raised
from vivace.tune.measure import recalls
from vivace.tune.metrics import Recalls
from vivace.tune.workload import Workload
from vivace.types import Matches


class Cpu:
    """The process's CPU clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _answer(question: int, recall: float) -> tuple[Matches, Matches]:
    """A question's ten true neighbours, and an answer that has so many of them."""
    ids = 10 * question + np.arange(10)[None]
    exact = Matches(ids, np.ones((1, 10), np.float32))
    scores = np.where(np.arange(10) < round(10 * recall), 1, 0.5)[None].astype(np.float32)
    return Matches(ids, scores), exact


def _watching(guard: RecallGuard, values: Recalls, first: int = 0) -> int | None:
    """How many answers it took to suspect the index; None if it was not."""
    for number, value in enumerate(values):
        ticket = RecallTicket(guard.state, 0.0)
        if guard.observe(ticket, *_answer(first + number, value), 0.0):
            return number + 1
    return None


def test_the_guard_spends_its_share_of_cpu_and_no_more() -> None:
    cpu, rng = Cpu(), np.random.default_rng(0)
    guard = RecallGuard(0.95, cpu=cpu)
    began, asked = cpu.now, 0
    for number in range(40_000):
        cpu.now += rng.exponential(0.001)
        if (ticket := guard.wants()) is not None:
            asked += 1
            cost = rng.exponential(0.004)
            cpu.now += cost
            guard.observe(ticket, *_answer(number, 1.0), cost)
            assert guard.spent <= 0.02 * (cpu.now - began) + 0.05
    assert 0.015 * (cpu.now - began) <= guard.spent <= 0.02 * (cpu.now - began)
    assert asked > 100


def test_idle_time_is_not_saved_up_for_a_burst() -> None:
    cpu = Cpu()
    guard = RecallGuard(0.95, cpu=cpu, cost=0.1)
    guard.wants()
    cpu.now += 10_000
    tickets = [guard.wants() for _ in range(1_000)]
    assert sum(ticket is not None for ticket in tickets) <= 12


def test_a_dropped_ticket_gives_its_reserve_back() -> None:
    cpu = Cpu()
    guard = RecallGuard(0.95, cpu=cpu, cost=1.0)
    cpu.now += 100
    first = guard.wants()
    assert first is not None
    while (ticket := guard.wants()) is not None:
        pass
    assert guard.wants() is None
    guard.dropped(first)
    assert ticket is None
    assert guard.wants() is not None


@pytest.mark.parametrize("each", [0.93, 0.97, 0.99])
def test_the_guards_interval_covers_the_truth(each: float) -> None:
    covered = 0
    for seed in range(100):
        guard = RecallGuard(0.5)
        _watching(guard, np.random.default_rng(seed).binomial(10, each, 200) / 10)
        seen = guard.estimate()
        assert seen.queries == 200
        assert (seen.high - seen.low) / 2 <= 0.03
        covered += seen.low <= each <= seen.high
    assert covered >= 93


def test_answers_outside_the_window_do_not_count() -> None:
    guard = RecallGuard(0.1, window=100)
    _watching(guard, np.full(100, 0.5))
    _watching(guard, np.ones(100), first=100)
    assert guard.estimate().mean == 1


def test_an_index_that_meets_the_floor_is_hardly_ever_suspected() -> None:
    """Five thousand looks at each of ten indexes a little above the floor."""
    suspected = 0
    for seed in range(10):
        values = np.random.default_rng(seed).binomial(10, 0.955, 5_000) / 10
        suspected += _watching(RecallGuard(0.95), values) is not None
    assert suspected <= 1


def test_large_and_small_shortfalls_are_detected_in_time() -> None:
    for each, within in ((0.7, 40), (0.85, 120), (0.9, 300)):
        for seed in range(10):
            values = np.random.default_rng(seed).binomial(10, each, 600) / 10
            took = _watching(RecallGuard(0.95), values)
            assert took is not None
            assert 20 <= took <= within


def test_a_drop_after_a_long_good_time_is_detected_as_soon() -> None:
    guard = RecallGuard(0.95)
    assert _watching(guard, np.ones(5_000)) is None
    took = _watching(guard, np.full(300, 0.8), first=5_000)
    assert took is not None
    assert took <= 100


def test_one_bad_question_repeated_is_no_evidence() -> None:
    guard = RecallGuard(0.95)
    _watching(guard, np.ones(100))
    for _ in range(150):
        assert not guard.observe(RecallTicket(guard.state, 0.0), *_answer(7_000, 0.2), 0.0)
    seen = guard.estimate()
    assert seen.high - seen.low > 0.3


def test_a_restart_discards_evidence_and_outstanding_tickets() -> None:
    guard = RecallGuard(0.95)
    late = RecallTicket(guard.state, 0.0)
    _watching(guard, np.zeros(15))
    guard.restart()
    assert not guard.observe(late, *_answer(0, 0.0), 0.5)
    assert guard.spent == 0.5
    assert guard.estimate().queries == 0


def test_a_question_without_neighbours_is_no_evidence() -> None:
    guard = RecallGuard(0.95)
    nothing = Matches(np.full((1, 10), -1), np.full((1, 10), -np.inf, np.float32))
    assert not guard.observe(RecallTicket(guard.state, 0.0), nothing, nothing, 0.1)
    assert guard.estimate().queries == 0


def test_the_guard_is_thread_safe() -> None:
    cpu = Cpu()
    guard = RecallGuard(0.95, cpu=cpu, cost=0.001, window=1_000)

    def ask(number: int) -> int:
        cpu.now += 0.05
        ticket = guard.wants()
        if ticket is None:
            return 0
        guard.observe(ticket, *_answer(number, 1.0), 0.001)
        guard.estimate()
        return 1

    with ThreadPoolExecutor(8) as pool:
        asked = sum(pool.map(ask, range(2_000)))
    assert guard.spent == pytest.approx(0.001 * asked)
    assert guard.estimate().queries == min(asked, 1_000)


def test_effort_is_raised_in_proportion_to_the_shortfall() -> None:
    def after(effort: int, mean: float) -> int:
        guard = RecallGuard(0.95)
        _watching(guard, np.full(10, mean))
        return raised(effort, (10, 1_000), guard.estimate(), 0.95)

    assert after(20, 0.9) == 40
    assert after(20, 0.8) == 80
    assert after(20, 0.0) == 320
    assert after(900, 0.9) == 1_000
    assert after(0, 0.9) == 1_000


@pytest.mark.parametrize("floor", [0.95, 0.99])
def test_the_floor_is_restored_within_300_answers(
    floor: float, sentences: tuple[FlatIndex, Workload]
) -> None:
    flat, workload = sentences
    index, asked = PqIndex.build(flat), workload.vectors
    exact = flat.exact(asked, 10)
    for seed in range(5):
        guard, effort = RecallGuard(floor, seed=seed), 10
        rng = np.random.default_rng(seed)
        for which in rng.permutation(len(asked))[:300]:
            found = index.search(asked[which : which + 1], 10, effort=effort)
            true = Matches(exact.ids[which : which + 1], exact.scores[which : which + 1])
            if guard.observe(RecallTicket(guard.state, 0.0), found, true, 0.0):
                effort = raised(effort, index.efforts(10), guard.estimate(), floor)
                guard.restart()
        assert recalls(index.search(asked, 10, effort=effort), exact).mean() >= floor
