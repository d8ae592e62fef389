"""How late an event loop is."""

from __future__ import annotations

import asyncio
import time

import pytest

from vivace.run.host import EVERY, FADES, EventLoopLag


async def test_a_loop_that_is_held_up_is_seen() -> None:
    with EventLoopLag() as lag:
        await asyncio.sleep(2 * EVERY)
        time.sleep(0.1)  # noqa: ASYNC251
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert lag.seconds > 0.1 - 2 * EVERY


def test_the_worst_fades() -> None:
    lag = EventLoopLag()
    lag.late(0.08)
    lag.late(0.01)
    assert lag.seconds == pytest.approx(0.08 * FADES)
    for _ in range(200):
        lag.late(0.001)
    assert lag.seconds == pytest.approx(0.001)


async def test_nothing_beats_afterwards() -> None:
    lag = EventLoopLag()
    with lag:
        pass
    assert len(asyncio.all_tasks()) == 1
    await asyncio.sleep(2 * EVERY)
    assert lag.seconds == 0
