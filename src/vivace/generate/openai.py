"""A `Generator` over the OpenAI wire: any server that speaks `POST /chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import aiohttp

from vivace.errors import Closed, GenerationError, ModelUnreachable, StreamMalformed
from vivace.generate.capacity_probe import CapacityProbe
from vivace.generate.stream import EventDecoder, StreamAccumulator
from vivace.generate.wire import AdaptedRequest
from vivace.run.balance import Lease
from vivace.run.breaker import Tolerance
from vivace.run.endpoints import AllEjected, EndpointsStatistics
from vivace.run.http_stream import OpenStream, StreamClient
from vivace.run.model_servers import ModelServer
from vivace.run.retry import blame
from vivace.settings import Generate
from vivace.types import Delta, Message

MAX_BODY: Final = 16 << 20
"""Bytes of an answer in one piece; of a stream, four times that."""
_OWN_TEMPERATURE: Final = "the model server takes no temperature, so its own was used"
_WEB_PAGES: Final = ("text/html", "application/xhtml+xml")


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
        self._probe = CapacityProbe(self._client.session, self.endpoints.balance.set_capacity)
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
        except (AllEjected, Closed) as error:
            raise ModelUnreachable(error.what, fix=error.fix) from error
        taken_out = self._omitted.get(stream.lease.server, ())
        own = (_OWN_TEMPERATURE,) if "temperature" in taken_out else ()
        answer = StreamAccumulator(max_tokens, secret=self._settings.api_key, degraded=own)
        try:
            if not self._streaming or stream.content_type == "application/json":
                pieces = answer.whole(await stream.whole(MAX_BODY))
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
            failure = stream.interrupted(error, answer.text())
            blame(stream.lease, failure)
            raise failure from error
        except GenerationError as error:
            blame(stream.lease, error)
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


def _check_content_type(stream: OpenStream) -> None:
    if stream.content_type in _WEB_PAGES:
        raise StreamMalformed(
            f"{stream.lease.server} answered with a web page",
            fix="Check that the URL in generate.model ends in /v1",
        )
