"""What a tier says when it does not do what it was asked. Whoever asks counts it."""

from __future__ import annotations

from vivace.errors import VivaceError


class TierFailure(VivaceError):
    """A tier did not do what it was asked."""


class TierUnreachable(TierFailure):
    """Nobody answers there, or not in time, or the password is wrong: the next call fails, too."""


class PartlyDown(TierFailure):
    """One of several servers is away: the tier still serves the keys of the others."""


class TierRefused(TierFailure):
    """The server is well and says no, e.g. because its memory is full: it may still be read."""


class Moved(TierRefused):
    """The key is another server's of the cluster by now."""

    def __init__(self, server: tuple[str, int]) -> None:
        super().__init__("the cluster has moved the key", fix="It is asked of its new server")
        self.server = server
