"""Read and answer ASGI requests without a framework's request and response objects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import msgspec
from starlette.types import Receive, Send

from vivace.server.errors import BadRequest, ClientGone, Header, response_head

T = TypeVar("T")


async def read_json(receive: Receive, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode the request's body. `middleware.BodyLimit` has bounded its size.

    Raises:
        BadRequest: the body is not JSON, or not of the decoder's type; names the field.
        ClientGone: the client left before it had sent the whole body.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or None
        what = f"{param}: {text}" if param else text
        raise BadRequest(what, fix="See the server's /openapi.json", param=param) from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply", fix="Flatten it") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is no JSON: {error}", fix="Send one JSON object") from error


async def send_json(send: Send, body: bytes, status: int = 200, *headers: Header) -> None:
    """Send a whole response."""
    await send(response_head(body, status, *headers))
    await send({"type": "http.response.body", "body": body})


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
