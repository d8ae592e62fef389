"""How many of late?"""

from __future__ import annotations

from math import exp


class Recent:
    """A count that forgets: what was added weighs 1/e after `memory` seconds."""

    __slots__ = ("_at", "_memory", "_value")

    def __init__(self, memory: float, now: float) -> None:
        self._memory = memory
        self._value = 0.0
        self._at = now

    def add(self, now: float, n: float = 1.0) -> None:
        self._value = self.value(now) + n
        self._at = now

    def value(self, now: float) -> float:
        return self._value * exp((self._at - now) / self._memory)
