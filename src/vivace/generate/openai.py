"""A `Generator` over the OpenAI wire: any server that speaks `POST /chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import aiohttp

from vivace.errors import (
    GenerationError,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
    StreamCut,
    StreamEmpty,
    StreamMalformed,
    StreamStalled,
    StreamTooLong,
)
from vivace.generate.capacity_probe import CapacityProbe
from vivace.generate.stream import EventDecoder, StreamAccumulator
from vivace.generate.wire import AdaptedRequest
from vivace.run.balance import Lease
from vivace.run.breaker import Tolerance
from vivace.run.endpoints import EndpointsStatistics
from vivace.run.http_stream import OpenStream, StreamClient
from vivace.run.model_servers import ModelServer
from vivace.run.retry import FailureKind, RequestFailure, blame
from vivace.settings import Generate
from vivace.types import Delta, Message

MAX_BODY: Final = 16 << 20
"""Bytes of an answer in one piece; of a stream, four times that."""
_OWN_TEMPERATURE: Final = "the model server takes no temperature, so its own was used"
_WEB_PAGES: Final = ("text/html", "application/xhtml+xml")
_REFUSAL_FIXES: Final = {
    401: "Set generate.api_key",
    403: "Set generate.api_key to one that may use this model",
    404: "Check the model's name and that the URL in generate.model ends in /v1",
    429: "Wait, or raise the server's limits",
}


class OpenAI:
    """One model of one or several servers. Used on one event loop; it connects when first asked.

    `streaming=False` asks for whole answers, for servers that cannot stream: an answer is then one
    delta. Everything before the first token may be tried again, on another server where there is
    one; nothing after it. `endpoints` is the set of servers, each with a limit that is learned from
    its tokens, or that the server names. Requests wait in its queue; the clocks of one that is part
    of a batch (`run.work`) begin when a server has a place for it.
    """

    def __init__(
        self,
        servers: ModelServer | Sequence[ModelServer],
        settings: Generate,
        *,
        streaming: bool = True,
        tolerance: Tolerance | None = None,
    ) -> None:
        servers = [servers] if isinstance(servers, ModelServer) else servers
        self._model = servers[0].model
        self.name = f"openai:{self._model}"
        self._settings = settings
        self._streaming = streaming
        self._client = StreamClient(
            self.name, servers, "chat/completions", settings, tolerance=tolerance
        )
        self.endpoints = self._client.endpoints
        self._probe = CapacityProbe(self._client.session, self.endpoints.set_capacity)
        self._omitted: dict[str, set[str]] = {}
        """Of `wire.ADAPTABLE`, what a server has refused before."""

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        """The completion in pieces; the last carries the finish reason and the usage, if known.

        Closing the iterator, or cancelling its task, closes the connection at once.

        Raises:
            ModelUnreachable, ModelRefused, ModelTimeout: nothing came; after all tries.
            StreamStalled, StreamCut, StreamMalformed, StreamEmpty, StreamTooLong: what came is no
                whole answer; `text` holds it.
        """
        request = AdaptedRequest(self._body(messages, max_tokens, temperature), self._omitted)

        def body(lease: Lease) -> bytes:
            self._probe.beside(lease)
            return request.encoded(lease.server)

        try:
            stream = await self._client.open(body, request.adapt)
        except RequestFailure as failure:
            raise self._error(failure) from failure
        taken_out = self._omitted.get(stream.lease.server, ())
        own = (_OWN_TEMPERATURE,) if "temperature" in taken_out else ()
        answer = StreamAccumulator(max_tokens, secret=self._settings.api_key, degraded=own)
        try:
            if not self._streaming or stream.content_type == "application/json":
                pieces = answer.whole(await self._whole(stream))
                stream.lease.count_tokens(1)
                for piece in pieces:
                    yield piece
                return
            _check_content_type(stream)
            events = EventDecoder()
            read, count_tokens = stream.read, stream.lease.count_tokens
            data, size = stream.data, 0
            while True:
                size += len(data)
                if size > 4 * MAX_BODY:
                    raise answer.too_long(f"{size >> 20} MiB")
                moved = 0
                for event in events.feed(data) if data else events.end():
                    delta = answer.event(event)
                    if answer.moved:
                        moved += 1
                        if not answer.running:
                            answer.running = True
                            stream.started()
                    if delta is not None:
                        stream.reading = False
                        yield delta
                        stream.reading = True
                if moved:
                    stream.progress()
                    count_tokens(moved)
                if answer.done or not data:
                    break
                data = await read()
            yield answer.last()
            await stream.drain()
        except (aiohttp.ClientError, OSError) as error:
            raise self._error(stream.interrupted(error), answer.text()) from error
        except GenerationError as error:
            _blame(stream.lease, error)
            error.text = error.text or answer.text()
            raise
        finally:
            stream.close()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        self.endpoints.close()
        await self._probe.close()
        await self._client.close()

    def server_statistics(self) -> EndpointsStatistics:
        """Of the servers and the connections to them."""
        return self._client.server_statistics()

    def _body(
        self, messages: Sequence[Message], max_tokens: int, temperature: float
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if self._streaming:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    async def _whole(self, stream: OpenStream) -> bytes:
        try:
            return await stream.whole(MAX_BODY)
        except RequestFailure as failure:
            raise StreamTooLong(
                f"the model server's {failure.what.removeprefix('the ')}",
                fix="Check that generate.model names a chat model's server",
            ) from failure

    def _error(self, failure: RequestFailure, text: str = "") -> GenerationError:
        """The failure in the terms of `vivace.errors`, with the text that had come."""
        server = failure.server or self.name
        match failure.kind:
            case FailureKind.UNREACHABLE:
                return ModelUnreachable(
                    f"the model server {server} {failure.what}",
                    fix="Start it, or correct generate.model",
                )
            case FailureKind.EJECTED:
                return ModelUnreachable(failure.of(self.name), fix=failure.fix)
            case FailureKind.CLOSED:
                return ModelUnreachable(failure.what, fix="Open a new engine")
            case FailureKind.REFUSED:
                return ModelRefused(
                    f"{server} answered with {failure.what}",
                    status=failure.status,
                    retry_after=failure.retry_after,
                    fix=_REFUSAL_FIXES.get(failure.status, "See the model server's log"),
                )
            case FailureKind.EMPTY:
                return StreamEmpty(f"{server} {failure.what}", fix="See the model server's log")
            case FailureKind.STALLED:
                fix = "Raise generate.between_seconds, or see the model server's log"
                return StreamStalled(f"{server}: {failure.what}", fix=fix, text=text)
            case FailureKind.LATE | FailureKind.TOTAL:
                late = failure.kind is FailureKind.LATE
                name = "first_token_seconds" if late else "total_seconds"
                fix = f"Raise generate.{name}, or use a faster model"
                return ModelTimeout(f"{server}: {failure.what}", fix=fix, text=text)
        return StreamCut(
            f"{server}: {failure.what}", fix="Ask again; see the model server's log", text=text
        )


def _blame(lease: Lease, error: GenerationError) -> None:
    """Record what an answer that had begun says of its server: nothing where it has no text or too
    much, for which the request may ask."""
    if isinstance(error, ModelRefused):
        blame(lease, error.what, status=error.status, retry_after=error.retry_after)
    elif isinstance(error, StreamCut | StreamMalformed):
        blame(lease, error.what)


def _check_content_type(stream: OpenStream) -> None:
    if stream.content_type in _WEB_PAGES:
        raise StreamMalformed(
            f"{stream.lease.server} answered with a web page",
            fix="Check that the URL in generate.model ends in /v1",
        )
