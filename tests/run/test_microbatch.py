from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vivace.errors import Closed, DeadlineExceeded, VivaceError
from vivace.run import microbatch
from vivace.run.microbatch import MicroBatcher
from vivace.run.work import Priority, work_context


class Doubler:
    """A batch function that logs its batches and stops at `hold` until `release` is set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.held = threading.Event()
        self.release = threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        if HOLD in items:
            self.held.set()
            assert self.release.wait(30)
        else:
            self.batches.append(items)
        if BAD in items:
            raise ValueError("bad item")
        return [2 * item for item in items]


HOLD, BAD = 10_000_000, 13


@contextmanager
def batcher(
    function: Doubler, *, workers: int = 1, cap: int = 4, budget: int | None = None
) -> Iterator[MicroBatcher[int, int]]:
    made: MicroBatcher[int, int] = MicroBatcher(
        function, workers=workers, cap=cap, size=abs, budget=budget, name="test-batch"
    )
    try:
        yield made
    finally:
        function.release.set()
        made.close()


async def hold(function: Doubler, made: MicroBatcher[int, int]) -> asyncio.Task[int]:
    """Keep the only worker busy so that a queue forms."""
    task = asyncio.create_task(made.run(HOLD))
    assert await asyncio.to_thread(function.held.wait, 30)
    return task


async def queue(
    made: MicroBatcher[int, int], item: int, priority: Priority = Priority.INTERACTIVE
) -> asyncio.Task[int]:
    with work_context(priority):
        task = asyncio.create_task(made.run(item))
    await asyncio.sleep(0)
    return task


async def test_order_is_kept() -> None:
    function = Doubler()
    items = [(37 * i) % 501 + 20 for i in range(3_000)]
    with batcher(function, workers=3, cap=8) as made:
        assert await made.run_many(items) == [2 * item for item in items]
        assert await made.run_many([]) == []
        statistics = made.statistics()
    assert max(map(len, function.batches)) <= 8
    assert statistics.done == 3_000
    assert (*statistics.queued.values(), statistics.running, statistics.failed) == (0,) * 6
    assert statistics.batches == len(function.batches)


async def test_a_long_list_is_queued_in_parts_longest_first() -> None:
    function = Doubler()
    with batcher(function) as made:
        await hold(function, made)
        task = asyncio.create_task(made.run_many(range(20, 4_020)))
        await asyncio.sleep(0)
        assert made.statistics().queued[Priority.INTERACTIVE] == microbatch.FEED
        function.release.set()
        assert await task == [2 * i for i in range(20, 4_020)]
    assert function.batches[0] == [4_019, 4_018, 4_017, 4_016]


async def test_urgent_items_run_first() -> None:
    function = Doubler()
    with batcher(function) as made:
        tasks = [await hold(function, made)]
        tasks += [await queue(made, 100 + i, Priority.INGEST) for i in range(2)]
        tasks += [await queue(made, 200 + i) for i in range(2)]
        function.release.set()
        await asyncio.gather(*tasks)
    assert function.batches == [[200, 201], [100, 101]]


async def test_every_eighth_pick_takes_the_oldest_of_the_lower_priorities() -> None:
    function = Doubler()
    with batcher(function, cap=1) as made:
        tasks = [await hold(function, made)]
        tasks += [
            await queue(made, 300, Priority.BACKGROUND),
            await queue(made, 400, Priority.BATCH),
        ]
        tasks += [await queue(made, 100 + i) for i in range(20)]
        function.release.set()
        await asyncio.gather(*tasks)
    order = [item for (item,) in function.batches]
    assert order.index(300) == 7
    assert order.index(400) == 15
    assert [item for item in order if item < 300] == list(range(100, 120))


async def test_the_nearest_in_size_run_with_the_oldest() -> None:
    function = Doubler()
    with batcher(function, cap=3) as made:
        tasks = [await hold(function, made)]
        tasks += [await queue(made, item) for item in (100, 900, 500, 101, 880, 98, 102)]
        function.release.set()
        await asyncio.gather(*tasks)
    assert function.batches == [[100, 101, 98], [900, 880, 500], [102]]


async def test_a_batch_is_selected_from_the_window_only() -> None:
    function = Doubler()
    with batcher(function, cap=2) as made:
        tasks = [await hold(function, made), await queue(made, 100)]
        tasks += [await queue(made, 5_000 + i) for i in range(microbatch.WINDOW)]
        tasks.append(await queue(made, 100))
        function.release.set()
        await asyncio.gather(*tasks)
    assert function.batches[0] == [100, 5_000]
    assert function.batches[1] == [5_001, 5_002]


async def test_a_budget_bounds_a_batch_but_never_a_single_item() -> None:
    function = Doubler()
    with batcher(function, cap=8, budget=1_000) as made:
        tasks = [await hold(function, made)]
        tasks += [await queue(made, item) for item in (400, 401, 402, 2_000, 2_001, 20, 21, 22)]
        function.release.set()
        await asyncio.gather(*tasks)
    assert function.batches == [[400, 401], [402, 22], [2_000], [2_001], [20, 21]]


async def test_a_cancelled_item_never_runs() -> None:
    function = Doubler()
    with batcher(function) as made:
        first = await hold(function, made)
        gone, stays = await queue(made, 50), await queue(made, 51)
        many = asyncio.create_task(made.run_many([60, 61, 62]))
        await asyncio.sleep(0)
        gone.cancel()
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        with pytest.raises(asyncio.CancelledError):
            await many
        assert sum(made.statistics().queued.values()) == 1  # at once, not when their turn comes
        function.release.set()
        assert await first == 2 * HOLD
        assert await stays == 102
        statistics = made.statistics()
    assert function.batches == [[51]]
    assert statistics.cancelled == 4
    assert many.cancelled()


async def test_a_result_for_a_cancelled_call_is_dropped() -> None:
    function = Doubler()
    with batcher(function) as made:
        first = await hold(function, made)
        first.cancel()
        function.release.set()
        assert await made.run(50) == 100


async def test_a_failing_item_fails_alone() -> None:
    function = Doubler()
    with batcher(function) as made:
        tasks = [await hold(function, made)]
        tasks += [await queue(made, item) for item in (12, BAD, 14)]
        function.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        statistics = made.statistics()
    assert results[1] == 24
    assert isinstance(results[2], ValueError)
    assert results[3] == 28
    assert function.batches[0] == [12, BAD, 14]
    assert sorted(function.batches[1:]) == [[12], [BAD], [14]]
    assert statistics.failed == 1


async def test_a_failing_item_fails_its_call_and_spares_the_rest_of_it() -> None:
    function = Doubler()
    with batcher(function, cap=1) as made:
        first = await hold(function, made)
        many = asyncio.create_task(made.run_many([BAD, 1, 2]))
        await asyncio.sleep(0)
        function.release.set()
        with pytest.raises(ValueError, match="bad item"):
            await many
        await first
        await made.run(99)
    assert [BAD] in function.batches


async def test_two_failing_items_of_one_batch_fail_their_call_once() -> None:
    function = Doubler()
    with batcher(function) as made:
        first = await hold(function, made)
        many = asyncio.create_task(made.run_many([BAD, BAD]))
        await asyncio.sleep(0)
        function.release.set()
        with pytest.raises(ValueError, match="bad item"):
            await many
        await first


@pytest.mark.parametrize("error", [StopIteration("x"), KeyboardInterrupt("x")])
async def test_an_error_that_no_future_carries_is_translated(error: BaseException) -> None:
    def raises(items: list[int]) -> list[int]:
        raise error

    made: MicroBatcher[int, int] = MicroBatcher(raises, workers=1, cap=2)
    try:
        for _ in range(2):  # the worker is still alive
            with pytest.raises(VivaceError, match=type(error).__name__):
                await made.run(1)
    finally:
        made.close()


async def test_a_function_with_too_few_results_is_named() -> None:
    made: MicroBatcher[int, int] = MicroBatcher(lambda items: [], workers=1, cap=2, name="short")
    try:
        with pytest.raises(VivaceError, match="short: the batch function returned 0 results for 1"):
            await made.run(1)
    finally:
        made.close()


async def test_close_fails_what_is_queued() -> None:
    function = Doubler()
    with batcher(function) as made:
        first = await hold(function, made)
        queued = await queue(made, 50)
        many = asyncio.create_task(made.run_many(range(100, 3_100)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(made.close))
        for task in (queued, many):
            with pytest.raises(Closed, match="test-batch is closed"):
                await task
        function.release.set()
        await closing
        assert await first == 2 * HOLD
        with pytest.raises(Closed):
            await made.run(1)
        made.close()
    assert function.batches == []
    assert not any(thread.name.startswith("test-batch") for thread in threading.enumerate())


async def test_a_running_call_with_more_to_feed_fails_after_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(microbatch, "FEED", 1)
    function = Doubler()
    with batcher(function) as made:
        many = asyncio.create_task(made.run_many([HOLD, 1, 2]))
        assert await asyncio.to_thread(function.held.wait, 30)
        closing = asyncio.create_task(asyncio.to_thread(made.close))
        while not made.closed:  # noqa: ASYNC110 - yields until the thread has run, never sleeps
            await asyncio.sleep(0)
        function.release.set()
        await closing
        with pytest.raises(Closed):
            await many


def test_close_from_the_function_itself() -> None:
    made: MicroBatcher[int, int]

    def closes(items: list[int]) -> list[int]:
        made.close()
        return items

    made = MicroBatcher(closes, workers=1, cap=1)
    assert asyncio.run(made.run(7)) == 7
    made.close()


def test_results_across_two_event_loops() -> None:
    function = Doubler()
    results: dict[int, list[int]] = {}

    with batcher(function, workers=2) as made:

        def caller(number: int) -> None:
            items = range(1_000 * number, 1_000 * number + 300)
            results[number] = asyncio.run(made.run_many(items))

        threads = [threading.Thread(target=caller, args=(number,)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for number in (1, 2):
        assert results[number] == [2 * i for i in range(1_000 * number, 1_000 * number + 300)]


def test_a_closed_loop_is_no_obstacle() -> None:
    function = Doubler()

    async def leave(made: MicroBatcher[int, int]) -> None:
        task = await hold(function, made)
        queued = await queue(made, 50)
        for left in (task, queued):
            left.cancel()

    with batcher(function) as made:
        asyncio.run(leave(made))
        function.release.set()
        assert asyncio.run(made.run(51)) == 102
    assert function.batches == [[51]]


async def test_64_concurrent_callers_get_their_own_results() -> None:
    function = Doubler()

    async def caller(number: int, made: MicroBatcher[int, int]) -> list[int]:
        with work_context(Priority(number % 3), user=f"user {number % 5}"):
            return [await made.run(1_000 * number + i) for i in range(20)]

    with batcher(function, workers=2, cap=8) as made:
        results = await asyncio.gather(*(caller(number + 1, made) for number in range(64)))
        assert made.statistics().done == 64 * 20
    assert results == [[2 * (1_000 * n + i) for i in range(20)] for n in range(1, 65)]


async def test_an_expired_item_never_runs_and_fails_its_call() -> None:
    now = 0.0
    function = Doubler()
    made: MicroBatcher[int, int] = MicroBatcher(
        function, workers=1, cap=4, name="test-batch", clock=lambda: now
    )
    try:
        first = await hold(function, made)
        now = time.monotonic()
        with work_context(seconds=1):
            late = asyncio.create_task(made.run_many([50, 51]))
        with work_context(seconds=1000):
            early = asyncio.create_task(made.run(60))
        await asyncio.sleep(0)
        now += 10
        function.release.set()
        with pytest.raises(DeadlineExceeded, match="test-batch: the deadline passed"):
            await late
        assert await early == 120
        assert await first == 2 * HOLD
        statistics = made.statistics()
    finally:
        made.close()
    assert function.batches == [[60]]
    assert (statistics.expired, statistics.cancelled) == (2, 0)


async def test_a_bound_keeps_a_worker_for_urgent_items() -> None:
    function = Doubler()
    with batcher(function, workers=2) as made:
        made.bound(Priority.INGEST, 1)
        with work_context(Priority.INGEST):
            holding = await hold(function, made)
        waiting = await queue(made, 50, Priority.BACKGROUND)
        assert await made.run(60) == 120
        assert function.batches == [[60]]
        made.bound(Priority.INGEST, None)
        assert await waiting == 100
        function.release.set()
        await holding


async def test_workers_can_be_added_and_taken_away() -> None:
    function = Doubler()
    with batcher(function) as made:
        first = await hold(function, made)
        waiting = await queue(made, 50)
        made.resize(2)
        assert await waiting == 100
        made.resize(1)
        function.release.set()
        assert await first == 2 * HOLD
        assert await made.run_many([1, 2, 3]) == [2, 4, 6]
        assert made.statistics().threads == 1
        assert len(made.slots) == 1
