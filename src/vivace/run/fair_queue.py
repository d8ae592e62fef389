"""Who waits, and who is next? A pure data structure: its owner brings the lock and the clock.

Priority: the most urgent goes first, but one of every `LOWER_EVERY` choices goes to a less urgent
one, so nothing starves. Fairness: within a priority the users take turns, each first come, first
served. Deadlines: a waiter whose deadline has passed is taken out. Bounds: at most so many workers
at once do work of a priority or less urgent.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, Generic, TypeVar

from vivace.run.work import Priority, Work

LOWER_EVERY: Final = 8
"""Of so many choices between priorities, one goes to a less urgent one: to the one whose next
waiter came first. So a waiter waits for a finite number of those that came before it."""
_SLACK: Final = 64
"""Deadlines of removed waiters that are kept before they are cleared away."""


class Waiter:
    """A piece of work, or a call that waits for a slot. It may wait in one queue, once."""

    __slots__ = ("arrived", "error", "number", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.arrived = 0.0
        self.number = -1
        """Order of arrival; negative while it does not wait."""
        self.error: BaseException | None = None
        """Why there is no result."""

    @property
    def unwanted(self) -> bool:
        """Whether nobody waits for the result any more."""
        return False


W = TypeVar("W", bound=Waiter)


class FairQueue(Generic[W]):
    """Waiters by priority, user and arrival, and how many workers are busy with which priority.

    Every method takes O(log n) at most, amortised, and most take O(1); `head` with `held` and
    `victim` also look at each waiting user of one priority. A removed waiter is released at once,
    except for up to `_SLACK` of those with a deadline, or as many as wait.
    """

    def __init__(self) -> None:
        self._lines: tuple[_Line[W], ...] = tuple(_Line() for _ in Priority)
        self._deadlines: list[tuple[float, int, W]] = []
        self._timed = 0
        """Waiters with a deadline; the other members of `_deadlines` have left."""
        self._waiting = 0
        self._arrivals = 0
        self._passed = 0
        """Choices that went to the most urgent priority since the last one that did not."""
        self._busy = [0] * len(Priority)
        self._bounds: dict[Priority, int] = {}

    def __len__(self) -> int:
        return self._waiting

    def waiting(self) -> dict[Priority, int]:
        return {priority: self._lines[priority].waiting for priority in Priority}

    def users(self) -> set[str]:
        """The users of what waits."""
        return set[str]().union(*(line.users for line in self._lines))

    def waiting_of(self, user: str) -> int:
        """How many waiters of any priority the user has."""
        return sum(len(line.users.get(user, ())) for line in self._lines)

    def ahead(self, work: Work) -> int:
        """How many waiters are at least as urgent."""
        return sum(line.waiting for line in self._lines[: work.priority + 1])

    def put(self, waiter: W, now: float) -> None:
        """Let it wait."""
        waiter.arrived = now
        waiter.number = self._arrivals
        self._arrivals += 1
        self._waiting += 1
        self._lines[waiter.work.priority].append(waiter)
        if waiter.work.deadline is not None:
            heapq.heappush(self._deadlines, (waiter.work.deadline, waiter.number, waiter))
            self._timed += 1

    def remove(self, waiter: W) -> bool:
        """Take it out without a turn; False where it does not wait (any more)."""
        if waiter.number < 0:
            return False
        self._lines[waiter.work.priority].remove(waiter)
        self._taken(waiter)
        return True

    def expire(self, now: float) -> list[W]:
        """Take out the waiters whose deadline has passed: `pick` does not look at deadlines."""
        late: list[W] = []
        while (soonest := self.next_deadline()) is not None and soonest <= now:
            waiter = self._deadlines[0][2]
            self.remove(waiter)
            late.append(waiter)
        return late

    def next_deadline(self) -> float | None:
        """The soonest deadline of a waiter."""
        heap = self._deadlines
        while heap and heap[0][2].number != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def clear(self) -> list[W]:
        """Take out everything."""
        waiters = [waiter for line in self._lines for waiter in line.clear()]
        for waiter in waiters:
            waiter.number = -1
        self._deadlines.clear()
        self._timed = self._waiting = 0
        return waiters

    # -- for slots: who is next, and who has to go ----------------------------------------------

    def head(self, held: Mapping[str, int] | None = None) -> W | None:
        """Whose turn it is; None where nobody waits.

        Args:
            held: slots by user. Of one priority, the user who holds least goes first.
        """
        lines = [line for line in self._lines if line.waiting]
        return self._choice(lines).head(held) if lines else None

    def in_turn(self) -> Iterator[W]:
        """Every waiter, in the order in which their turns would come now; stop after a change."""
        head = self.head()
        if head is None:
            return
        yield head
        for line in self._lines:
            yield from (w for w in line.in_turn(len(line.users)) if w is not head)

    def take(self, waiter: W) -> None:
        """Take it out because it has its turn now."""
        lines = [line for line in self._lines if line.waiting]
        line = self._lines[waiter.work.priority]
        self._count_choice(line, lines)
        line.remove(waiter, turn=True)
        self._taken(waiter)

    def victim(self, arrival: Work, held: Mapping[str, int], *, equals: bool) -> W | None:
        """Which waiter has to make room for the arrival; None where the arrival has to go.

        It is the newest of the least urgent, or of those as urgent as the arrival whose user holds
        and waits for more.

        Args:
            held: slots by user.
            equals: look only among those as urgent as the arrival.
        """
        priorities = [arrival.priority] if equals else reversed(Priority)
        least = next((p for p in priorities if self._lines[p].waiting), None)
        if least is None or least < arrival.priority:
            return None

        def share(user: str) -> int:
            return held.get(user, 0) + self.waiting_of(user)

        line = self._lines[least]
        greatest = max(line.users, key=share)
        if arrival.priority == least:
            # afterwards the arrival's user holds one more than now, and the other one less
            fairer = share(greatest) > share(arrival.user) + 1
            if not (fairer and arrival.user and greatest):
                return None
        return line.newest(greatest)

    # -- for workers: who is next within the bounds ---------------------------------------------

    def ready(self) -> bool:
        """Whether `pick` would find something."""
        if not self._waiting:
            return False
        return any(line.waiting for line in self._lines[: self._barred()])

    def pick(self) -> W | None:
        """Take out what a worker does next, and count that worker as busy until `finished`."""
        if not self._waiting:
            return None
        lines = [line for line in self._lines[: self._barred()] if line.waiting]
        if not lines:
            return None
        line = lines[0]
        if len(lines) > 1:
            line = self._choice(lines)
            self._count_choice(line, lines)
        waiter = line.pop()
        self._taken(waiter)
        self._busy[waiter.work.priority] += 1
        return waiter

    def begin(self, priority: Priority) -> bool:
        """Count a worker as busy with what never waited; False where something waits or bars it."""
        if self._waiting or (self._bounds and priority >= self._barred()):
            return False
        self._busy[priority] += 1
        return True

    def alike(self, waiter: W, most: int) -> Iterator[W]:
        """What else waits with the waiter's priority, in the order of its turns."""
        return islice(self._lines[waiter.work.priority].in_turn(most), most)

    def finished(self, priority: Priority) -> None:
        """A worker has done what it picked."""
        self._busy[priority] -= 1

    def bound(self, priority: Priority, workers: int | None) -> None:
        """At most so many workers do work of this priority or less urgent; None is no bound.

        What runs already goes on. A bound of 0 lets such work wait until it is lifted.
        """
        if workers is None:
            self._bounds.pop(priority, None)
        else:
            self._bounds[priority] = max(0, workers)

    def _barred(self) -> int:
        """The most urgent priority that no further worker may serve."""
        if not self._bounds:
            return len(Priority)
        return min(
            (p for p, workers in self._bounds.items() if sum(self._busy[p:]) >= workers),
            default=len(Priority),
        )

    # -- one rule against starvation ------------------------------------------------------------

    def _choice(self, lines: list[_Line[W]]) -> _Line[W]:
        """Whose turn it is among the priorities that have waiters, the most urgent first."""
        if len(lines) > 1 and self._passed + 1 >= LOWER_EVERY:
            return min(lines[1:], key=_Line.next_number)
        return lines[0]

    def _count_choice(self, line: _Line[W], lines: list[_Line[W]]) -> None:
        if line is not lines[0]:
            self._passed = 0
        elif len(lines) > 1:
            self._passed = min(self._passed + 1, LOWER_EVERY - 1)

    def _taken(self, waiter: W) -> None:
        waiter.number = -1
        self._waiting -= 1
        if waiter.work.deadline is None:
            return
        self._timed -= 1
        if len(self._deadlines) > 2 * self._timed + _SLACK:
            self._deadlines = [item for item in self._deadlines if item[2].number == item[1]]
            heapq.heapify(self._deadlines)


class _Line(Generic[W]):
    """The waiters of one priority: users in the order of their turns, each with their own queue.

    The dictionaries are ordered ones: to find the first key of a plain one takes long after many
    first keys have been removed.
    """

    __slots__ = ("users", "waiting")

    def __init__(self) -> None:
        self.users: OrderedDict[str, OrderedDict[int, W]] = OrderedDict()
        self.waiting = 0

    def append(self, waiter: W) -> None:
        queue = self.users.get(waiter.work.user)
        if queue is None:
            queue = self.users[waiter.work.user] = OrderedDict()
        queue[waiter.number] = waiter
        self.waiting += 1

    def remove(self, waiter: W, *, turn: bool = False) -> None:
        """Without a `turn` of their own the user keeps their place among the others."""
        user = waiter.work.user
        queue = self.users[user]
        del queue[waiter.number]
        if not queue:
            del self.users[user]
        elif turn:
            self.users.move_to_end(user)
        self.waiting -= 1

    def head(self, held: Mapping[str, int] | None) -> W:
        if held:
            user = min(self.users, key=lambda user: held.get(user, 0))
        else:
            user = next(iter(self.users))
        return next(iter(self.users[user].values()))

    def newest(self, user: str) -> W:
        return next(reversed(self.users[user].values()))

    def next_number(self) -> int:
        """When the waiter whose turn it is arrived."""
        return next(iter(next(iter(self.users.values()))))

    def pop(self) -> W:
        user, queue = next(iter(self.users.items()))
        _, waiter = queue.popitem(last=False)
        if queue:
            self.users.move_to_end(user)
        else:
            del self.users[user]
        self.waiting -= 1
        return waiter

    def in_turn(self, users: int) -> Iterator[W]:
        """The waiters in the order of their turns, of the first so many users."""
        queues = deque(iter(queue.values()) for queue in islice(self.users.values(), users))
        while queues:
            waiter = next(queues[0], None)
            if waiter is None:
                queues.popleft()
            else:
                yield waiter
                queues.rotate(-1)

    def clear(self) -> list[W]:
        waiters = [waiter for queue in self.users.values() for waiter in queue.values()]
        self.users.clear()
        self.waiting = 0
        return waiters
