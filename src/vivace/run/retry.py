"""What a failed request says: about its server, about the next try, and in words.

Delays are exponential with full jitter, unless the server names one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from math import isfinite
from typing import Any, Final

import msgspec

from vivace.errors import VivaceError
from vivace.run.balance import Lease

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


class FailureKind(Enum):
    """Why a try failed."""

    UNREACHABLE = auto()
    """No connection."""
    EJECTED = auto()
    """Every server of the set is ejected; nothing was sent."""
    CLOSED = auto()
    """The client is closed."""
    REFUSED = auto()
    """An HTTP status other than 200."""
    CUT = auto()
    """The connection ended early."""
    LATE = auto()
    """The whole answer, or the first token of a stream, did not come in time."""
    STALLED = auto()
    """A stream stopped between two tokens."""
    TOTAL = auto()
    """The time for the request with all its tries is over."""
    EMPTY = auto()
    """Status 200 with an empty body."""
    MALFORMED = auto()
    """The answer is not what was asked for, or too large."""


class Again(Enum):
    """Whether another try may succeed."""

    NO = auto()
    ELSEWHERE = auto()
    """At another server."""
    YES = auto()


class RequestFailure(VivaceError):
    """One try of a request failed. Clients raise the last one as an error class of their own.

    `what` holds neither the server's URL nor the key.
    """

    def __init__(
        self,
        kind: FailureKind,
        what: str,
        *,
        again: Again = Again.NO,
        status: int = 0,
        retry_after: float | None = None,
        fix: str = "",
    ) -> None:
        super().__init__(what, fix=fix)
        self.kind = kind
        self.again = again
        self.status = status
        """HTTP; 0 where that is not what failed."""
        self.retry_after = retry_after
        """Seconds that the server asks to wait for."""
        self.server = ""
        """The URL; empty where no server was asked."""
        self.reused = False
        """Most likely it was sent on a kept connection that the server had closed."""

    def of(self, name: str) -> str:
        """What failed, after the model's name and the server."""
        return ": ".join(filter(None, (name, self.server, self.what)))


def malformed(what: str) -> RequestFailure:
    """The failure of a request whose answer cannot be used."""
    return RequestFailure(FailureKind.MALFORMED, what)


def refused(status: int, what: str, headers: Mapping[str, str]) -> RequestFailure:
    """The failure of a request that was answered with this status and these words."""
    again = Again.ELSEWHERE if status in MISPLACED else Again.NO
    return RequestFailure(
        FailureKind.REFUSED,
        f"status {status}: {what}".rstrip(": "),
        again=Again.YES if status in RETRYABLE else again,
        status=status,
        retry_after=retry_after(headers),
    )


def blame(lease: Lease, what: str, *, status: int = 0, retry_after: float | None = None) -> None:
    """Record at the set of servers what a failure says about this server.

    A request that is wrong by itself says nothing against the server. A missing key or model does,
    where there are other servers.

    Args:
        status: of the HTTP error; 0 where the failure is another one.
    """
    if status == 429 or (status in _BUSY and retry_after is not None):
        lease.alive()
        lease.busy(_REST if retry_after is None else retry_after)
    elif 0 < status < 500 and not (status in MISPLACED and lease.others):
        lease.alive()
    else:
        lease.failed(what, retry_after=retry_after)


def pause(
    failure: RequestFailure, tries: int, *, elsewhere: bool, draw: random.Random
) -> float | None:
    """Seconds until the next try; None where none would succeed.

    Args:
        tries: number of failed tries, this one included.
        elsewhere: whether a server is left that has not been tried.
    """
    if failure.again is Again.NO or (failure.again is Again.ELSEWHERE and not elsewhere):
        return None
    if elsewhere or (tries == 1 and failure.reused):
        return 0.0
    return backoff(tries, failure.retry_after, draw)


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
