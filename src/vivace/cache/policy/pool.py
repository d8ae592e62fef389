"""Keys of which any few can be drawn, for policies that look at a sample."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from random import Random


class Drawn:
    """Keys in a list, each with its place: adding, removing and drawing are O(1).

    The draws are those of a seeded generator, so that a run can be repeated.
    """

    __slots__ = ("_places", "_random", "keys")

    def __init__(self) -> None:
        self.keys: list[Hashable] = []
        self._places: dict[Hashable, int] = {}
        self._random = Random(0).random

    def add(self, key: Hashable) -> None:
        self._places[key] = len(self.keys)
        self.keys.append(key)

    def remove(self, key: Hashable) -> None:
        place = self._places.pop(key)
        last = self.keys.pop()
        if place < len(self.keys):
            self.keys[place] = last
            self._places[last] = place

    def draw(self, count: int) -> list[Hashable]:
        """So many, or all; one may be drawn twice."""
        keys, size = self.keys, len(self.keys)
        if size <= count:
            return list(keys)
        # one draw, then places far from each other: half of what drawing each would take
        start, stride = int(self._random() * size), 1 + int(self._random() * (size - 1))
        return [keys[(start + at * stride) % size] for at in range(count)]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.keys)
