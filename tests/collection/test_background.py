"""The thread that keeps a collection in shape, and whom it lets go first."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from vivace.collection.background import Background
from vivace.run.background import NICE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nice values of threads")


@pytest.mark.parametrize(("quiet", "nice"), [(True, 10), (False, NICE)])
def test_it_gives_way_while_questions_come(quiet: bool, nice: int) -> None:
    seen: list[int] = []

    def work() -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    background = Background(work)
    background.quiet = lambda: quiet
    for _ in range(2):
        background.wake()
        background.drain()
    background.close()
    assert seen == [nice, nice]


def test_what_is_said_holds_for_what_begins_after_it() -> None:
    seen: list[int] = []
    background = Background(
        lambda: seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    )
    for quiet in (True, False, True):
        background.quiet = lambda quiet=quiet: quiet  # type: ignore[misc]
        background.wake()
        background.drain()
    background.close()
    assert seen == [10, NICE, 10]
