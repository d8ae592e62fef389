"""After a failed request: what it says about its server, when to try again, and in which words.

Delays are exponential with full jitter, unless the server names one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any, Final

import aiohttp
import msgspec

from vivace.errors import (
    Closed,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
    StreamCut,
    StreamEmpty,
    StreamTooLong,
    VivaceError,
)
from vivace.run.balance import Lease
from vivace.run.endpoints import AllEjected

FIRST: Final = 0.5
LONGEST: Final = 8.0
"""Seconds: the first and the greatest bound of a delay for which the server names no time."""
RETRYABLE: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses after which another try may succeed."""
MISPLACED: Final = frozenset({401, 403, 404})
"""Statuses that another server may not answer: this one may lack the key or the model."""
_BUSY: Final = frozenset({503, 529})
"""Statuses of a healthy server that is overloaded, where they come with a time."""
_REST: Final = 1.0
"""Seconds for which a server gets no request after a 429 without a time, if there are others."""
_MAX_MESSAGE: Final = 500
"""Characters of a server's error that are shown."""


def blame(lease: Lease, error: VivaceError) -> None:
    """Record at the set of servers what a failed request says about this server.

    A request that is wrong by itself says nothing against the server, nor does an answer without
    text or with too much, which may be what was requested. A missing key or model does, where there
    are other servers.
    """
    if isinstance(error, ModelRefused):
        status, seconds = error.status, error.retry_after
        if status == 429 or (status in _BUSY and seconds is not None):
            lease.alive()
            lease.busy(_REST if seconds is None else seconds)
        elif status < 500 and not (status in MISPLACED and lease.others):
            lease.alive()
        else:
            lease.failed(error.what, retry_after=seconds)
    elif not isinstance(error, StreamEmpty | StreamTooLong | Closed):
        lease.failed(error.what)


def pause(
    error: VivaceError, tries: int, *, elsewhere: bool, late_again: bool, draw: random.Random
) -> float | None:
    """Seconds until the next try; None where none would succeed.

    Args:
        tries: number of failed tries, this one included.
        elsewhere: whether a server is left that has not been tried.
        late_again: whether a server that was too slow is asked again where there is no other one.
    """
    if isinstance(error, ModelRefused):
        again = error.status in RETRYABLE or (elsewhere and error.status in MISPLACED)
    elif isinstance(error, ModelTimeout):
        again = elsewhere or late_again
    else:
        again = isinstance(error, ModelUnreachable | StreamCut | AllEjected)
    if not again:
        return None
    # most likely a kept connection that the server had closed
    stale = tries == 1 and isinstance(error.__cause__, aiohttp.ServerDisconnectedError)
    if elsewhere or stale:
        return 0.0
    return backoff(tries, getattr(error, "retry_after", None), draw)


def backoff(tries: int, retry_after: float | None, draw: random.Random) -> float:
    """Seconds to wait after `tries` failures (from 1).

    Full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015): uniform between 0 and the
    exponential bound. A time that the server names is kept, and up to a tenth is added, so that
    requests refused together do not return together.
    """
    if retry_after is not None:
        return retry_after + draw.uniform(0, 0.1 * retry_after)
    return draw.uniform(0, min(LONGEST, FIRST * 2 ** (tries - 1)))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the server asks: `retry-after-ms`, or `Retry-After` in either form."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("Retry-After")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
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


def redacted(text: str, secret: str) -> str:
    """The text without the secret."""
    return text.replace(secret, "***") if secret else text


def error_message(error: Any, secret: str = "") -> str:
    """What an error object says, in one line of bounded length, without the secret."""
    if isinstance(error, dict):
        error = error.get("error", error)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    # redacted before it is shortened: a part of a secret would not be recognised
    return " ".join(redacted(str(error), secret).split())[:_MAX_MESSAGE]


def error_body_message(body: bytes, secret: str = "") -> str:
    """What the body of an HTTP error says."""
    try:
        return error_message(msgspec.json.decode(body), secret)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return error_message(body.decode("utf-8", "replace"), secret)
