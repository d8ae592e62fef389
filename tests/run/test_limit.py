"""The limit's queue, shares and bounds; and that no slot is lost, whatever happens."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.run.service import Clock
from tests.support.profiles import scaled
from vivace.errors import Closed, DeadlineExceeded, Overloaded, ShareExceeded, VivaceError
from vivace.run.limit import ConcurrencyLimit, Outcome, Permit, QueuedCall
from vivace.run.work import Priority, Work, work_context


def fixed(n: int, **options: float) -> ConcurrencyLimit:
    return ConcurrencyLimit("tests", lowest=n, highest=n, **options)  # type: ignore[arg-type]


async def test_a_free_slot_is_granted_at_once_and_given_back() -> None:
    limit = fixed(1)
    with await limit.acquire():
        assert limit.try_acquire() is None
        assert limit.statistics().in_flight == 1
    assert limit.statistics().in_flight == 0
    assert limit.try_acquire() is not None


async def test_queued_calls_are_served_by_priority_and_then_by_arrival() -> None:
    limit = fixed(1)
    held = await limit.acquire()
    order: list[str] = []

    async def call(name: str, priority: Priority) -> None:
        with work_context(priority), await limit.acquire():
            order.append(name)

    tasks = [
        asyncio.create_task(call(name, priority))
        for name, priority in [
            ("ingest", Priority.INGEST),
            ("first", Priority.INTERACTIVE),
            ("batch", Priority.BATCH),
            ("second", Priority.INTERACTIVE),
        ]
    ]
    await asyncio.sleep(0)
    assert limit.statistics().queued == 4
    held.release()
    await asyncio.gather(*tasks)
    assert order == ["first", "second", "batch", "ingest"]


async def test_a_call_cancelled_in_the_queue_or_as_it_is_granted_gives_its_slot_back() -> None:
    limit = fixed(1)
    held = await limit.acquire()
    waiting = [asyncio.create_task(limit.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    held.release()  # to the second, as the first has gone
    waiting[1].cancel()  # after it was told, before it runs
    await asyncio.gather(*waiting, return_exceptions=True)
    assert all(task.cancelled() for task in waiting)
    assert limit.statistics().in_flight == limit.statistics().queued == 0


async def test_a_wait_ends_at_its_deadline() -> None:
    limit = fixed(1)
    held = await limit.acquire()
    with work_context(seconds=0.01), pytest.raises(DeadlineExceeded):
        await limit.acquire()
    assert limit.statistics().refused == {"expired": 1}
    held.release()


async def test_a_full_queue_refuses_and_says_when_to_try_again() -> None:
    limit = fixed(1, queue=0)
    with await limit.acquire(), pytest.raises(Overloaded) as error:
        await limit.acquire()
    assert 0 < error.value.retry_after <= 30
    assert limit.statistics().refused == {"full": 1}


async def test_a_more_urgent_call_replaces_the_newest_less_urgent_one() -> None:
    limit = fixed(1, queue=1)
    held = await limit.acquire()
    with work_context(Priority.INGEST):
        ingest = asyncio.create_task(limit.acquire())
    await asyncio.sleep(0)
    search = asyncio.create_task(limit.acquire())
    with pytest.raises(Overloaded):
        await ingest
    held.release()
    (await search).release()


async def test_a_user_who_holds_less_replaces_one_who_holds_more() -> None:
    limit = fixed(1, queue=2)
    with work_context(user="greedy"):
        held = await limit.acquire()
        greedy = [asyncio.create_task(limit.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    with work_context(user="modest"):
        modest = asyncio.create_task(limit.acquire())
    with pytest.raises(ShareExceeded):
        await greedy[1]
    with work_context(user="greedy"), pytest.raises(ShareExceeded):
        await limit.acquire()
    held.release()
    (await greedy[0]).release()  # it came first, and holds nothing any more
    (await modest).release()


async def test_one_user_alone_has_all_the_room() -> None:
    limit = fixed(1, queue=0)
    with work_context(user="only"), await limit.acquire(), pytest.raises(Overloaded) as error:
        await limit.acquire()
    assert not isinstance(error.value, ShareExceeded)


def test_a_call_that_cannot_be_in_time_is_refused_at_once() -> None:
    clock = Clock()
    limit = fixed(1, clock=clock)  # type: ignore[arg-type]
    for _ in range(40):  # it learns that a call takes a second
        permit = limit.enter(Work(), lambda _: True)
        assert isinstance(permit, Permit)
        clock.now += 1
        permit.release()
    limit.enter(Work(), lambda _: True)
    with pytest.raises(Overloaded):
        limit.enter(Work(deadline=clock.now + 1.5), lambda _: True)
    assert isinstance(limit.enter(Work(deadline=clock.now + 10), lambda _: True), QueuedCall)


async def test_closing_refuses_queued_and_coming_calls() -> None:
    limit = fixed(1)
    held = await limit.acquire()
    waiting = asyncio.create_task(limit.acquire())
    await asyncio.sleep(0)
    limit.close()
    with pytest.raises(Closed):
        await waiting
    with pytest.raises(Closed):
        await limit.acquire()
    held.release()
    assert limit.statistics().in_flight == 0


async def test_a_refusal_is_remembered_until_anything_changes() -> None:
    limit = fixed(1, queue=0)
    held = await limit.acquire()
    assert limit.refusal("", 1.0) is None  # nobody was refused yet
    with work_context(seconds=1.0), pytest.raises(Overloaded) as error:
        await limit.acquire()
    assert limit.refusal("", 0.5) is error.value
    assert limit.refusal("", 0.501) is error.value  # the one refused had spent that on the way
    assert limit.refusal("", 2.0) is None  # with more time there may be room
    assert limit.refusal("another", 0.5) is None
    assert limit.statistics().refused == {"full": 3}
    held.release()
    assert limit.refusal("", 0.5) is None


PRIORITIES = st.sampled_from(list(Priority))


class LimitMachine(RuleBasedStateMachine):
    """Each call is in one place: it holds a slot, it waits, or it got an error."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.limit = ConcurrencyLimit("tests", lowest=1, highest=4, queue=6, clock=self.clock)
        self.holding: list[Permit] = []
        self.waiting: dict[int, QueuedCall] = {}
        self.count = 0

    @rule(priority=PRIORITIES, user=st.sampled_from(["", "a", "b"]), left=st.floats(0.1, 20))
    def come(self, priority: Priority, user: str, left: float) -> None:
        number = self.count
        self.count += 1
        told: list[Permit | Exception] = []

        def tell(result: Permit | Exception) -> bool:
            assert not told, "told twice"
            told.append(result)
            self.waiting.pop(number, None)
            if isinstance(result, Permit):
                self.holding.append(result)
            return True

        try:
            place = self.limit.enter(Work(priority, self.clock.now + left, user), tell)
        except VivaceError:
            return
        if isinstance(place, Permit):
            self.holding.append(place)
        elif not told:
            self.waiting[number] = place

    @precondition(lambda self: self.holding)
    @rule(data=st.data(), outcome=st.sampled_from(list(Outcome)))
    def give_back(self, data: st.DataObject, outcome: Outcome) -> None:
        permit = data.draw(st.sampled_from(self.holding))
        self.holding.remove(permit)
        permit.release(outcome)
        permit.release(outcome)  # once more changes nothing

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        self.limit.leave(self.waiting.pop(number))

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.limit.expire()

    @rule(lowest=st.integers(1, 4), more=st.integers(0, 4))
    def bound(self, lowest: int, more: int) -> None:
        self.limit.bound(lowest, lowest + more)
        found = self.limit.statistics()
        assert (found.lowest, found.highest) == (lowest, lowest + more)

    @invariant()
    def no_slot_is_lost_or_doubled(self) -> None:
        found = self.limit.statistics()
        assert found.in_flight == len(self.holding)
        assert found.queued == len(self.waiting) <= 6
        assert found.lowest <= found.limit <= found.highest

    @invariant()
    def nobody_waits_while_a_slot_is_free(self) -> None:
        found = self.limit.statistics()
        assert not found.queued or found.in_flight >= found.limit

    @invariant()
    def nobody_waits_beyond_the_deadline(self) -> None:
        assert not any(place.work.late(self.clock.now) for place in self.waiting.values())

    def teardown(self) -> None:
        while self.holding:  # whoever waits is served in the end
            self.holding.pop().release()
        assert not self.waiting
        assert self.limit.statistics().in_flight == 0


LimitMachine.TestCase.settings = settings(max_examples=scaled(60), stateful_step_count=40)
TestLimitMachine = LimitMachine.TestCase
