"""One stream through one cache: its hit ratio, and what an access takes."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vivace.protocols import EvictionPolicy


@dataclass(slots=True)
class Replayed:
    hits: int
    nanoseconds: float
    """An access, on average."""
    over_time: list[float] = field(default_factory=list)
    """The hit ratio of each of so many parts of the stream."""


def ours(policy: EvictionPolicy, keys: Sequence[int], parts: int = 1) -> Replayed:
    """Weights of one; a set stands for the values."""
    held: set[Any] = set()
    hit, insert = policy.hit, policy.insert
    found: list[int] = []
    size = -(-len(keys) // parts)
    start = time.perf_counter()
    for at in range(0, len(keys), size):
        hits = 0
        for key in keys[at : at + size]:
            if key in held:
                hits += 1
                hit(key)
            else:
                held.add(key)
                if victims := insert(key):
                    held.difference_update(victims)
        found.append(hits)
    took = time.perf_counter() - start
    assert len(held) == len(policy)
    over = [n / len(keys[at * size : at * size + size]) for at, n in enumerate(found)]
    return Replayed(sum(found), 1e9 * took / len(keys), over)


def belady(keys: Sequence[int], capacity: int) -> Replayed:
    """Whoever is asked for last of all goes first, which needs the future."""
    start = time.perf_counter()
    never = len(keys)
    following = [never] * len(keys)
    last: dict[int, int] = {}
    for at in range(len(keys) - 1, -1, -1):
        following[at] = last.get(keys[at], never)
        last[keys[at]] = at
    due: dict[int, int] = {}
    far: list[tuple[int, int]] = []
    hits = 0
    for key, following_use in zip(keys, following, strict=True):
        if key in due:
            hits += 1
        elif len(due) >= capacity:
            while True:
                when, out = heapq.heappop(far)
                if due.get(out) == -when:
                    break
            # a newcomer that comes later than all of them is not let in
            if -when < following_use:
                heapq.heappush(far, (when, out))
                continue
            del due[out]
        due[key] = following_use
        heapq.heappush(far, (-following_use, key))
    return Replayed(hits, 1e9 * (time.perf_counter() - start) / len(keys))


def theirs(cache: Any, keys: Sequence[int], put: Callable[[Any, int], None]) -> Replayed:
    """A library's cache: a get, and after a miss a set."""
    get, hits = cache.get, 0
    start = time.perf_counter()
    for key in keys:
        if get(key) is not None:
            hits += 1
        else:
            put(cache, key)
    return Replayed(hits, 1e9 * (time.perf_counter() - start) / len(keys))


def theine(keys: Sequence[int], capacity: int) -> Replayed:
    from theine import Cache

    cache: Any = Cache(capacity)
    try:
        # it tells a miss by a pair
        hits, get, put = 0, cache.get, cache.set
        start = time.perf_counter()
        for key in keys:
            _, there = get(key)
            if there:
                hits += 1
            else:
                put(key, True)
        return Replayed(hits, 1e9 * (time.perf_counter() - start) / len(keys))
    finally:
        cache.close()


def cachebox(keys: Sequence[int], capacity: int) -> Replayed:
    from cachebox import LRUCache

    def put(cache: Any, key: int) -> None:
        cache[key] = True

    return theirs(LRUCache(capacity), keys, put)


def cachetools(keys: Sequence[int], capacity: int) -> Replayed:
    from cachetools import LRUCache

    def put(cache: Any, key: int) -> None:
        cache[key] = True

    return theirs(LRUCache(capacity), keys, put)
