"""Who waits, and who is next? A short line in order of urgency, fair between users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from vivace.run.work import Work

T = TypeVar("T")
LOWER_EVERY: Final = 8
"""Every eighth turn goes to a lower priority, so that none starves under steady urgent work."""


@dataclass(slots=True, eq=False)
class Place(Generic[T]):
    """Somebody who waits. `told` is called once, with a `T` or an error, when the wait is over; it
    returns False where nobody listens any more."""

    work: Work
    came: float
    told: Callable[[T | Exception], bool]


class Line(Generic[T]):
    """Pure and bounded by its user: every step looks at each place, so keep it under a hundred."""

    def __init__(self) -> None:
        self._places: list[Place[T]] = []
        """In order of arrival."""
        self._turns = 0
        self.waiting: Counter[str] = Counter()
        """Places by user; no user is without one."""

    def __len__(self) -> int:
        return len(self._places)

    def late(self, now: float) -> list[Place[T]]:
        """Those whose deadline has passed."""
        return [place for place in self._places if place.work.late(now)]

    def add(self, place: Place[T]) -> None:
        self._places.append(place)
        self.waiting[place.work.user] += 1

    def remove(self, place: Place[T]) -> bool:
        """False where it has left already."""
        if place not in self._places:
            return False
        self._places.remove(place)
        user = place.work.user
        self.waiting[user] -= 1
        if not self.waiting[user]:
            del self.waiting[user]
        return True

    def ahead(self, work: Work) -> int:
        """How many are at least as urgent."""
        return sum(place.work.priority <= work.priority for place in self._places)

    def take(self, held: Mapping[str, int]) -> Place[T]:
        """Whose turn it is; the line is not empty.

        The most urgent first (every eighth turn: those less urgent), among them the user who holds
        least, among theirs the oldest.
        """
        self._turns += 1
        priorities = sorted({place.work.priority for place in self._places})
        priority = priorities[0]
        if self._turns % LOWER_EVERY == 0 and len(priorities) > 1:
            # of several lower ones each comes round
            priority = priorities[1 + self._turns // LOWER_EVERY % (len(priorities) - 1)]
        places = (place for place in self._places if place.work.priority == priority)
        chosen = min(places, key=lambda place: held.get(place.work.user, 0))
        self.remove(chosen)
        return chosen

    def victim(self, arrival: Work, held: Mapping[str, int], *, equals: bool) -> Place[T] | None:
        """Who has to go that the arrival gets in; None where it is the arrival itself.

        The newest of the least urgent, or of those as urgent as the arrival where that user holds
        and waits for more.

        Args:
            equals: look only among those as urgent as the arrival.
        """
        places = [
            place for place in self._places if not equals or place.work.priority == arrival.priority
        ]
        if not places:
            return None
        least = max(place.work.priority for place in places)
        if least < arrival.priority:
            return None
        newest = {place.work.user: place for place in places if place.work.priority == least}

        def room(user: str) -> int:
            return held.get(user, 0) + self.waiting[user]

        greatest = max(newest, key=room)
        if arrival.priority < least:
            return newest[greatest]
        # afterwards the arrival's user holds one more than now, and the other one less
        fairer = room(greatest) > room(arrival.user) + 1
        return newest[greatest] if fairer and arrival.user and greatest else None
