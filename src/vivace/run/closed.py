"""The error of work handed to something that has been closed."""

from __future__ import annotations

from vivace.errors import VivaceError


class Closed(VivaceError):
    """A pool or a batcher was closed before the work could run."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is closed",
            fix="Close the engine only after the work on it has finished, or open a new one",
        )
