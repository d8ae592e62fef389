"""Read and answer ASGI requests without a framework's request and response objects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from starlette.types import Receive, Send

from vivace.errors import BadFilter
from vivace.server.body import Body
from vivace.server.errors import (
    CLOSE,
    BadRequest,
    ClientGone,
    ErrorReply,
    Header,
    response_head,
)
from vivace.store.filters import MAX_BYTES, check_bounds

T = TypeVar("T")
_FILTERS = msgspec.json.Decoder(dict[str, Any] | None)
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 << 20


def decode_json(body: Body, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a request's body.

    Raises:
        BadRequest: the body is not JSON, or not of the decoder's type; names the field.
    """
    return _decode(body, decoder, "the body", "")


def decode_filters(given: msgspec.Raw) -> dict[str, Any] | None:
    """Decode a request's filter, if it is within the bounds of filters.

    Raises:
        BadFilter: it is too large or nested too deeply.
        BadRequest: it is no mapping.
    """
    if len(memoryview(given)) > MAX_BYTES:
        raise BadFilter(
            f"filters: more than {MAX_BYTES:,} bytes",
            fix="Ask for fewer documents at once, or give them a metadata key in common",
        )
    filters = _decode(given, _FILTERS, "filters", "filters")
    if filters is not None:
        check_bounds(filters)
    return filters


def _decode(given: Body | msgspec.Raw, decoder: msgspec.json.Decoder[T], name: str, at: str) -> T:
    """Decode what is called `name`, and lies in the body's field `at`."""
    try:
        return decoder.decode(given)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        param = at or path.rstrip("`").lstrip(".") or None
        what = f"{param}: {text}" if param else text
        raise BadRequest(what, fix="See the server's /openapi.json", param=param) from error
    except RecursionError as error:
        raise BadRequest(f"{name} is nested too deeply", fix="Flatten it") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{name} is no JSON: {error}", fix="Send one JSON object") from error


async def send_json(send: Send, body: bytes, status: int = 200, *headers: Header) -> None:
    """Send a whole response."""
    await send(response_head(body, status, *headers))
    await send({"type": "http.response.body", "body": body})


async def send_reply(send: Send, reply: ErrorReply, *headers: Header) -> None:
    """Send an error's whole response."""
    for message in reply.messages(*headers):
        await send(message)


async def refuse_unread(receive: Receive, send: Send, reply: ErrorReply) -> None:
    """Answer, then read on for a moment.

    A connection closed with unread bytes is reset, and the reset may overtake the response.
    """
    head, body = reply.messages(CLOSE)
    await send(head)
    await send({**body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            left = _LINGER_BYTES
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
    await send({"type": "http.response.body", "body": b""})


class CancelOnDisconnect:
    """Cancels its block when the client disconnects, and raises `ClientGone` instead.

    Enter it when the whole body has been read. `beat`, where given, is awaited every `every`
    seconds; when it returns False the client counts as disconnected.

    Raises:
        ClientGone: the client left before the block was done.
    """

    def __init__(
        self,
        receive: Receive,
        *,
        beat: Callable[[], Awaitable[bool]] | None = None,
        every: float | None = None,
    ) -> None:
        self._receive = receive
        self._beat = beat
        self._every = every if beat is not None else None
        self._gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        # as asyncio.timeout does: swallow only the cancellation that this object requested
        if self._gone and self._task.uncancel() <= self._cancelling:
            raise ClientGone from error

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every):
                    message = await self._receive()
            except TimeoutError:
                if self._beat is not None and not await self._beat():
                    break
                continue
            if message["type"] == "http.disconnect":
                break
        self._gone = True
        self._task.cancel()
