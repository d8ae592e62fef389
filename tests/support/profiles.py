"""How much Hypothesis searches: little in the default run, everything with
`VIVACE_TEST_PROFILE=full`."""

from __future__ import annotations

import gc
import os
import time
from typing import Final

from hypothesis import HealthCheck, settings

FULL: Final = os.environ.get("VIVACE_TEST_PROFILE") == "full"
FUZZ: Final = 20_000 if FULL else 300
"""Inputs of a test that throws arbitrary ones at a boundary."""
FUZZ_SECONDS: Final = 3600 if FULL else 120
"""Timeout of such a test."""
SLOWEST_INPUT: Final = 1.0
"""Seconds of CPU that one of them may take."""


class InputTime:
    """Measures the CPU seconds of one input on this thread, without garbage collections.

    Thousands of inputs leave Hypothesis a heap whose collection takes up to a second, whichever
    input it happens to meet.
    """

    def __enter__(self) -> InputTime:
        self._collecting = 0.0
        gc.callbacks.append(self._collected)
        self._began = time.thread_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.thread_time() - self._began - self._collecting
        gc.callbacks.remove(self._collected)

    def _collected(self, phase: str, _: dict[str, int]) -> None:
        now = time.thread_time()
        self._collecting += now if phase == "stop" else -now


def scaled(full: int) -> int:
    """`full` examples or steps under the full profile, a fifth of them otherwise.

    For tests that set their own `max_examples` or `stateful_step_count`.
    """
    return full if FULL else max(5, full // 5)


def fuzzed() -> int:
    """Inputs of one fuzz target: 20,000 under the full profile, a few hundred otherwise."""
    return 20_000 if FULL else 300


def register() -> None:
    """Register and load the profile of this run."""
    # a busy machine is no fault of the code under test
    busy = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("full", busy, max_examples=100, stateful_step_count=50)
    settings.register_profile(
        "default", busy, max_examples=20, stateful_step_count=20, derandomize=True
    )
    settings.load_profile("full" if FULL else "default")
