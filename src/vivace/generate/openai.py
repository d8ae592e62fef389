"""A `Generator` over the OpenAI wire: any server that speaks `POST /chat/completions`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from math import inf
from typing import Any, Final, TypeAlias

import aiohttp

from vivace.errors import (
    Closed,
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
from vivace.generate import wire
from vivace.generate.attempts import blame, pause
from vivace.generate.capacity_probe import CapacityProbe
from vivace.generate.stream import EventDecoder, StreamAccumulator, cut
from vivace.generate.watch import StreamClock
from vivace.run import work
from vivace.run.balance import Endpoint
from vivace.run.connections import with_idle
from vivace.run.endpoints import AllEjected, Endpoints, EndpointsStatistics, Lease
from vivace.run.learned import of_streams
from vivace.run.model_servers import ModelServer
from vivace.run.retry import retry_after
from vivace.settings import Generate
from vivace.types import Delta, Message

MAX_BODY: Final = 16 << 20
"""Bytes of an answer in one piece; of a stream, four times that."""
_MAX_ERROR: Final = 64 << 10
_LINGER: Final = 0.25
"""Seconds that a finished stream is given to end, so that its connection can be used again."""
_OWN_TEMPERATURE: Final = "the model server takes no temperature, so its own was used"


_Begun: TypeAlias = tuple[aiohttp.ClientResponse, StreamClock, bytes, Lease]
"""A response with status 200, the watch over it, the first bytes of its body, its place."""


class OpenAI:
    """One model of one or several servers. Used on one event loop; it connects when first asked.

    `streaming=False` asks for whole answers, for servers that cannot stream: an answer is then one
    delta. Everything before the first token may be tried again, on another server where there is
    one; nothing after it. `endpoints` is the set of servers, each with a limit that is learned from
    its tokens, or that it tells. Requests wait in its queue; the clocks of one that is part of a
    batch (`run.work`) begin when it has a place.
    """

    def __init__(
        self,
        endpoint: ModelServer | Sequence[ModelServer],
        settings: Generate,
        *,
        streaming: bool = True,
        draw: random.Random | None = None,
    ) -> None:
        several = [endpoint] if isinstance(endpoint, ModelServer) else endpoint
        self._model = several[0].model
        self.name = f"openai:{self._model}"
        self._settings = settings
        self._streaming = streaming
        self._draw = draw or random.Random()
        servers = [Endpoint(one.url, one.weight, settings.connections) for one in several]
        self.endpoints = Endpoints(self.name, servers, learned=of_streams, draw=self._draw)
        self._probe = CapacityProbe(
            self._open, lambda url, slots: self.endpoints.set_capacity(url, slots)
        )
        self._omitted: dict[str, set[str]] = {}
        """Of `body.ADAPTABLE`, what a server has refused before."""
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        """The completion in pieces; the last carries the finish reason and, if told, the usage.

        Closing the iterator, or cancelling its task, closes the connection at once.

        Raises:
            ModelUnreachable, ModelRefused, ModelTimeout: nothing came; after all tries.
            StreamStalled, StreamCut, StreamMalformed, StreamEmpty, StreamTooLong: what came is no
                whole answer; `text` holds it.
        """
        body = self._body(messages, max_tokens, temperature)
        response, watch, data, lease = await self._response(body)
        taken_out = self._omitted.get(lease.server, ())
        own = (_OWN_TEMPERATURE,) if "temperature" in taken_out else ()
        answer = StreamAccumulator(max_tokens, secret=self._settings.api_key, degraded=own)
        try:
            if not self._streaming or response.content_type == "application/json":
                pieces = answer.whole(await _read(response, data, watch))
                lease.count_tokens(1)
                for piece in pieces:
                    yield piece
                return
            _check_content_type(response)
            events = EventDecoder()
            read = response.content.readany
            size = 0
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
                            watch.started()
                    if delta is not None:
                        watch.reading = False
                        yield delta
                        watch.reading = True
                if moved:
                    watch.progress()
                    lease.count_tokens(moved)
                if answer.done or not data:
                    break
                data = await read()
            yield answer.last()
            await self._drain(response)
        except (aiohttp.ClientError, OSError) as error:
            failure = self._interrupted(lease.server, watch, answer, error)
            blame(lease, failure)
            raise failure from error
        except GenerationError as error:
            blame(lease, error)
            error.text = error.text or answer.text()
            raise
        finally:
            watch.cancel()
            response.close()
            lease.end()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        self._closed = True
        self.endpoints.close()
        await self._probe.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def statistics(self) -> EndpointsStatistics:
        """Of the servers and the connections to them."""
        return with_idle(self.endpoints.statistics(), self._session)

    # -- before the first byte --------------------------------------------------------------

    async def _response(self, body: dict[str, Any]) -> _Begun:
        loop = asyncio.get_running_loop()
        total = loop.time() + self._settings.total_seconds
        patient = work.current().priority > work.Priority.INTERACTIVE
        tries = 0
        tried: set[str] = set()
        adapted: set[tuple[str, str]] = set()
        failure: GenerationError | None = None
        while True:
            first = loop.time() + self._settings.first_token_seconds
            came = loop.time()
            lease = await self._lease(tried, inf if patient else first, total, failure)
            if patient:
                waited = loop.time() - came
                first, total = first + waited, total + waited
            self._probe.beside(lease)
            try:
                sent = self._fitted(lease.server, body)
                response, watch, data = await self._try(lease.server, sent, first, total)
                lease.alive()
                return response, watch, data, lease
            except GenerationError as error:
                failure = error
                tried.add(lease.server)
                blame(lease, error)
                lease.end()
                if isinstance(error, ModelRefused) and self._adapt(
                    lease.server, error, sent, adapted
                ):
                    tried.discard(lease.server)
                    continue
                elsewhere = self.endpoints.another(tried)
                tries += 1
                wait = pause(error, tries, elsewhere=elsewhere, draw=self._draw)
                if wait is None or tries > self._settings.retries or loop.time() + wait >= total:
                    raise
            except BaseException:
                lease.end()
                raise
            await asyncio.sleep(wait)

    async def _lease(
        self, tried: set[str], first: float, total: float, failure: GenerationError | None
    ) -> Lease:
        """A place at a server; where none can be asked, the failure of the last try stands."""
        try:
            async with asyncio.timeout_at(min(first, total) if first < inf else None):
                return await self.endpoints.lease(avoid=tried)
        except AllEjected as error:
            if failure is None:
                raise ModelUnreachable(error.what, fix=error.fix) from error
        except Closed as error:
            raise ModelUnreachable(f"{self.name} is closed", fix="Open a new engine") from error
        except TimeoutError as error:
            raise self._late(self.name, total <= first) from error
        raise failure

    async def _try(
        self, server: str, body: bytes, first: float, total: float
    ) -> tuple[aiohttp.ClientResponse, StreamClock, bytes]:
        loop = asyncio.get_running_loop()
        session = self._open()
        url = f"{server}/chat/completions"
        try:
            async with asyncio.timeout_at(min(first, total)):
                response = await session.post(url, data=body, allow_redirects=False)
        except aiohttp.ConnectionTimeoutError as error:
            seconds = self._settings.connect_seconds
            raise self._unreachable(server, f"no connection within {seconds:g} s") from error
        except TimeoutError as error:
            raise self._late(server, loop.time() >= total) from error
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(server, str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._hung_up(server, error) from error
        watch = StreamClock(
            response.close, first=first, between=self._settings.between_seconds, total=total
        )
        try:
            if response.status != 200:
                raise await self._refusal(server, response)
            # until its first byte the server may fail, and be asked again
            data = await response.content.readany()
            if not data:
                raise StreamEmpty(f"{url} answered nothing", fix="See the model server's log")
            return response, watch, data
        except BaseException as error:
            watch.cancel()
            response.close()
            if not isinstance(error, aiohttp.ClientError | OSError):
                raise
            if watch.expired:
                raise self._late(server, watch.expired == "total") from error
            raise self._hung_up(server, error) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ModelUnreachable(f"{self.name} is closed", fix="Open a new engine")
        if self._session is None:
            headers = {"Content-Type": "application/json", "User-Agent": "vivace"}
            # a compressed stream comes in blocks, not in tokens
            headers["Accept-Encoding"] = "identity"
            if self._settings.api_key:
                headers["Authorization"] = f"Bearer {self._settings.api_key}"
            # the set of servers bounds the connections; of the timeouts only that of connecting is
            # here, the watch keeps the others
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._settings.connect_seconds
                ),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

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

    def _fitted(self, server: str, body: dict[str, Any]) -> bytes:
        """The request without the parameters that this server has refused before."""
        omitted = self._omitted.get(server)
        if omitted:
            body = body.copy()
            for name in omitted:
                wire.omit(body, name)
        return wire.encode(body)

    def _adapt(
        self, server: str, error: ModelRefused, sent: bytes, adapted: set[tuple[str, str]]
    ) -> bool:
        """Whether the server refused a parameter that it can do without: it is left out from now.

        Not where that did not help: then the request was wrong, not the parameter. `adapted` is
        what was left out for this request, by server.
        """
        omitted = self._omitted.setdefault(server, set())
        name = wire.not_known(error, sent)
        if name is None:
            omitted -= {name for at, name in adapted if at == server}
            return False
        omitted.add(name)
        adapted.add((server, name))
        return True

    # -- what went wrong --------------------------------------------------------------------

    async def _refusal(self, server: str, response: aiohttp.ClientResponse) -> ModelRefused:
        try:
            data = await response.content.read(_MAX_ERROR)
            said = wire.message_of_body(data, self._settings.api_key)
        except (aiohttp.ClientError, OSError):
            said = ""  # the status says enough
        fixes = {
            401: "Set generate.api_key",
            403: "Set generate.api_key to one that may use this model",
            404: "Check the model's name and that the URL in generate.model ends in /v1",
            429: "Wait, or raise the server's limits",
        }
        return ModelRefused(
            f"{server} answered {response.status}: {said}".rstrip(": "),
            status=response.status,
            retry_after=retry_after(response.headers),
            fix=fixes.get(response.status, "See the model server's log"),
        )

    def _unreachable(self, server: str, why: str) -> ModelUnreachable:
        return ModelUnreachable(
            f"the model server {server} cannot be reached: {why}",
            fix="Start it, or correct generate.model",
        )

    def _hung_up(self, server: str, error: Exception) -> StreamCut:
        why = wire.redacted(str(error), self._settings.api_key) or type(error).__name__
        return cut(f"{server} hung up before the first byte: {why}", "")

    def _late(self, server: str, whole: bool, text: str = "") -> ModelTimeout:
        if whole:
            what, name = "whole answer", "total_seconds"
        else:
            what, name = "first token", "first_token_seconds"
        seconds = getattr(self._settings, name)
        return ModelTimeout(
            f"{server}: no {what} within {seconds:g} s",
            fix=f"Raise generate.{name}, or use a faster model",
            text=text,
        )

    def _interrupted(
        self, server: str, watch: StreamClock, answer: StreamAccumulator, error: Exception
    ) -> GenerationError:
        """Why reading failed: a clock of ours, or the connection."""
        text = answer.text()
        if watch.expired in ("first", "total"):
            return self._late(server, watch.expired == "total", text)
        if watch.expired == "between":
            return StreamStalled(
                f"{server}: no token for {self._settings.between_seconds:g} s",
                fix="Raise generate.between_seconds, or see the model server's log",
                text=text,
            )
        why = wire.redacted(str(error), self._settings.api_key) or type(error).__name__
        return cut(f"{server}: {why}", text)

    async def _drain(self, response: aiohttp.ClientResponse) -> None:
        """Read the end of a stream that has said all, or leave its connection to be closed."""
        if response.content.at_eof():
            return
        try:
            async with asyncio.timeout(_LINGER):
                while await response.content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError, OSError):
            return


async def _read(response: aiohttp.ClientResponse, data: bytes, watch: StreamClock) -> bytes:
    """The whole body, which begins with `data`.

    Raises:
        StreamTooLong: it has more than `MAX_BODY` bytes.
    """
    parts, size = [], 0
    watch.started()
    while data:
        parts.append(data)
        size += len(data)
        if size > MAX_BODY:
            raise StreamTooLong(
                f"the model server's answer has more than {MAX_BODY >> 20} MiB",
                fix="Check that generate.model names a chat model's server",
            )
        data = await response.content.readany()
        watch.progress()
    return b"".join(parts)


def _check_content_type(response: aiohttp.ClientResponse) -> None:
    if response.content_type in ("text/html", "application/xhtml+xml"):
        raise StreamMalformed(
            f"{response.url} answered with a web page",
            fix="Check that the URL in generate.model ends in /v1",
        )
