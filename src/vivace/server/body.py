"""Read the bodies of requests: whole, before a slot is taken, within bounds of size, time and
memory."""

from __future__ import annotations

import asyncio
import time
from typing import Final, TypeAlias

from starlette.types import Receive

from vivace.server.errors import BodiesTooLarge, BodyTooLarge, ClientGone, RequestTimeout
from vivace.settings import Server

Body: TypeAlias = bytes | bytearray
_RETRY_SECONDS: Final = 5.0
BODY: Final = "vivace.body"
"""Scope key of the whole body of a request to a route that reads JSON."""


class PartialBody:
    """A body that took more than one read. It counts to its budget until `release`."""

    __slots__ = ("_budget", "data", "receiving", "refused", "timer")

    def __init__(self, budget: BodyBudget, timer: asyncio.Timeout) -> None:
        self.data = bytearray()
        self.timer = timer
        self.receiving = True
        self.refused = False
        """It was given up for others: the largest when the budget was used up."""
        self._budget = budget

    def append(self, more: bytes) -> None:
        """Count and keep what has arrived."""
        self._budget.make_room(self, len(more))
        self.data += more

    def complete(self) -> bytearray:
        """The whole body, which is not given up any more."""
        self.receiving = False
        return self.data

    def refuse(self) -> None:
        """Drop what has arrived, and make the reader raise."""
        self.refused = True
        self.data.clear()
        if not self.timer.expired():
            self.timer.reschedule(0.0)

    def release(self) -> None:
        self._budget.remove(self)


class BodyBudget:
    """Bounds the memory of all bodies that are being received or whose requests wait for a slot.

    Where there is no room for more, the largest one that is incomplete is refused: no number of
    large bodies keeps out a small one. A body that arrives in one read is not counted, it never
    waits for its client.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        """Bytes."""
        self._sizes: dict[PartialBody, int] = {}

    def open(self, timer: asyncio.Timeout) -> PartialBody:
        body = PartialBody(self, timer)
        self._sizes[body] = 0
        return body

    def make_room(self, body: PartialBody, more: int) -> None:
        """Count `more` bytes to a body.

        Raises:
            BodiesTooLarge: there is no room, and this body is, or was, the largest incomplete one.
        """
        if body.refused:  # and its reader is about to learn it
            raise self.error()
        self._sizes[body] += more
        self.held += more
        while self.held > self.most:
            largest = max(
                (each for each in self._sizes if each.receiving), key=self._sizes.__getitem__
            )
            self.remove(largest)
            largest.refuse()
            if largest is body:
                raise self.error()

    def remove(self, body: PartialBody) -> None:
        """Count the body no longer. Idempotent."""
        self.held -= self._sizes.pop(body, 0)

    def error(self) -> BodiesTooLarge:
        return BodiesTooLarge(
            f"the bodies being received have more than {self.most:,} bytes in all",
            fix="Try again later or send less, or raise server.bodies_mib",
            retry_after=_RETRY_SECONDS,
        )


class BodyReader:
    """Reads whole bodies of at most `server.max_body_mib` within `server.body_seconds`."""

    def __init__(self, settings: Server, budget: BodyBudget) -> None:
        self._most = settings.max_body_mib << 20
        self._seconds = settings.body_seconds
        self._budget = budget

    async def read(self, receive: Receive, announced: int) -> tuple[Body, PartialBody | None]:
        """The body, and its share of the budget, which the caller releases; None if it has none.

        Args:
            announced: the Content-Length; 0 if there is none. A larger one is refused at once.

        Raises:
            BodyTooLarge, BodiesTooLarge: too many bytes, of this body or of all.
            RequestTimeout: it was not complete in time.
            ClientGone: the client left.
        """
        if announced > self._most:
            raise self._too_large()
        began = time.monotonic()
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body: bytes = message.get("body", b"")
        if len(body) > self._most:
            raise self._too_large()
        if not message.get("more_body", False):
            return body, None
        return await self._rest(body, receive, self._seconds - (time.monotonic() - began))

    async def _rest(
        self, first: bytes, receive: Receive, seconds: float
    ) -> tuple[Body, PartialBody]:
        timer = asyncio.timeout(seconds)
        body = self._budget.open(timer)
        try:
            async with timer:
                body.append(first)
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    body.append(message.get("body", b""))
                    if len(body.data) > self._most:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return body.complete(), body
        except BaseException as error:
            body.release()
            if isinstance(error, TimeoutError):
                raise (self._budget.error() if body.refused else self._too_slow()) from None
            raise

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body has more than {self._most:,} bytes",
            fix="Send less at once, or raise server.max_body_mib",
        )

    def _too_slow(self) -> RequestTimeout:
        return RequestTimeout(
            f"the body was not complete after {self._seconds:g} s",
            fix="Send it at once, or raise server.body_seconds",
        )
