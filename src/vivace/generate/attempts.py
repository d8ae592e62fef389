"""After a failure: who is to blame, and does another try do better?"""

from __future__ import annotations

import random

import aiohttp

from vivace.errors import (
    GenerationError,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
    StreamCut,
    StreamMalformed,
    StreamStalled,
)
from vivace.run.endpoints import Lease
from vivace.run.retry import MISPLACED, STATUSES, backoff, refused


def blame(lease: Lease, error: GenerationError) -> None:
    """Tell the set of servers what a failure says of this one.

    An answer without text says nothing against it: the request may ask for none.
    """
    if isinstance(error, ModelRefused):
        refused(lease, error.status, error.what, error.retry_after)
    elif isinstance(
        error, ModelUnreachable | ModelTimeout | StreamCut | StreamStalled | StreamMalformed
    ):
        lease.failed(error.what)


def pause(
    error: GenerationError, tries: int, *, elsewhere: bool, draw: random.Random
) -> float | None:
    """Seconds until the next try, before the first byte; None where none does better.

    Args:
        tries: that have failed, this one among them.
        elsewhere: a server is left that has not been tried.
    """
    if isinstance(error, ModelRefused):
        again = error.status in STATUSES or (elsewhere and error.status in MISPLACED)
    elif isinstance(error, ModelTimeout):
        again = elsewhere  # the same server would only have more to do
    else:
        again = isinstance(error, ModelUnreachable | StreamCut)
    if not again:
        return None
    if elsewhere:
        return 0.0
    if tries == 1 and isinstance(error.__cause__, aiohttp.ServerDisconnectedError):
        return 0.0  # most likely a kept connection that the server had closed
    told = error.retry_after if isinstance(error, ModelRefused) else None
    return backoff(tries, told, draw)
