"""S3-FIFO: most keys are used once, and leave a small queue without displacing others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import ClassVar, Final

from vivace.cache.policy import PortablePolicy

_SMALL: Final = 0.1
"""Share of the capacity for the small queue."""
_MOST: Final = 3
"""The highest count of uses."""
_PROMOTED: Final = 2
"""Uses in the small queue with which a key moves to the main queue."""


class S3Fifo(PortablePolicy):
    """Three queues: new keys in a small one, used keys in a main one, evicted keys in a ghost.

    A hit costs a count and moves nothing. Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all
    you need for cache eviction", SOSP 2023.
    """

    name: ClassVar[str] = "s3fifo"
    __slots__ = (
        "_capacity",
        "_gone",
        "_gone_weight",
        "_main",
        "_main_weight",
        "_small",
        "_small_weight",
        "_uses",
    )

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._uses: dict[Hashable, int] = {}
        self._small: OrderedDict[Hashable, int] = OrderedDict()
        self._main: OrderedDict[Hashable, int] = OrderedDict()
        self._gone: OrderedDict[Hashable, int] = OrderedDict()
        self._small_weight = self._main_weight = self._gone_weight = 0

    def hit(self, key: Hashable) -> None:
        uses = self._uses[key]
        if uses < _MOST:
            self._uses[key] = uses + 1

    def insert(self, key: Hashable, *, weight: int = 1, cost: float = 1.0) -> list[Hashable]:
        if weight > self._capacity:
            return [key]
        victims = self._evict(self._capacity - weight)
        self._uses[key] = 0
        before = self._gone.pop(key, None)
        if before is None:
            self._small[key] = weight
            self._small_weight += weight
        else:
            self._gone_weight -= before
            self._main[key] = weight
            self._main_weight += weight
        return victims

    def remove(self, key: Hashable) -> None:
        if self._uses.pop(key, None) is None:
            return
        weight = self._small.pop(key, None)
        if weight is None:
            self._main_weight -= self._main.pop(key)
        else:
            self._small_weight -= weight

    def resize(self, capacity: int) -> list[Hashable]:
        self._capacity = capacity
        return self._evict(capacity)

    def weights(self) -> dict[Hashable, int]:
        return {**self._small, **self._main}

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        for key, weight in residents:
            self._uses[key] = 0
            self._main[key] = weight
            self._main_weight += weight

    def _evict(self, room: int) -> list[Hashable]:
        """Evict until the residents weigh at most `room`."""
        victims: list[Hashable] = []
        while self._small_weight + self._main_weight > room:
            if self._small and (self._small_weight >= _SMALL * self._capacity or not self._main):
                self._leave_small(victims)
            else:
                self._leave_main(victims)
        return victims

    def _leave_small(self, victims: list[Hashable]) -> None:
        key, weight = self._small.popitem(last=False)
        self._small_weight -= weight
        if self._uses[key] >= _PROMOTED:
            self._uses[key] = 0
            self._main[key] = weight
            self._main_weight += weight
            return
        del self._uses[key]
        victims.append(key)
        self._gone[key] = weight
        self._gone_weight += weight
        # the ghost weighs at most what the main queue may
        while self._gone_weight > (1 - _SMALL) * self._capacity:
            self._gone_weight -= self._gone.popitem(last=False)[1]

    def _leave_main(self, victims: list[Hashable]) -> None:
        main, uses = self._main, self._uses
        while main:
            key = next(iter(main))
            left = uses[key]
            if left:
                uses[key] = left - 1
                main.move_to_end(key)
            else:
                self._main_weight -= main.pop(key)
                del uses[key]
                victims.append(key)
                return

    def __len__(self) -> int:
        return len(self._uses)

    def __iter__(self) -> Iterator[Hashable]:
        yield from self._small
        yield from (key for key in self._main if not self._uses[key])
        yield from (key for key in self._main if self._uses[key])
