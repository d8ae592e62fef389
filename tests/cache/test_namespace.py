"""A namespace without tiers: computing once, keeping, and forgetting what is being computed."""

from __future__ import annotations

import asyncio

import pytest

from tests.cache.turns import until
from vivace.cache.adaptation import make_policy
from vivace.cache.memory import Memory
from vivace.cache.namespace import CacheNamespace
from vivace.cache.statistics import CacheCounts
from vivace.errors import DeadlineExceeded
from vivace.run.work import Priority, work_context


class World:
    def __init__(self) -> None:
        self.now = 1000.0
        self.memory = Memory(
            1 << 20, make_policy("lru", 1 << 20), weigh=len, clock=lambda: self.now, jitter=0.0
        )
        self.values: CacheNamespace[str] = self.memory.namespace("k")

    def counts(self) -> CacheCounts:
        return self.memory.statistics().kinds["k"]


async def made() -> str:
    return "made"


async def test_a_missing_value_is_computed_once() -> None:
    w = World()
    runs = 0

    async def compute() -> str:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return "made"

    asked = [w.values.get_or_compute(b"a", compute, ttl=10) for _ in range(100)]
    assert await asyncio.gather(*asked) == ["made"] * 100
    assert runs == 1
    assert await w.values.get(b"a") == "made"
    assert (w.counts().misses, w.counts().shared, w.counts().sets) == (100, 99, 1)


async def test_an_error_is_not_kept() -> None:
    w = World()

    async def fail() -> str:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        await w.values.get_or_compute(b"a", fail, ttl=10)
    assert await w.values.get_or_compute(b"a", made, ttl=10) == "made"


async def test_the_time_to_live_may_depend_on_the_value() -> None:
    w = World()

    async def nothing() -> str:
        return "nothing"

    ttl = {"nothing": 5.0, "made": 0.0}.__getitem__
    await w.values.get_or_compute(b"a", nothing, ttl=ttl)
    w.now += 6
    assert w.values.get_local(b"a") is None
    assert await w.values.get_or_compute(b"b", made, ttl=ttl) == "made"
    assert w.values.get_local(b"b") is None  # 0: not kept


async def test_a_value_deleted_while_it_is_computed_is_not_kept() -> None:
    w = World()
    for forget in (lambda: w.values.delete(b"a"), w.memory.clear):
        begun, go = asyncio.Event(), asyncio.Event()

        async def compute(begun: asyncio.Event = begun, go: asyncio.Event = go) -> str:
            begun.set()
            await go.wait()
            return "of the state before"

        asking = asyncio.create_task(w.values.get_or_compute(b"a", compute, ttl=10))
        await begun.wait()
        await forget()
        go.set()
        assert await asking == "of the state before"
        assert w.values.get_local(b"a") is None


async def test_an_urgent_caller_does_not_wait_for_one_in_the_background() -> None:
    w = World()
    go, runs = asyncio.Event(), 0

    async def compute() -> str:
        nonlocal runs
        runs += 1
        await go.wait()
        return f"run {runs}"

    with work_context(Priority.BACKGROUND):
        slow = asyncio.create_task(w.values.get_or_compute(b"a", compute, ttl=10))
    urgent = asyncio.create_task(w.values.get_or_compute(b"a", compute, ttl=10))
    await until(lambda: runs == 2)
    go.set()
    await asyncio.gather(slow, urgent)


async def test_the_deadline_of_one_caller_is_not_that_of_others() -> None:
    w = World()
    begun, go, runs = asyncio.Event(), asyncio.Event(), 0

    async def compute() -> str:
        nonlocal runs
        runs += 1
        if runs == 1:
            begun.set()
            await go.wait()
            raise DeadlineExceeded("late", fix="Wait")
        return "made"

    late = asyncio.create_task(w.values.get_or_compute(b"a", compute, ttl=10))
    await begun.wait()
    other = asyncio.create_task(w.values.get_or_compute(b"a", compute, ttl=10))
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(DeadlineExceeded):
        await late
    assert await other == "made"


async def test_a_kind_has_one_namespace_and_the_memory_counts_every_kind() -> None:
    w = World()
    other: CacheNamespace[str] = w.memory.namespace("other")
    assert w.memory.namespace("k") is w.values
    await w.values.set(b"a", "x")
    await other.set(b"b", "y")
    assert await other.get_many([b"b", b"c"]) == ["y", None]
    assert w.memory.statistics().kinds["other"].misses == 1
    cleared: list[int] = []
    w.memory.on_clear(lambda: cleared.append(1))
    assert (await w.memory.clear()).values == 2
    assert cleared == [1]
    await w.memory.close()
