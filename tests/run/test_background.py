"""Which threads run at lowered priority, and how much ingest processes at once."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.run.service import Clock
from vivace.run.background import (
    IDLE_SECONDS,
    NICE,
    PIECE,
    SWITCH_SECONDS,
    BackgroundBatcher,
    BackgroundExecutor,
    IngestThrottle,
    lower_priority,
    short_switch_interval,
)
from vivace.run.work import Priority, current, work_context

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no nice value")


def nice(_: object = None) -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def names(items: list[int]) -> list[tuple[str, int]]:
    return [(threading.current_thread().name, nice())] * len(items)


@linux
async def test_only_ingest_and_background_work_run_at_lowered_priority() -> None:
    before = nice()
    batcher: BackgroundBatcher[int, tuple[str, int]] = BackgroundBatcher(
        names, workers=1, cap=1, name="test"
    )
    try:
        for priority in Priority:
            with work_context(priority):
                [(name, value)] = await batcher.run_many([1])
            lowered = priority >= Priority.INGEST
            assert value == (NICE if lowered else before)
            assert name == ("test-background-0" if lowered else "test-0")
        plain, back = batcher.statistics()
        assert (plain.done, back.done) == (2, 2)
    finally:
        batcher.close()
    assert nice() == before


async def test_a_question_is_done_while_every_background_thread_is_busy() -> None:
    """The first question sends the passage to a background thread."""
    busy, release = threading.Event(), threading.Event()

    def function(items: list[int]) -> list[int]:
        if items == [0]:
            busy.set()
            assert release.wait(30)
        return items

    batcher: BackgroundBatcher[int, int] = BackgroundBatcher(function, workers=1, cap=1)
    try:
        assert await batcher.run_many([2]) == [2]
        with work_context(Priority.INGEST):
            passage = asyncio.create_task(batcher.run_many([0]))
        assert await asyncio.to_thread(busy.wait, 30)
        assert await batcher.run_many([1]) == [1]
        assert not passage.done()
        release.set()
        assert await passage == [0]
    finally:
        release.set()
        batcher.close()


@linux
async def test_ingest_runs_at_full_priority_unless_questions_arrive() -> None:
    clock = Clock()
    batcher: BackgroundBatcher[int, tuple[str, int]] = BackgroundBatcher(
        names, workers=2, cap=1, clock=clock
    )

    async def passages() -> tuple[int, int]:
        with work_context(Priority.INGEST):
            found = await batcher.run_many(list(range(3 * PIECE + 1)))
        assert len(found) == 3 * PIECE + 1
        plain, back = batcher.statistics()
        return plain.done, back.done

    try:
        assert await passages() == (3 * PIECE + 1, 0)
        await batcher.run_many([1])
        assert await passages() == (3 * PIECE + 2, 3 * PIECE + 1)
        clock.now += IDLE_SECONDS
        assert await passages() == (6 * PIECE + 3, 3 * PIECE + 1)
    finally:
        batcher.close()


def test_a_system_that_refuses_a_nice_value_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    assert in_a_thread() is False


def test_a_system_without_nice_values_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "setpriority")
    assert in_a_thread() is False


@linux
def test_lowering_twice_is_once() -> None:
    assert in_a_thread(twice=True) is True


def in_a_thread(*, twice: bool = False) -> bool:
    """On a new thread: the test's own could not be raised again."""
    found: list[bool] = []

    def work() -> None:
        found.extend(lower_priority() for _ in range(1 + twice))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return all(found)


def ask(
    throttle: IngestThrottle, clock: Clock, seconds: float, *, periods: int, each: int = 5
) -> None:
    for _ in range(periods * each):
        clock.now += IngestThrottle.PERIOD / each
        throttle.observe(seconds)


class TestIngestThrottle:
    def test_full_size_until_a_question_is_asked(self) -> None:
        assert IngestThrottle(256, clock=Clock()).size() == 256

    def test_it_halves_while_questions_are_slow_and_recovers(self) -> None:
        clock = Clock()
        throttle = IngestThrottle(256, clock=clock)
        ask(throttle, clock, 0.010, periods=6)
        assert throttle.size() == 256
        ask(throttle, clock, 0.030, periods=3)
        assert throttle.size() <= 128
        ask(throttle, clock, 0.030, periods=20)
        assert throttle.size() == 32
        ask(throttle, clock, 0.011, periods=3)
        assert 32 < throttle.size() < 256
        ask(throttle, clock, 0.011, periods=12)
        assert throttle.size() == 256

    def test_full_size_again_once_the_foreground_is_idle(self) -> None:
        clock = Clock()
        throttle = IngestThrottle(256, clock=clock)
        ask(throttle, clock, 0.010, periods=4)
        ask(throttle, clock, 0.100, periods=20)
        assert throttle.size() == 32
        clock.now += IDLE_SECONDS - 0.1
        assert throttle.size() == 32
        clock.now += 0.1
        assert throttle.size() == 256

    def test_questions_that_stay_slower_become_the_baseline(self) -> None:
        clock = Clock()
        throttle = IngestThrottle(256, clock=clock)
        ask(throttle, clock, 0.010, periods=4)
        ask(throttle, clock, 0.020, periods=20)
        assert throttle.size() == 32
        ask(throttle, clock, 0.020, periods=100)
        assert throttle.size() == 256

    def test_one_slow_question_among_many_changes_nothing(self) -> None:
        clock = Clock()
        throttle = IngestThrottle(256, clock=clock)
        for number in range(60):
            clock.now += 0.1
            throttle.observe(1.0 if number % 5 == 0 else 0.01)
            assert throttle.size() == 256

    @given(
        most=st.integers(1, 5_000),
        steps=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 10)), max_size=60),
    )
    def test_it_stays_within_its_bounds(self, most: int, steps: list[tuple[float, float]]) -> None:
        clock = Clock()
        throttle = IngestThrottle(most, clock=clock)
        for gap, seconds in steps:
            clock.now += gap
            throttle.observe(seconds)
            assert min(32, most) <= throttle.size() <= most
        clock.now += 1.001 * IDLE_SECONDS
        assert throttle.size() == most


def test_the_switch_interval_is_short_as_long_as_a_thread_is_inside() -> None:
    before = sys.getswitchinterval()
    with short_switch_interval:
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
        with short_switch_interval:
            pass
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    assert sys.getswitchinterval() == pytest.approx(before)


class TestBackgroundExecutor:
    @linux
    async def test_it_lowers_the_priority_unless_the_foreground_is_idle(self) -> None:
        idle, plain = True, nice()
        executor = BackgroundExecutor(foreground_idle=lambda: idle)
        try:
            assert await executor.run(nice) == plain
            assert executor.call(nice) == plain
            assert executor.submit(nice).result() == NICE
            idle = False
            assert await executor.run(nice) == NICE
            assert executor.call(nice) == NICE
            idle = True
            assert await executor.run(nice) == plain
            assert nice() == plain
        finally:
            executor.close()

    @pytest.mark.parametrize("idle", [True, False])
    async def test_errors_and_the_context_pass_through(self, idle: bool) -> None:
        executor = BackgroundExecutor(foreground_idle=lambda: idle)
        try:
            with pytest.raises(ZeroDivisionError):
                await executor.run(lambda: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                executor.call(lambda: 1 // 0)
            with work_context(Priority.INGEST):
                assert (await executor.run(current)).priority is Priority.INGEST
        finally:
            executor.close()

    async def test_its_threads_are_reused_and_end_when_it_is_closed(self) -> None:
        executor = BackgroundExecutor(threads=2, foreground_idle=lambda: False)
        threads = {await executor.run(threading.current_thread) for _ in range(20)}
        executor.close()
        executor.close()
        for thread in threads:
            await asyncio.to_thread(thread.join, 30)
        assert len(threads) <= 2


@linux
def test_a_lowered_thread_is_taken_off_its_core_by_any_that_wakes() -> None:
    seen: list[int] = []

    def work() -> None:
        lower_priority()
        seen.append(os.sched_getscheduler(threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [os.SCHED_IDLE]
