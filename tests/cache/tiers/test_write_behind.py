from __future__ import annotations

import asyncio
from collections import Counter

from vivace.cache.tiers.connection import TierRefused, TierUnreachable
from vivace.cache.tiers.resilient import WriteBehind


class Sink:
    """A tier that can be away."""

    def __init__(self) -> None:
        self.there: dict[bytes, bytes] = {}
        self.well = asyncio.Event()
        self.well.set()
        self.failing: list[Exception] = []
        self.cleared = 0

    async def ready(self) -> None:
        await self.well.wait()

    async def write(self, key: bytes, value: bytes, ttl: float | None) -> None:
        if self.failing:
            raise self.failing.pop()
        self.there[key] = value

    async def erase(self, key: bytes) -> None:
        if self.failing:
            raise self.failing.pop()
        self.there.pop(key, None)

    async def erase_all(self) -> None:
        self.there.clear()
        self.cleared += 1


def made(
    sink: Sink, entries: int = 100, max_bytes: int = 1 << 20
) -> tuple[WriteBehind, Counter[str]]:
    counts: Counter[str] = Counter()

    def count(what: str) -> None:
        counts[what] += 1

    return WriteBehind(sink, entries=entries, max_bytes=max_bytes, count=count), counts


async def test_the_last_write_of_a_key_is_written() -> None:
    sink = Sink()
    queue, counts = made(sink)
    queue.put(b"a", b"1", None)
    queue.put(b"a", b"2", None)
    queue.put(b"b", b"1", None)
    queue.delete(b"b")
    await queue.drained()
    assert sink.there == {b"a": b"2"}
    assert counts == {"written": 1, "erased": 1}
    await queue.close(0)


async def test_a_full_queue_drops_its_oldest_values_and_counts_them() -> None:
    sink = Sink()
    sink.well.clear()
    queue, counts = made(sink, entries=10, max_bytes=1000)
    for number in range(25):
        queue.put(b"%d" % number, b"v", None)
    queue.put(b"huge", bytes(1001), None)
    assert counts["dropped"] == 16
    queue.put(b"big", bytes(995), None)
    assert len(queue) == 6
    sink.well.set()
    await queue.drained()
    assert set(sink.there) == {b"20", b"21", b"22", b"23", b"24", b"big"}
    await queue.close(0)


async def test_deletes_are_never_dropped() -> None:
    sink = Sink()
    sink.there = {b"%d" % number: b"old" for number in range(30)}
    sink.well.clear()
    queue, _ = made(sink, entries=10)
    for number in range(10):
        queue.delete(b"%d" % number)
    assert not queue.clearing
    waiting = queue.waiting(b"3")
    assert waiting is not None
    assert waiting.value is None
    queue.delete(b"10")
    assert queue.clearing
    queue.put(b"new", b"value", None)
    sink.well.set()
    await queue.drained()
    assert sink.cleared == 1
    assert sink.there == {b"new": b"value"}
    await queue.close(0)


async def test_a_failed_write_is_tried_again_and_a_refused_one_is_not() -> None:
    sink = Sink()
    queue, counts = made(sink)
    sink.failing = [TierUnreachable("away")]
    queue.put(b"a", b"1", None)
    await queue.drained()
    assert sink.there == {b"a": b"1"}
    sink.failing = [TierRefused("full")]
    queue.put(b"b", b"1", None)
    await queue.drained()
    assert b"b" not in sink.there
    assert counts["unwritten"] == 1
    sink.failing = [TierRefused("read-only")]
    queue.delete(b"a")
    await queue.drained()
    assert sink.there == {}
    await queue.close(0)


async def test_a_value_that_expires_in_the_queue_is_not_written() -> None:
    sink = Sink()
    now = [0.0]
    queue = WriteBehind(sink, count=lambda _: None, clock=lambda: now[0])
    sink.well.clear()
    queue.put(b"a", b"1", 5.0)
    queue.put(b"b", b"1", 50.0)
    now[0] = 6.0
    sink.well.set()
    await queue.drained()
    assert set(sink.there) == {b"b"}
    await queue.close(0)
