"""Pools and micro-batchers without threads: a machine takes their turns, under a simulated clock.

What a thread does between two looks at the queue is one step here, in whatever order Hypothesis
likes; so every schedule can be met, and none takes time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.profiles import scaled
from vivace.errors import Closed, DeadlineExceeded
from vivace.run.fair_queue import Waiter
from vivace.run.microbatch import MicroBatcher
from vivace.run.pools import ThreadPool
from vivace.run.work import Priority, Work, working_on
from vivace.run.workers import NextStep, Workers, WorkerSlot

PRIORITIES = st.sampled_from(Priority)
CAP = 3


class Stepped(RuleBasedStateMachine):
    """What a pool and a micro-batcher have in common."""

    workers: Workers[Any]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.began: Counter[int] = Counter()
        self.tasks: dict[int, asyncio.Task[Any]] = {}
        self.deadlines: dict[int, float | None] = {}
        self.gone: set[int] = set()
        self.asleep: set[WorkerSlot[Any]] = set()
        self.busy: set[WorkerSlot[Any]] = set()
        self.size = 2
        self.bounds: dict[Priority, int] = {}

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def ask(self, number: int, work: Work) -> asyncio.Task[Any]:
        raise NotImplementedError

    def expected(self, number: int) -> Any:
        raise NotImplementedError

    @rule(priority=PRIORITIES, user=st.sampled_from("ab"), seconds=st.none() | st.integers(1, 4))
    def submit(self, priority: Priority, user: str, seconds: int | None) -> None:
        number = len(self.tasks)
        deadline = None if seconds is None else self.now + seconds
        self.deadlines[number] = deadline
        self.tasks[number] = self.ask(number, Work(priority, deadline, user))
        self.settle()

    @rule(which=st.integers(0, 1000))
    def step(self, which: int) -> None:
        """One thread's turn: it ends what it did and does what is next."""
        able = [slot for slot in self.workers.slots if self.awake(slot)]
        if not able:
            return
        slot = able[which % len(able)]
        turn = self.workers.turn(slot)
        if turn is NextStep.SLEEP:
            self.asleep.add(slot)
        elif turn is NextStep.LEAVE:
            self.workers.ended(slot)
        self.settle()

    def awake(self, slot: WorkerSlot[Any]) -> bool:
        if slot in self.asleep and slot.wake.acquire(blocking=False):
            self.asleep.discard(slot)
        if slot in self.asleep and slot.until is not None and slot.until <= self.now:
            self.asleep.discard(slot)  # it looks for work again
            assert self.workers.rise(slot)
        return slot not in self.asleep

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule(which=st.integers(0, 1000))
    @precondition(lambda self: self.tasks)
    def cancel(self, which: int) -> None:
        number = which % len(self.tasks)
        if not self.tasks[number].done():
            self.gone.add(number)
            self.tasks[number].cancel()
            self.settle()

    @rule(size=st.integers(1, 4))
    def resize(self, size: int) -> None:
        self.size = size
        self.workers.resize(size)

    @rule(priority=PRIORITIES, workers=st.none() | st.integers(1, 2))
    def bound(self, priority: Priority, workers: int | None) -> None:
        self.workers.bound(priority, workers)

    @invariant()
    def nothing_is_done_twice_or_lost(self) -> None:
        assert not self.began or max(self.began.values()) == 1
        statistics = self.workers.statistics()
        assert len(self.workers.slots) <= max(self.size, 4)
        counted = (
            sum(statistics.queued.values())
            + statistics.running
            + statistics.done
            + statistics.failed
            + statistics.cancelled
            + statistics.expired
        )
        assert counted == len(self.tasks)
        for number, task in self.tasks.items():
            if task.done() and not task.cancelled():
                self.check(number, task)

    @invariant()
    def nobody_sleeps_while_there_is_work(self) -> None:
        """Work that may run has a thread that is awake, or about to be."""
        queue = self.workers.queue
        sleepers = [slot for slot in self.asleep if slot.wake.locked()]
        if queue.ready() and sleepers:
            assert any(slot not in sleepers for slot in self.workers.slots)

    def check(self, number: int, task: asyncio.Task[Any]) -> None:
        error = task.exception()
        if isinstance(error, DeadlineExceeded):
            deadline = self.deadlines[number]
            assert deadline is not None
            assert deadline <= self.now
            assert number not in self.began
        elif error is not None:
            assert isinstance(error, ValueError)
            assert number % 5 == 0
        else:
            assert task.result() == self.expected(number)

    def run_all(self) -> None:
        """Nothing starves: with time enough and nobody in the way, all comes to an end."""
        for priority in Priority:
            self.workers.bound(priority, None)
        for _ in range(20 * len(self.tasks) + 50):
            quiet = not self.workers.statistics().running
            if quiet and all(task.done() for task in self.tasks.values()):
                break
            for which in range(len(self.workers.slots)):
                self.step(which)
        assert all(task.done() for task in self.tasks.values())
        for number, task in self.tasks.items():
            if not task.cancelled():
                self.check(number, task)
            else:
                assert number in self.gone

    def teardown(self) -> None:
        try:
            self.run_all()
            last = [self.ask(1_001 + number, Work()) for number in range(3)]
            self.settle()
            begun = self.workers.statistics().running
            self.workers.close()
            for slot in list(self.workers.slots):
                while self.workers.turn(slot) is not NextStep.LEAVE:
                    pass
            self.settle()
            # what a sleeping thread was given had begun; the others had not
            assert sum(isinstance(one.exception(), Closed) for one in last) == 3 - begun
            assert not self.workers.slots
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.settle()
            self.loop.close()


@pytest.fixture(autouse=True, scope="module")
def no_threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workers, "start", lambda workers, slot: None)
        yield


def work_on(machine: Stepped, number: int) -> int:
    """Every fifth fails."""
    machine.began[number] += 1
    if number % 5 == 0:
        raise ValueError(number)
    return 2 * number


class SteppedPool(Stepped):
    def __init__(self) -> None:
        super().__init__()
        self.pool = ThreadPool(self.size, "stepped", clock=lambda: self.now)
        self.workers = self.pool

    def ask(self, number: int, work: Work) -> asyncio.Task[Any]:
        with working_on(work):  # its deadline is on the simulated clock
            return self.loop.create_task(self.pool.run(work_on, self, number))

    def expected(self, number: int) -> int:
        return 2 * number


TestPool = SteppedPool.TestCase
TestPool.settings = settings(max_examples=scaled(120), stateful_step_count=50)


class SteppedBatcher(Stepped):
    def __init__(self) -> None:
        super().__init__()
        self.batcher: MicroBatcher[tuple[int, Priority], int] = MicroBatcher(
            self.batch,
            workers=self.size,
            cap=CAP,
            size=lambda item: item[0] % 7,
            clock=lambda: self.now,
        )
        self.workers = self.batcher

    def batch(self, items: list[tuple[int, Priority]]) -> Sequence[int]:
        assert 1 <= len(items) <= CAP
        assert len({priority for _, priority in items}) == 1
        if len(items) > 1 and any(number % 5 == 0 for number, _ in items):
            raise ValueError("a batch fails before it does anything")
        return [work_on(self, number) for number, _ in items]

    def ask(self, number: int, work: Work) -> asyncio.Task[Any]:
        with working_on(work):  # its deadline is on the simulated clock
            return self.loop.create_task(self.batcher.run((number, work.priority)))

    def expected(self, number: int) -> int:
        return 2 * number


TestBatcher = SteppedBatcher.TestCase
TestBatcher.settings = settings(max_examples=scaled(120), stateful_step_count=50)


class Breaks(WorkerSlot[Waiter]):
    def run(self, batch: list[Waiter]) -> None:
        raise MemoryError("of the worker itself")


def test_a_worker_that_raises_costs_its_batch_and_its_thread() -> None:
    delivered: list[Waiter] = []
    workers: Workers[Waiter] = Workers("broken", 1, Breaks, delivered.extend)
    first, second = Waiter(Work()), Waiter(Work())
    workers.enqueue((first,))
    workers.enqueue((second,))
    for _ in range(2):
        (slot,) = workers.slots
        with pytest.raises(MemoryError):
            workers.serve(slot)
    assert delivered == [first, second]
    assert isinstance(second.error, MemoryError)
    statistics = workers.statistics()
    assert (statistics.failed, statistics.running) == (2, 0)
    assert not workers.slots
