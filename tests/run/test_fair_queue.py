"""The fair queue against a model of it, under a simulated clock."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.profiles import scaled
from vivace.run.fair_queue import LOWER_EVERY, FairQueue, Waiter
from vivace.run.work import Priority, Work

PRIORITIES = st.sampled_from(Priority)
USERS = st.sampled_from(["", "ann", "bob", "eve"])


def waiter(
    priority: Priority = Priority.INTERACTIVE, user: str = "", deadline: float | None = None
) -> Waiter:
    return Waiter(Work(priority, deadline, user))


class QueueMachine(RuleBasedStateMachine):
    """Nothing is lost, doubled or starved; what is late or barred is never picked."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Waiter] = FairQueue()
        self.now = 0.0
        self.waiting: list[Waiter] = []
        """In the order of their arrival."""
        self.busy: list[Priority] = []
        self.bounds: dict[Priority, int] = {}
        self.passed = 0
        self.turns: dict[tuple[Priority, str], Counter[str]] = {}
        """Picks of other users since a user began to wait, or had their last turn."""

    @rule(priority=PRIORITIES, user=USERS, seconds=st.none() | st.integers(0, 5))
    def put(self, priority: Priority, user: str, seconds: int | None) -> None:
        one = waiter(priority, user, None if seconds is None else self.now + seconds)
        if not any(self.same(one, other) for other in self.waiting):
            self.turns[priority, user] = Counter()
        self.queue.put(one, self.now)
        self.waiting.append(one)

    @rule(seconds=st.integers(0, 4))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule(number=st.integers(0, 1000))
    @precondition(lambda self: self.waiting)
    def withdraw(self, number: int) -> None:
        one = self.waiting.pop(number % len(self.waiting))
        assert self.queue.remove(one)
        assert not self.queue.remove(one)

    @rule(priority=PRIORITIES, workers=st.none() | st.integers(0, 2))
    def bound(self, priority: Priority, workers: int | None) -> None:
        self.queue.bound(priority, workers)
        self.bounds.pop(priority, None)
        if workers is not None:
            self.bounds[priority] = workers

    @rule(mates=st.integers(0, 3))
    def pick(self, mates: int) -> None:
        late = self.queue.expire(self.now)
        assert set(late) == {one for one in self.waiting if one.work.late(self.now)}
        self.waiting = [one for one in self.waiting if one not in late]
        free = [one for one in self.waiting if not self.barred(one.work.priority)]
        assert self.queue.ready() == bool(free)
        found = self.queue.pick()
        if found is None:
            assert not free
            return
        self.check_urgency(found, free)
        self.check_turn(found)
        self.waiting.remove(found)
        self.busy.append(found.work.priority)
        for mate in list(self.queue.alike(found, mates)):
            assert mate.work.priority == found.work.priority
            assert self.queue.remove(mate)
            self.waiting.remove(mate)

    @rule(number=st.integers(0, 3))
    @precondition(lambda self: self.waiting)
    def take_a_slot(self, number: int) -> None:
        """The one whose turn it is; or another one, where that one cannot use what is free."""
        order = list(self.queue.in_turn())
        assert set(order) == set(self.waiting)
        assert len(order) == len(self.waiting)
        head = self.queue.head()
        assert head is order[0]
        taken = order[number % len(order)]
        if taken is head:
            self.check_urgency(taken, self.waiting)
            self.check_turn(taken)
        else:
            self.count_choice(taken)
            self.turns[taken.work.priority, taken.work.user] = Counter()
            for (priority, user), turns in self.turns.items():
                if priority == taken.work.priority and user != taken.work.user:
                    turns.clear()  # who was passed over has no claim on the next turns
        self.queue.take(taken)
        self.waiting.remove(taken)

    def count_choice(self, found: Waiter) -> None:
        top = min(one.work.priority for one in self.waiting)
        if found.work.priority > top:
            self.passed = 0
        elif any(one.work.priority > top for one in self.waiting):
            self.passed = min(self.passed + 1, LOWER_EVERY - 1)

    @rule(priority=PRIORITIES, user=USERS)
    def look_at_shares(self, priority: Priority, user: str) -> None:
        assert self.queue.users() == {one.work.user for one in self.waiting}
        mine = [one for one in self.waiting if one.work.user == user]
        assert self.queue.waiting_of(user) == len(mine)
        ahead = [one for one in self.waiting if one.work.priority <= priority]
        assert self.queue.ahead(Work(priority)) == len(ahead)

    def check_urgency(self, found: Waiter, free: list[Waiter]) -> None:
        top = min(one.work.priority for one in free)
        choice = any(one.work.priority > top for one in free)
        if choice:
            self.passed += 1
        if choice and self.passed == LOWER_EVERY:
            self.passed = 0
            assert found.work.priority > top
        else:
            assert found.work.priority == top

    def check_turn(self, found: Waiter) -> None:
        mine = [one for one in self.waiting if self.same(one, found)]
        assert found is mine[0]  # first come, first served
        for (priority, user), turns in self.turns.items():
            if priority == found.work.priority:
                turns[found.work.user] += 1
                waits = any(
                    one.work.priority == priority and one.work.user == user for one in self.waiting
                )
                assert user == found.work.user or not waits or max(turns.values()) <= 1
        self.turns[found.work.priority, found.work.user] = Counter()

    @rule()
    @precondition(lambda self: self.busy)
    def finish(self) -> None:
        self.queue.finished(self.busy.pop(0))

    @rule(priority=PRIORITIES)
    def begin_at_once(self, priority: Priority) -> None:
        """Only what has no others to wait for, and is not barred."""
        may = not self.waiting and not self.barred(priority)
        assert self.queue.begin(priority) == may
        if may:
            self.busy.append(priority)

    @rule()
    def clear(self) -> None:
        assert set(self.queue.clear()) == set(self.waiting)
        self.waiting = []

    @invariant()
    def counts_are_right(self) -> None:
        assert len(self.queue) == len(self.waiting)
        counts = Counter(one.work.priority for one in self.waiting)
        assert self.queue.waiting() == {p: counts[p] for p in Priority}
        deadlines = [d for one in self.waiting if (d := one.work.deadline) is not None]
        assert self.queue.next_deadline() == min(deadlines, default=None)

    def barred(self, priority: Priority) -> bool:
        return any(
            priority >= bound and sum(one >= bound for one in self.busy) >= workers
            for bound, workers in self.bounds.items()
        )

    @staticmethod
    def same(one: Waiter, other: Waiter) -> bool:
        return (one.work.priority, one.work.user) == (other.work.priority, other.work.user)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=scaled(150), stateful_step_count=60)


@pytest.mark.parametrize("lower", list(Priority)[1:])
def test_nothing_starves_under_steady_urgent_work(lower: Priority) -> None:
    queue: FairQueue[Waiter] = FairQueue()
    patient = waiter(lower)
    for priority in Priority:
        queue.put(waiter(priority), 0)
    queue.put(patient, 0)
    picks = 0
    while True:
        picks += 1
        for priority in Priority:  # every priority gets more than is picked
            queue.put(waiter(priority), 0)
        found = queue.pick()
        assert found is not None
        if found is patient:
            break
    # before it: one of each lower priority, and it, at a share of the picks
    assert picks <= (len(Priority) + 1) * LOWER_EVERY


def test_a_user_with_much_does_not_delay_one_with_little() -> None:
    queue: FairQueue[Waiter] = FairQueue()
    for _ in range(1_000):
        queue.put(waiter(user="much"), 0)
    queue.put(waiter(user="little"), 0)
    assert [queue.pick().work.user for _ in range(3)] == [  # type: ignore[union-attr]
        "much",
        "little",
        "much",
    ]


def test_the_user_who_holds_least_has_the_next_slot() -> None:
    queue: FairQueue[Waiter] = FairQueue()
    for user in ("much", "some", "much", "none", "none"):
        queue.put(waiter(user=user), 0)
    held = Counter(much=3, some=1)
    order = []
    while (head := queue.head(held)) is not None:
        queue.take(head)
        order.append(head.work.user)
        held[head.work.user] += 1
    assert order == ["none", "some", "none", "much", "much"]


def test_the_newest_less_urgent_waiter_makes_room_for_a_more_urgent_arrival() -> None:
    queue: FairQueue[Waiter] = FairQueue()
    first, newest = waiter(Priority.INGEST), waiter(Priority.INGEST)
    for one in (first, newest, waiter(Priority.BATCH)):
        queue.put(one, 0)
    assert queue.victim(Work(), {}, equals=False) is newest
    assert queue.victim(Work(), {}, equals=True) is None  # nobody as urgent waits
    assert queue.victim(Work(Priority.BACKGROUND), {}, equals=False) is None


@pytest.mark.parametrize(
    ("user", "held", "goes"),
    [
        ("modest", {}, True),
        ("modest", {"modest": 1}, False),  # it would only be the other way round
        ("modest", {"modest": 1, "greedy": 1}, True),
        ("greedy", {"greedy": 5}, False),
        ("", {}, False),
    ],
)
def test_the_newest_waiter_of_the_user_with_most_makes_room_for_one_as_urgent(
    user: str, held: dict[str, int], goes: bool
) -> None:
    queue: FairQueue[Waiter] = FairQueue()
    for _ in range(2):
        newest = waiter(user="greedy")
        queue.put(newest, 0)
    queue.put(waiter(user="other"), 0)
    assert queue.victim(Work(user=user), held, equals=False) is (newest if goes else None)


def test_slots_go_in_turn_and_any_waiter_may_leave_or_be_taken() -> None:
    queue: FairQueue[Waiter] = FairQueue()
    by_name = {name: waiter(Priority(p)) for name, p in zip("abcd", (2, 0, 1, 0), strict=True)}
    for one in by_name.values():
        queue.put(one, 0)
    names = {one: name for name, one in by_name.items()}
    assert "".join(names[one] for one in queue.in_turn()) == "bdca"
    assert queue.remove(by_name["d"])
    assert not queue.remove(by_name["d"])
    order = []
    while (head := queue.head()) is not None:
        assert queue.head() is head
        queue.take(head)
        order.append(names[head])
    assert order == ["b", "c", "a"]


def test_removed_waiters_are_released() -> None:
    """Ten thousand removed waiters leave next to nothing behind."""

    class Heavy(Waiter):
        __slots__ = ("__weakref__",)

    queue: FairQueue[Waiter] = FairQueue()
    left = []
    for number in range(10_000):
        one = Heavy(Work(deadline=1e9 + number, user=str(number % 7)))
        left.append(weakref.ref(one))
        queue.put(one, 0)
        queue.remove(one)
    del one
    gc.collect()
    assert sum(ref() is not None for ref in left) <= 100
    assert len(queue) == 0
