"""L1: bounded, in time, and told of by its numbers."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.cache.memory import ENTRY_BYTES, Memory, Reason
from vivace.cache.policy import make


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A memory of strings with room for `most` of 100 characters."""

    def __init__(self, most: int = 10, jitter: float = 0.0) -> None:
        self.clock = Clock()
        self.left: list[tuple[bytes, str, Reason]] = []
        self.capacity = most * (100 + ENTRY_BYTES)
        self.memory: Memory[str] = Memory(
            self.capacity,
            make("lru", self.capacity),
            weigh=len,
            clock=self.clock,
            jitter=jitter,
            removed=lambda *args: self.left.append(args),
        )

    def total(self) -> Any:
        return self.memory.statistics().total


def text(n: int) -> str:
    return f"{n:0100d}"


def test_what_is_set_is_got_until_its_time_is_over() -> None:
    w = World()
    w.memory.set(b"a", "x", ttl=10, cost=7.0, kind="k")
    assert w.memory.get(b"a") == "x"
    w.clock.now += 9.99
    assert w.memory.get(b"a") == "x"
    w.clock.now += 0.02
    assert w.memory.get(b"a", "k") is None
    assert w.left == [(b"a", "x", Reason.EXPIRED)]
    counts = w.memory.statistics().kinds["k"]
    assert (counts.hits, counts.misses, counts.sets, counts.expired) == (2, 1, 1, 1)
    assert (counts.entries, counts.bytes, counts.saved) == (0, 0, 14.0)
    assert counts.ratio == pytest.approx(2 / 3)


def test_times_to_live_are_spread_and_never_longer() -> None:
    w = World(most=1000, jitter=0.1)
    for n in range(500):
        w.memory.set(b"%d" % n, "", ttl=100)
    w.clock.now += 89.9
    assert all(w.memory.peek(b"%d" % n) is not None for n in range(500))
    w.clock.now += 5.1
    alive = sum(w.memory.peek(b"%d" % n) is not None for n in range(500))
    assert 100 < alive < 400
    w.clock.now += 5.1
    assert all(w.memory.peek(b"%d" % n) is None for n in range(500))


def test_nothing_is_kept_for_no_time() -> None:
    w = World()
    w.memory.set(b"a", "x")
    w.memory.set(b"a", "y", ttl=0)
    assert w.memory.get(b"a") is None


def test_the_least_recently_used_goes_first_and_is_told() -> None:
    w = World(most=3)
    for n in range(3):
        w.memory.set(b"%d" % n, text(n))
    assert w.memory.get(b"0") is not None
    w.memory.set(b"3", text(3))
    assert w.left == [(b"1", text(1), Reason.EVICTED)]
    assert w.total().evicted == 1


def test_what_is_larger_than_the_memory_is_refused() -> None:
    w = World(most=2)
    w.memory.set(b"a", "x")
    w.memory.set(b"a", "x" * 10_000)
    assert w.memory.get(b"a") is None
    assert [reason for _, _, reason in w.left] == [Reason.REPLACED, Reason.REFUSED]
    assert (w.total().refused, w.total().bytes) == (1, 0)


def test_clearing_takes_one_kind_or_all() -> None:
    w = World()
    w.memory.set(b"a", "x", kind="one")
    w.memory.set(b"b", "y", kind="other")
    assert w.memory.clear("one") == 1
    assert (w.memory.get(b"a"), w.memory.get(b"b")) == (None, "y")
    assert w.memory.clear() == 1
    assert not w.memory.delete(b"b")


def test_a_smaller_memory_lets_go() -> None:
    w = World(most=10)
    for n in range(10):
        w.memory.set(b"%d" % n, text(n))
    w.memory.resize(w.capacity // 2)
    assert w.total().entries == 5
    assert w.memory.statistics().capacity == w.capacity // 2


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 900), st.sampled_from("sgdx"))))
def test_bytes_never_pass_the_budget_and_always_add_up(
    steps: list[tuple[int, int, str]],
) -> None:
    w = World(most=4)
    for name, size, step in steps:
        key = b"%d" % name
        if step == "s":
            w.memory.set(key, "x" * size, ttl=5, kind="a" if name % 2 else "b")
        elif step == "g":
            w.memory.get(key)
        elif step == "d":
            w.memory.delete(key)
        else:
            w.clock.now += 2
        kept = w.memory._entries
        assert sum(len(e.value) + ENTRY_BYTES for e in kept.values()) == w.total().bytes
        assert w.total().bytes <= w.capacity
        assert len(kept) == w.total().entries == len(w.memory._policy)


async def test_what_is_missing_is_computed_once() -> None:
    w = World()
    runs = 0

    async def compute() -> str:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return "made"

    asked = [w.memory.get_or_compute(b"a", compute, ttl=10, kind="k") for _ in range(100)]
    assert await asyncio.gather(*asked) == ["made"] * 100
    assert runs == 1
    assert w.memory.get(b"a") == "made"
    counts = w.memory.statistics().kinds["k"]
    assert (counts.misses, counts.shared, counts.sets) == (100, 99, 1)


async def test_what_fails_is_not_kept() -> None:
    w = World()

    async def fail() -> str:
        raise RuntimeError("broken")

    async def succeed() -> str:
        return "made"

    with pytest.raises(RuntimeError):
        await w.memory.get_or_compute(b"a", fail, ttl=10)
    assert await w.memory.get_or_compute(b"a", succeed, ttl=10) == "made"


async def test_a_value_may_say_how_long_it_lives() -> None:
    w = World()

    async def nothing() -> str:
        return "nothing"

    await w.memory.get_or_compute(b"a", nothing, ttl=lambda found: 5 if found == "nothing" else 60)
    w.clock.now += 6
    assert w.memory.get(b"a") is None


async def test_a_stale_value_is_given_while_it_is_made_again() -> None:
    w = World()
    go = asyncio.Event()
    made = ["first", "second"]

    async def compute() -> str:
        if len(made) == 1:
            await go.wait()
        return made.pop(0)

    async def ask() -> str:
        return await w.memory.get_or_compute(b"a", compute, ttl=10, stale=5, kind="k")

    assert await ask() == "first"
    w.clock.now += 12
    assert [await ask() for _ in range(3)] == ["first"] * 3
    go.set()
    await w.memory.settle()
    assert await ask() == "second"
    counts = w.memory.statistics().kinds["k"]
    assert (counts.stale, counts.hits, counts.misses) == (3, 4, 1)
    made.append("third")
    w.clock.now += 16  # beyond what is bearable
    assert await ask() == "third"


async def test_a_stale_value_that_cannot_be_made_again_is_counted() -> None:
    w = World()

    async def fail() -> str:
        raise RuntimeError("broken")

    w.memory.set(b"a", "old", ttl=10, stale=5, kind="k")
    w.clock.now += 12
    assert await w.memory.get_or_compute(b"a", fail, ttl=10, stale=5, kind="k") == "old"
    await w.memory.settle()
    assert w.memory.statistics().kinds["k"].failed == 1
    w.clock.now += 5
    with pytest.raises(RuntimeError):
        await w.memory.get_or_compute(b"a", fail, ttl=10, stale=5, kind="k")


def test_threads_compute_once_too() -> None:
    w = World()
    barrier = threading.Barrier(8)
    runs: list[int] = []
    found: list[str] = []

    def compute() -> str:
        runs.append(1)
        return "made"

    def ask() -> None:
        barrier.wait()
        found.append(w.memory.get_or_call(b"a", compute, ttl=10))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, runs) == (["made"] * 8, [1])


def test_threads_leave_it_consistent() -> None:
    w = World(most=50)

    def work(seed: int) -> None:
        for n in range(2_000):
            key = b"%d" % ((n * 7 + seed) % 90)
            if w.memory.get(key) is None:
                w.memory.set(key, text(n), ttl=60)
            if n % 50 == seed:
                w.memory.delete(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = w.total()
    assert total.hits + total.misses == 12_000
    assert total.bytes == total.entries * (100 + ENTRY_BYTES) <= w.capacity
    assert total.entries == len(w.memory._policy)
