"""What does a failure say of its server, and how long until the next try?

Delays are exponential with full jitter, unless the server says.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Final

from vivace.run.endpoints import Lease

FIRST = 0.5
LONGEST = 8.0
"""Seconds: the bounds within which a delay is drawn when the server says nothing."""
STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses after which another try may do better."""

MISPLACED: Final = frozenset({401, 403, 404})
"""Statuses that another server may not answer: of a key or a model that only this one lacks."""
_BUSY: Final = frozenset({503, 529})
"""Statuses of a server that is well but has too much to do, where they come with a time."""
_REST: Final = 1.0
"""Seconds that a server is left alone for after a 429 which tells none, if there are others."""


def refused(lease: Lease, status: int, why: str, told: float | None) -> None:
    """Tell the set of servers what an HTTP error says of this one.

    A request that is wrong by itself says nothing against it. A key or a model that it lacks does,
    where there are other servers.
    """
    if status == 429 or (status in _BUSY and told is not None):
        lease.alive()
        lease.busy(_REST if told is None else told)
    elif status < 500 and not (status in MISPLACED and lease.others):
        lease.alive()
    else:
        lease.failed(why, retry_after=told)


def backoff(tries: int, told: float | None, draw: random.Random) -> float:
    """Seconds to wait after `tries` failures (from 1).

    Full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015): uniform between 0 and the
    exponential bound. Where the server told a time it is kept, and up to a tenth is added, so that
    all who were refused together do not come back together.
    """
    if told is not None:
        return told + draw.uniform(0, 0.1 * told)
    return draw.uniform(0, min(LONGEST, FIRST * 2 ** (tries - 1)))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the server asks: `retry-after-ms`, or `Retry-After` in either form."""
    told = _number(headers.get("retry-after-ms"))
    if told is not None:
        return told / 1000
    text = headers.get("Retry-After")
    told = _number(text)
    if told is not None or text is None:
        return told
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return value if value >= 0 and isfinite(value) else None
