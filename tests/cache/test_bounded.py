"""L1: bounded in bytes and in time, and counted."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.cache.adaptation import make_policy
from vivace.cache.bounded import ENTRY_BYTES, BoundedStore
from vivace.cache.statistics import CacheCounts


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A store of strings with room for `most` of 100 characters."""

    def __init__(self, most: int = 10, jitter: float = 0.0) -> None:
        self.clock = Clock()
        self.capacity = most * (100 + ENTRY_BYTES)
        self.policy = make_policy("lru", self.capacity)
        self.store = BoundedStore(
            self.capacity, self.policy, weigh=len, clock=self.clock, jitter=jitter
        )
        self.counts = self.store.counts("")

    def get(self, key: bytes) -> str | None:
        value: str | None = self.store.get(key, self.counts)
        return value

    def set(self, key: bytes, value: str, ttl: float | None = None) -> None:
        self.store.set(key, value, self.counts, ttl=ttl)

    def total(self) -> CacheCounts:
        return self.store.statistics().total


def text(n: int) -> str:
    return f"{n:0100d}"


def test_a_value_is_found_until_it_expires() -> None:
    w = World()
    kind = w.store.counts("k")
    w.store.set(b"a", "x", kind, ttl=10, cost=7.0)
    assert w.get(b"a") == "x"
    w.clock.now += 9.99
    assert w.get(b"a") == "x"
    w.clock.now += 0.02
    assert w.store.get(b"a", kind) is None
    counts = w.store.statistics().kinds["k"]
    assert (counts.hits, counts.misses, counts.sets, counts.expired) == (2, 1, 1, 1)
    assert (counts.entries, counts.bytes, counts.saved) == (0, 0, 14.0)
    assert counts.ratio == pytest.approx(2 / 3)


def test_times_to_live_are_spread_and_never_longer() -> None:
    w = World(most=1000, jitter=0.1)
    for n in range(500):
        w.set(b"%d" % n, "", ttl=100)
    w.clock.now += 89.9
    assert all(w.store.peek(b"%d" % n) is not None for n in range(500))
    w.clock.now += 5.1
    alive = sum(w.store.peek(b"%d" % n) is not None for n in range(500))
    assert 100 < alive < 400
    w.clock.now += 5.1
    assert all(w.store.peek(b"%d" % n) is None for n in range(500))


def test_a_value_without_time_to_live_removes_its_key() -> None:
    w = World()
    w.set(b"a", "x")
    w.set(b"a", "y", ttl=0)
    assert w.get(b"a") is None


def test_the_least_recently_used_value_is_evicted_first() -> None:
    w = World(most=3)
    for n in range(3):
        w.set(b"%d" % n, text(n))
    assert w.get(b"0") is not None
    w.set(b"3", text(3))
    assert [w.store.peek(b"%d" % n) is None for n in range(4)] == [False, True, False, False]
    assert w.total().evicted == 1


def test_a_value_larger_than_the_store_is_refused() -> None:
    w = World(most=2)
    w.set(b"a", "x")
    w.set(b"a", "x" * 10_000)
    assert w.get(b"a") is None
    counts = w.total()
    assert (counts.sets, counts.refused, counts.evicted, counts.bytes) == (2, 1, 0, 0)


def test_clearing_removes_one_kind_or_all() -> None:
    w = World()
    w.store.set(b"a", "x", w.store.counts("one"))
    w.store.set(b"b", "y", w.store.counts("other"))
    assert w.store.clear("one") == 1
    assert (w.get(b"a"), w.get(b"b")) == (None, "y")
    assert w.store.clear() == 1
    assert not w.store.delete(b"b")


def test_a_smaller_store_evicts() -> None:
    w = World(most=10)
    for n in range(10):
        w.set(b"%d" % n, text(n))
    w.store.resize(w.capacity // 2)
    assert w.total().entries == 5
    assert w.store.statistics().capacity == w.capacity // 2


def test_kinds_that_were_never_used_are_not_in_the_statistics() -> None:
    w = World()
    w.store.counts("unused")
    w.store.get(b"a", w.store.counts("used"))
    assert set(w.store.statistics().kinds) == {"used"}


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 900), st.sampled_from("sgdx"))))
def test_bytes_never_exceed_the_capacity_and_always_add_up(
    steps: list[tuple[int, int, str]],
) -> None:
    w = World(most=4)
    kinds = [w.store.counts(kind) for kind in "ab"]
    weights: dict[bytes, int] = {}
    for name, size, step in steps:
        key = b"%d" % name
        if step == "s":
            w.store.set(key, "x" * size, kinds[name % 2])
            weights[key] = size + ENTRY_BYTES
        elif step == "g":
            w.store.get(key, kinds[name % 2])
        elif step == "d":
            w.store.delete(key)
        else:
            w.store.set(key, "x" * size, kinds[name % 2], ttl=5)
            weights[key] = size + ENTRY_BYTES
            w.clock.now += 2
            for other in list(weights):  # what has expired is removed when it is requested
                w.store.get(other, kinds[0])
        kept = [key for key in weights if w.store.peek(key) is not None]
        assert sum(weights[key] for key in kept) == w.total().bytes <= w.capacity
        assert len(kept) == len(w.store) == w.total().entries == len(w.policy)


def test_threads_leave_it_consistent() -> None:
    w = World(most=50)

    def work(seed: int) -> None:
        for n in range(2_000):
            key = b"%d" % ((n * 7 + seed) % 90)
            if w.get(key) is None:
                w.set(key, text(n), ttl=60)
            if n % 50 == seed:
                w.store.delete(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = w.total()
    assert total.hits + total.misses == 12_000
    assert total.bytes == total.entries * (100 + ENTRY_BYTES) <= w.capacity
    assert total.entries == len(w.policy)
