"""The thread that keeps a collection in shape, and its priority."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from vivace.collection.sealing import SealingThread
from vivace.run.background import NICE, BackgroundExecutor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nice values of threads")


@pytest.mark.parametrize(("idle", "nice"), [(True, 10), (False, NICE)])
def test_it_runs_at_lowered_priority_while_questions_arrive(idle: bool, nice: int) -> None:
    seen: list[int] = []

    def work() -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    executor = BackgroundExecutor(foreground_idle=lambda: idle)
    background = SealingThread(work, executor)
    for _ in range(2):
        background.wake()
        background.drain()
    background.close()
    executor.close()
    assert seen == [nice, nice]


def test_the_foreground_is_looked_at_when_the_work_begins() -> None:
    seen: list[int] = []
    idle = True
    executor = BackgroundExecutor(foreground_idle=lambda: idle)
    background = SealingThread(
        lambda: seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())), executor
    )
    for now in (True, False, True):
        idle = now
        background.wake()
        background.drain()
    background.close()
    executor.close()
    assert seen == [10, NICE, 10]
