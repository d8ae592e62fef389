"""What waits, and what may run next? A pure data structure: its owner brings lock and clock.

Four things decide. Urgency: the most urgent priority first, but every eighth choice goes to a lower
one. Fairness: within a priority the users take turns, each first come first served. Bounds: at most
so many workers at once do work of a priority or less urgent. Deadlines: what is late never begins.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Generic, TypeVar

from vivace.errors import Overloaded
from vivace.run.work import Priority, Work

LOWER_EVERY: Final = 8
"""Of so many picks that have a choice, one goes to a lower priority: to the one whose next entry
came first. So nothing starves: an entry waits for the finite number of those that came before it.
"""
RETRY_AFTER: Final = 1.0
"""Seconds told to whom a full backlog refuses."""
_SLACK: Final = 64
"""Deadlines of entries that are gone which are kept before they are cleared away."""


class Entry:
    """One piece of work. It may wait in one backlog, once."""

    __slots__ = ("arrived", "error", "number", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.arrived = 0.0
        self.number = -1
        """Order of arrival; negative while it is not waiting."""
        self.error: BaseException | None = None
        """Why there is no result."""

    @property
    def unwanted(self) -> bool:
        """Nobody waits for the result any more."""
        return False


E = TypeVar("E", bound=Entry)


class Backlog(Generic[E]):
    """Entries that wait, and how many workers are busy with which priority.

    Every method takes O(log n) at most, amortised; most O(1). A removed entry is let go of at once,
    but for `_SLACK` of them, or as many as wait, that had a deadline.

    Args:
        most: entries that may wait at once; None is no bound.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._lines: tuple[_Line[E], ...] = tuple(_Line() for _ in Priority)
        self._deadlines: list[tuple[float, int, E]] = []
        self._timed = 0
        """Waiting entries with a deadline; the other members of `_deadlines` are gone."""
        self._waiting = 0
        self._arrivals = 0
        self._passed = 0
        """Picks that passed over a lower priority since the last one that did not."""
        self._busy = [0] * len(Priority)
        self._bounds: dict[Priority, int] = {}

    def __len__(self) -> int:
        return self._waiting

    def waiting(self) -> dict[Priority, int]:
        return {priority: self._lines[priority].waiting for priority in Priority}

    def put(self, entry: E, now: float) -> None:
        """Let it wait.

        Raises:
            Overloaded: as many wait as may.
        """
        if self._most is not None and len(self) >= self._most:
            raise Overloaded(f"{len(self)} already wait", retry_after=RETRY_AFTER)
        entry.arrived = now
        entry.number = self._arrivals
        self._arrivals += 1
        self._waiting += 1
        self._lines[entry.work.priority].append(entry)
        if entry.work.deadline is not None:
            heapq.heappush(self._deadlines, (entry.work.deadline, entry.number, entry))
            self._timed += 1

    def remove(self, entry: E) -> bool:
        """Take it out, whatever its place; False where it does not wait (any more)."""
        if entry.number < 0:
            return False
        self._lines[entry.work.priority].remove(entry)
        self._taken(entry)
        return True

    def expire(self, now: float) -> list[E]:
        """Take out what is late; call it before `pick`, which does not look at deadlines."""
        late: list[E] = []
        while (soonest := self.next_deadline()) is not None and soonest <= now:
            entry = self._deadlines[0][2]
            self.remove(entry)
            late.append(entry)
        return late

    def next_deadline(self) -> float | None:
        """The soonest deadline of what waits."""
        heap = self._deadlines
        while heap and heap[0][2].number != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def ready(self) -> bool:
        """Whether a pick would find something."""
        if not self._waiting:
            return False
        return any(line.waiting for line in self._lines[: self._barred()])

    def pick(self) -> E | None:
        """Take out what a worker does next, and count it as busy until `finished`."""
        if not self._waiting:
            return None
        lines = [line for line in self._lines[: self._barred()] if line.waiting]
        if not lines:
            return None
        line = lines[0]
        if len(lines) > 1:
            self._passed += 1
            if self._passed >= LOWER_EVERY:
                self._passed = 0
                line = min(lines[1:], key=_Line.next_number)
        entry = line.pop()
        self._taken(entry)
        self._busy[entry.work.priority] += 1
        return entry

    def begin(self, priority: Priority) -> bool:
        """Count a worker as busy with what never waited; False where something waits or bars it."""
        if self._waiting or (self._bounds and priority >= self._barred()):
            return False
        self._busy[priority] += 1
        return True

    def alike(self, entry: E, most: int) -> Iterator[E]:
        """What else waits with the entry's priority, in the order of its turns."""
        return islice(self._lines[entry.work.priority].in_turn(most), most)

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

    def clear(self) -> list[E]:
        """Take out everything."""
        entries = [entry for line in self._lines for entry in line.clear()]
        for entry in entries:
            entry.number = -1
        self._deadlines.clear()
        self._timed = self._waiting = 0
        return entries

    def _barred(self) -> int:
        """The most urgent priority that no further worker may serve."""
        if not self._bounds:
            return len(Priority)
        return min(
            (p for p, workers in self._bounds.items() if sum(self._busy[p:]) >= workers),
            default=len(Priority),
        )

    def _taken(self, entry: E) -> None:
        entry.number = -1
        self._waiting -= 1
        if entry.work.deadline is None:
            return
        self._timed -= 1
        if len(self._deadlines) > 2 * self._timed + _SLACK:
            self._deadlines = [item for item in self._deadlines if item[2].number == item[1]]
            heapq.heapify(self._deadlines)


class _Line(Generic[E]):
    """The entries of one priority: users in the order of their turns, each with their own queue.

    Ordered dictionaries, as the first of a plain one is slow to find after many first ones have
    been removed.
    """

    __slots__ = ("_users", "waiting")

    def __init__(self) -> None:
        self._users: OrderedDict[str, OrderedDict[int, E]] = OrderedDict()
        self.waiting = 0

    def append(self, entry: E) -> None:
        queue = self._users.get(entry.work.user)
        if queue is None:
            queue = self._users[entry.work.user] = OrderedDict()
        queue[entry.number] = entry
        self.waiting += 1

    def remove(self, entry: E) -> None:
        """The user keeps their turn while they have anything else waiting."""
        queue = self._users[entry.work.user]
        del queue[entry.number]
        if not queue:
            del self._users[entry.work.user]
        self.waiting -= 1

    def next_number(self) -> int:
        """When the entry whose turn it is arrived."""
        return next(iter(next(iter(self._users.values()))))

    def pop(self) -> E:
        user, queue = next(iter(self._users.items()))
        _, entry = queue.popitem(last=False)
        if queue:
            self._users.move_to_end(user)
        else:
            del self._users[user]
        self.waiting -= 1
        return entry

    def in_turn(self, users: int) -> Iterator[E]:
        """The entries in the order of their turns, of the first so many users."""
        queues = deque(iter(queue.values()) for queue in islice(self._users.values(), users))
        while queues:
            entry = next(queues[0], None)
            if entry is None:
                queues.popleft()
            else:
                yield entry
                queues.rotate(-1)

    def clear(self) -> Iterable[E]:
        entries = [entry for queue in self._users.values() for entry in queue.values()]
        self._users.clear()
        self.waiting = 0
        return entries
