"""An event loop whose clock moves only when the test says so."""

from __future__ import annotations

import asyncio


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Timers run in `advance`, each at its own time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def settle(self) -> None:
        """Run what is ready, and what that makes ready."""
        for _ in range(6):
            self.run_until_complete(asyncio.sleep(0))

    def advance(self, seconds: float, *, step: float = 0.25) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            self.settle()
