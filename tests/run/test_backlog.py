"""What waits, against a model of it, under a simulated clock."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vivace.errors import Overloaded
from vivace.run.backlog import LOWER_EVERY, Backlog, Entry
from vivace.run.work import Priority, Work

PRIORITIES = st.sampled_from(Priority)
USERS = st.sampled_from(["", "ann", "bob", "eve"])


def entry(
    priority: Priority = Priority.INTERACTIVE, user: str = "", deadline: float | None = None
) -> Entry:
    return Entry(Work(priority, deadline, user))


class Waiting(RuleBasedStateMachine):
    """Nothing is lost, doubled or starved; what is late or barred is never picked."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog: Backlog[Entry] = Backlog()
        self.now = 0.0
        self.waiting: list[Entry] = []
        """In the order of their arrival."""
        self.busy: list[Priority] = []
        self.bounds: dict[Priority, int] = {}
        self.passed = 0
        self.turns: dict[tuple[Priority, str], Counter[str]] = {}
        """Picks of other users since a user began to wait, or had their last turn."""

    @rule(priority=PRIORITIES, user=USERS, seconds=st.none() | st.integers(0, 5))
    def put(self, priority: Priority, user: str, seconds: int | None) -> None:
        one = entry(priority, user, None if seconds is None else self.now + seconds)
        if not any(self.same(one, other) for other in self.waiting):
            self.turns[priority, user] = Counter()
        self.backlog.put(one, self.now)
        self.waiting.append(one)

    @rule(seconds=st.integers(0, 4))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule(number=st.integers(0, 1000))
    @precondition(lambda self: self.waiting)
    def withdraw(self, number: int) -> None:
        one = self.waiting.pop(number % len(self.waiting))
        assert self.backlog.remove(one)
        assert not self.backlog.remove(one)

    @rule(priority=PRIORITIES, workers=st.none() | st.integers(0, 2))
    def bound(self, priority: Priority, workers: int | None) -> None:
        self.backlog.bound(priority, workers)
        self.bounds.pop(priority, None)
        if workers is not None:
            self.bounds[priority] = workers

    @rule(mates=st.integers(0, 3))
    def pick(self, mates: int) -> None:
        late = self.backlog.expire(self.now)
        assert set(late) == {one for one in self.waiting if one.work.late(self.now)}
        self.waiting = [one for one in self.waiting if one not in late]
        free = [one for one in self.waiting if not self.barred(one.work.priority)]
        assert self.backlog.ready() == bool(free)
        found = self.backlog.pick()
        if found is None:
            assert not free
            return
        self.check_urgency(found, free)
        self.check_turn(found)
        self.waiting.remove(found)
        self.busy.append(found.work.priority)
        for mate in list(self.backlog.alike(found, mates)):
            assert mate.work.priority == found.work.priority
            assert self.backlog.remove(mate)
            self.waiting.remove(mate)

    def check_urgency(self, found: Entry, free: list[Entry]) -> None:
        top = min(one.work.priority for one in free)
        choice = any(one.work.priority > top for one in free)
        if choice:
            self.passed += 1
        if choice and self.passed == LOWER_EVERY:
            self.passed = 0
            assert found.work.priority > top
        else:
            assert found.work.priority == top

    def check_turn(self, found: Entry) -> None:
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
        self.backlog.finished(self.busy.pop(0))

    @rule(priority=PRIORITIES)
    def begin_at_once(self, priority: Priority) -> None:
        """Only what has no others to wait for, and is not barred."""
        may = not self.waiting and not self.barred(priority)
        assert self.backlog.begin(priority) == may
        if may:
            self.busy.append(priority)

    @rule()
    def clear(self) -> None:
        assert set(self.backlog.clear()) == set(self.waiting)
        self.waiting = []

    @invariant()
    def counts_are_right(self) -> None:
        assert len(self.backlog) == len(self.waiting)
        counts = Counter(one.work.priority for one in self.waiting)
        assert self.backlog.waiting() == {p: counts[p] for p in Priority}
        deadlines = [d for one in self.waiting if (d := one.work.deadline) is not None]
        assert self.backlog.next_deadline() == min(deadlines, default=None)

    def barred(self, priority: Priority) -> bool:
        return any(
            priority >= bound and sum(one >= bound for one in self.busy) >= workers
            for bound, workers in self.bounds.items()
        )

    @staticmethod
    def same(one: Entry, other: Entry) -> bool:
        return (one.work.priority, one.work.user) == (other.work.priority, other.work.user)


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("lower", list(Priority)[1:])
def test_nothing_starves_under_steady_urgent_work(lower: Priority) -> None:
    backlog: Backlog[Entry] = Backlog()
    patient = entry(lower)
    for priority in Priority:
        backlog.put(entry(priority), 0)
    backlog.put(patient, 0)
    picks = 0
    while True:
        picks += 1
        for priority in Priority:  # every priority gets more than is picked
            backlog.put(entry(priority), 0)
        found = backlog.pick()
        assert found is not None
        if found is patient:
            break
    # before it: one of each lower priority, and it, at a share of the picks
    assert picks <= (len(Priority) + 1) * LOWER_EVERY


def test_a_user_with_much_does_not_delay_one_with_little() -> None:
    backlog: Backlog[Entry] = Backlog()
    for _ in range(1_000):
        backlog.put(entry(user="much"), 0)
    backlog.put(entry(user="little"), 0)
    assert [backlog.pick().work.user for _ in range(3)] == [  # type: ignore[union-attr]
        "much",
        "little",
        "much",
    ]


def test_it_is_bounded_where_it_should_be() -> None:
    backlog: Backlog[Entry] = Backlog(most=2)
    first = entry()
    backlog.put(first, 0)
    backlog.put(entry(), 0)
    with pytest.raises(Overloaded, match="2 already wait") as raised:
        backlog.put(entry(), 0)
    assert raised.value.retry_after > 0
    backlog.remove(first)
    backlog.put(entry(), 0)


def test_what_is_withdrawn_is_let_go_of() -> None:
    """Ten thousand abandoned entries leave next to nothing behind."""

    class Heavy(Entry):
        __slots__ = ("__weakref__",)

    backlog: Backlog[Entry] = Backlog()
    left = []
    for number in range(10_000):
        one = Heavy(Work(deadline=1e9 + number, user=str(number % 7)))
        left.append(weakref.ref(one))
        backlog.put(one, 0)
        backlog.remove(one)
    del one
    gc.collect()
    assert sum(ref() is not None for ref in left) <= 100
    assert len(backlog) == 0
