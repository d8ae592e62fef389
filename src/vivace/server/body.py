"""A bound on what a client may send, checked before anything is kept."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivace.server import errors
from vivace.server.errors import BodyTooLarge

_LINGER_SECONDS = 2.0


class BodyLimit:
    """ASGI middleware: refuses a body of more than `limit` bytes, announced or not.

    A body announced as too large is refused before a byte of it is read, one that is sent in chunks
    as soon as it has grown too large.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced(scope) > self._limit:
            await self._refuse(receive, send)
            return
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._limit:
                    raise self._error()
            return message

        try:
            await self._app(scope, bounded, send)
        except BodyTooLarge:
            await self._refuse(receive, send)

    def _error(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body has more than {self._limit:,} bytes",
            fix="Send less at once, or raise server.max_body_mib",
        )

    async def _refuse(self, receive: Receive, send: Send) -> None:
        """Answer, then read on for a moment.

        A connection closed on unread bytes is reset, and a reset may overtake the answer.
        """
        answer = errors.reply(self._error())
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(answer.body)),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                left = 2 * self._limit
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        await send({"type": "http.response.body", "body": b""})


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
