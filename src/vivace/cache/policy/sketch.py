"""How often was a key asked for lately? Answered in a byte or two a key, sometimes too high.

A count-min sketch (Cormode and Muthukrishnan, 2005) with counts to 15 that are all halved after ten
uses a resident key (Einziger, Friedman and Manes, "TinyLFU", 2017). A byte holds one count here:
`bytes.translate` halves a megabyte of them in a millisecond.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

MOST: Final = 15
SAMPLE: Final = 10
"""Uses a resident key between two halvings."""
_WIDTH: Final = 8
"""Counters a resident key, at least."""
_HALVES: Final = bytes(value >> 1 for value in range(256))
_MIX: Final = 0x9E3779B97F4A7C15


class Sketch:
    """Estimates of frequencies, for `keys` keys until told of more."""

    __slots__ = ("_counts", "_limit", "_mask", "_uses")

    def __init__(self, keys: int = 64) -> None:
        size = 1 << max(6, (_WIDTH * keys - 1).bit_length())
        self._counts = bytearray(size)
        self._mask = size - 1
        self._uses = 0
        self._limit = SAMPLE * keys

    def add(self, key: Hashable) -> None:
        mixed = (hash(key) * _MIX) & 0xFFFFFFFFFFFFFFFF
        counts, mask = self._counts, self._mask
        one, other = (mixed >> 40) & mask, (mixed >> 14) & mask
        first, second = counts[one], counts[other]
        # only the lower one: the higher has been raised by others already
        if first <= second and first < MOST:
            counts[one] = first + 1
        if second <= first and second < MOST:
            counts[other] = second + 1
        self._uses += 1
        if self._uses >= self._limit:
            self._counts = counts.translate(_HALVES)
            self._uses >>= 1

    def count(self, key: Hashable) -> int:
        mixed = (hash(key) * _MIX) & 0xFFFFFFFFFFFFFFFF
        counts, mask = self._counts, self._mask
        return min(counts[(mixed >> 40) & mask], counts[(mixed >> 14) & mask])

    def fit(self, keys: int) -> None:
        """So many keys are resident: widen it if it is too small. No count changes."""
        self._limit = SAMPLE * max(keys, 8)
        while len(self._counts) < _WIDTH * keys:
            self._counts = self._counts * 2  # an index's lower bits are what it was
            self._mask = len(self._counts) - 1
