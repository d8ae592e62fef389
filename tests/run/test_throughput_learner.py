"""The learned limit against the best fixed one, on services of which the throughput is known."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest

from tests.run.service import Clock, Curve, Run, Simulation, batching, cores, slots
from vivace.run.learners import LADDER, ThroughputLearner
from vivace.run.limit import Permit
from vivace.run.work import Priority, Work

SHARE = 0.75
"""Of the goodput of the best fixed limit."""
FIXED = (1, 2, 4, 8, 16, 24, 32, 48)


@cache
def best_fixed(curve: Curve, arrivals: float, deadline: float) -> int:
    """Goodput of the best fixed limit in four seconds."""

    def good(limit: int) -> int:
        simulation = Simulation(
            curve, arrivals=arrivals, deadline=deadline, lowest=limit, highest=limit
        )
        simulation.run(2)
        return simulation.run(4).good

    return max(map(good, FIXED))


@pytest.mark.parametrize(
    ("curve", "capacity", "deadline"),
    [(cores, 160, 0.25), (batching, 282, 0.25), (slots, 320, 0.4)],
)
@pytest.mark.parametrize("times", [1.5, 3.0])
def test_it_serves_nearly_as_much_as_the_best_fixed_limit(
    curve: Curve, capacity: float, deadline: float, times: float
) -> None:
    simulation = Simulation(curve, arrivals=times * capacity, deadline=deadline)
    simulation.run(15)
    run = simulation.run(4)
    assert run.good >= SHARE * best_fixed(curve, times * capacity, deadline)


@pytest.mark.parametrize(
    ("before", "after"), [(cores, slots), (slots, cores), (slots, batching), (batching, cores)]
)
def test_it_finds_the_new_limit_when_the_service_changes(before: Curve, after: Curve) -> None:
    simulation = Simulation(before, arrivals=700, deadline=0.4)
    simulation.run(8)
    simulation.curve = after
    simulation.run(15)
    assert simulation.run(4).good >= SHARE * best_fixed(after, 700, 0.4)


def test_it_refuses_next_to_nothing_at_low_load() -> None:
    for curve, capacity in ((cores, 160), (batching, 282), (slots, 320)):
        simulation = Simulation(curve, arrivals=0.5 * capacity, deadline=0.4)
        simulation.run(10)  # until it is as wide as this load needs
        run = simulation.run(20)
        assert run.refused <= 0.005 * (run.refused + run.good + run.late)


def test_it_recovers_from_a_service_slower_than_its_deadlines() -> None:
    """All calls are late for a while; when the service is well again, so is the limit."""
    simulation = Simulation(cores, arrivals=300, deadline=0.25)
    simulation.run(5)
    simulation.curve = lambda n: 0.5
    simulation.run(30)
    simulation.curve = cores
    simulation.run(10)
    run: Run = simulation.run(4)
    assert run.good >= SHARE * best_fixed(cores, 300, 0.25)


def test_nothing_is_learned_while_the_limit_does_not_bind() -> None:
    clock = Clock()
    learner = ThroughputLearner(lowest=1, highest=64, start=8, clock=clock)
    for number in range(2000):
        learner.began()
        clock.now += 0.01 if number % 7 else 0.1
        learner.ended(0.01)
    assert learner.limit == 8


def test_bounds_hold_at_once_and_always() -> None:
    clock = Clock()
    learner = ThroughputLearner(lowest=1, highest=64, start=8, clock=clock)
    learner.bound(20, 30)
    assert learner.limit == 20
    learner.bound(3, 5)
    assert learner.limit == 5
    for _ in range(1000):
        while learner.in_flight < learner.limit:
            learner.began()
        clock.now += 0.01
        learner.ended(0.01)
        assert 3 <= learner.limit <= 5


def test_the_ladder_has_even_steps() -> None:
    steps = [above / below for below, above in pairwise(LADDER[1:])]
    assert LADDER[:6] == (1, 2, 3, 4, 6, 8)
    assert all(4 / 3 <= step <= 3 / 2 for step in steps)


def test_steady_urgent_work_does_not_starve_the_rest() -> None:
    simulation = Simulation(cores, arrivals=500, deadline=0.25)
    simulation.run(5)
    served: list[Permit | Exception] = []

    def told(result: Permit | Exception) -> bool:
        served.append(result)
        if isinstance(result, Permit):
            result.release()
        return True

    simulation.limit.enter(Work(Priority.INGEST), told)
    simulation.run(1)
    assert isinstance(served[0], Permit)
