"""A `Generator` over the OpenAI wire: any server that speaks `POST /chat/completions`."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, TypeAlias

import aiohttp
import msgspec

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
from vivace.generate import wire
from vivace.generate.arriving import Arriving, cut
from vivace.generate.sse import Events
from vivace.generate.watch import Watch
from vivace.run.endpoint import Endpoint
from vivace.run.retry import STATUSES, backoff, retry_after
from vivace.settings import Generate
from vivace.types import Delta, Message

MAX_BODY: Final = 16 << 20
"""Bytes of an answer in one piece; of a stream, four times that."""
_MAX_ERROR: Final = 64 << 10
_LINGER: Final = 0.25
"""Seconds that a finished stream is given to end, so that its connection can be used again."""
_ADAPTABLE: Final = {
    "stream_options": "stream_options",
    "temperature": "temperature",
    "max_tokens": "max_completion_tokens",
}
"""Parameters that some servers refuse, and what their refusal names."""
_NOT_KNOWN: Final = re.compile(
    r"unsupported|not? support(?:ed)?\b|unknown|unrecogni[sz]ed|unexpected|extra (?:input|field)"
    r"|not (?:permitted|allowed)|only (?:the default|1(?:\.0)? is)",
    re.IGNORECASE,
)
"""How servers say that they do not take a parameter, and not that its value is a wrong one."""
_OWN_TEMPERATURE: Final = "the model server takes no temperature, so its own was used"


_Begun: TypeAlias = tuple[aiohttp.ClientResponse, Watch, bytes]
"""A response with status 200, the watch over it, and the first bytes of its body."""


class OpenAI:
    """One model of one server. A client is used on one event loop; it connects when first asked.

    `streaming=False` asks for whole answers, for servers that cannot stream: an answer is then one
    delta. Everything before the first token may be tried again, nothing after it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Generate,
        *,
        streaming: bool = True,
        draw: random.Random | None = None,
    ) -> None:
        self.name = f"openai:{endpoint.model}"
        self._endpoint = endpoint
        self._settings = settings
        self._streaming = streaming
        self._draw = draw or random.Random()
        self._omitted: set[str] = set()
        """Of `_ADAPTABLE`, what the server has refused before."""
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
        loop = asyncio.get_running_loop()
        total = loop.time() + self._settings.total_seconds
        body = self._body(messages, max_tokens, temperature)
        response, watch, data = await self._response(body, total)
        own = (_OWN_TEMPERATURE,) if "temperature" in self._omitted else ()
        answer = Arriving(max_tokens, secret=self._settings.api_key, degraded=own)
        try:
            if not self._streaming or response.content_type == "application/json":
                for piece in answer.whole(await _read(response, data, watch)):
                    yield piece
                return
            _check_content_type(response)
            events = Events()
            read = response.content.readany
            size = 0
            while True:
                size += len(data)
                if size > 4 * MAX_BODY:
                    raise answer.too_long(f"{size >> 20} MiB")
                moved = False
                for event in events.feed(data) if data else events.end():
                    delta = answer.event(event)
                    if answer.moved and not moved:
                        moved = True
                        if not answer.running:
                            answer.running = True
                            watch.started()
                    if delta is not None:
                        watch.reading = False
                        yield delta
                        watch.reading = True
                if moved:
                    watch.progress()
                if answer.done or not data:
                    break
                data = await read()
            yield answer.last()
            await self._drain(response)
        except (aiohttp.ClientError, OSError) as error:
            raise self._interrupted(watch, answer, error) from error
        except GenerationError as error:
            error.text = error.text or answer.text()
            raise
        finally:
            watch.cancel()
            response.close()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    # -- before the first byte --------------------------------------------------------------

    async def _response(self, body: bytes, total: float) -> _Begun:
        loop = asyncio.get_running_loop()
        tries = 0
        omitted: set[str] = set()
        while True:
            try:
                begun = await self._try(body, total)
                # remembered where it helped: else the value was wrong, not the parameter
                self._omitted |= omitted
                return begun
            except (ModelUnreachable, ModelRefused, StreamCut) as error:
                if isinstance(error, ModelRefused):
                    if (adapted := self._adapted(error, body, omitted)) is not None:
                        body = adapted
                        continue
                    if error.status not in STATUSES:
                        raise
                tries += 1
                told = error.retry_after if isinstance(error, ModelRefused) else None
                wait = backoff(tries, told, self._draw)
                if tries == 1 and isinstance(error.__cause__, aiohttp.ServerDisconnectedError):
                    wait = 0.0  # most likely a kept connection that the server had closed
                if tries > self._settings.retries or loop.time() + wait >= total:
                    raise
            await asyncio.sleep(wait)

    async def _try(self, body: bytes, total: float) -> _Begun:
        loop = asyncio.get_running_loop()
        first = loop.time() + self._settings.first_token_seconds
        session = self._open()
        url = f"{self._endpoint.url}/chat/completions"
        try:
            async with asyncio.timeout_at(min(first, total)):
                response = await session.post(url, data=body, allow_redirects=False)
        except aiohttp.ConnectionTimeoutError as error:
            seconds = self._settings.connect_seconds
            raise self._unreachable(f"no connection within {seconds:g} s") from error
        except TimeoutError as error:
            raise self._late(loop.time() >= total) from error
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._hung_up(error) from error
        watch = Watch(
            response.close, first=first, between=self._settings.between_seconds, total=total
        )
        try:
            if response.status != 200:
                raise await self._refusal(response)
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
                raise self._late(watch.expired == "total") from error
            raise self._hung_up(error) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ModelUnreachable(f"{self.name} is closed", fix="Open a new engine")
        if self._session is None:
            headers = {"Content-Type": "application/json", "User-Agent": "vivace"}
            # a compressed stream comes in blocks, not in tokens
            headers["Accept-Encoding"] = "identity"
            if self._settings.api_key:
                headers["Authorization"] = f"Bearer {self._settings.api_key}"
            # connecting has a timeout of its own; the watch keeps the others
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._settings.connections),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._settings.connect_seconds
                ),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _body(self, messages: Sequence[Message], max_tokens: int, temperature: float) -> bytes:
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if self._streaming:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        for name in self._omitted:
            _omit(body, name)
        return _encode(body)

    def _adapted(self, error: ModelRefused, body: bytes, omitted: set[str]) -> bytes | None:
        """The request without the parameter that the server has just refused, if it was one."""
        if error.status not in (400, 422) or not _NOT_KNOWN.search(error.what):
            return None
        sent: dict[str, Any] = msgspec.json.decode(body)
        for refused in _ADAPTABLE:
            if refused in sent and _ADAPTABLE[refused] in error.what:
                break
        else:
            return None
        omitted.add(refused)
        _omit(sent, refused)
        return _encode(sent)

    # -- what went wrong --------------------------------------------------------------------

    async def _refusal(self, response: aiohttp.ClientResponse) -> ModelRefused:
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
            f"{self._endpoint.url} answered {response.status}: {said}".rstrip(": "),
            status=response.status,
            retry_after=retry_after(response.headers),
            fix=fixes.get(response.status, "See the model server's log"),
        )

    def _unreachable(self, why: str) -> ModelUnreachable:
        return ModelUnreachable(
            f"the model server {self._endpoint.url} cannot be reached: {why}",
            fix="Start it, or correct generate.model",
        )

    def _hung_up(self, error: Exception) -> StreamCut:
        why = wire.redacted(str(error), self._settings.api_key) or type(error).__name__
        return cut(f"{self._endpoint.url} hung up before the first byte: {why}", "")

    def _late(self, whole: bool, text: str = "") -> ModelTimeout:
        if whole:
            what, name = "whole answer", "total_seconds"
        else:
            what, name = "first token", "first_token_seconds"
        seconds = getattr(self._settings, name)
        return ModelTimeout(
            f"{self._endpoint.url}: no {what} within {seconds:g} s",
            fix=f"Raise generate.{name}, or use a faster model",
            text=text,
        )

    def _interrupted(self, watch: Watch, answer: Arriving, error: Exception) -> GenerationError:
        """Why reading failed: a clock of ours, or the connection."""
        text = answer.text()
        if watch.expired in ("first", "total"):
            return self._late(watch.expired == "total", text)
        if watch.expired == "between":
            return StreamStalled(
                f"{self._endpoint.url}: no token for {self._settings.between_seconds:g} s",
                fix="Raise generate.between_seconds, or see the model server's log",
                text=text,
            )
        why = wire.redacted(str(error), self._settings.api_key) or type(error).__name__
        return cut(f"{self._endpoint.url}: {why}", text)

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


async def _read(response: aiohttp.ClientResponse, data: bytes, watch: Watch) -> bytes:
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


def _omit(body: dict[str, Any], name: str) -> None:
    value = body.pop(name, None)
    if name == "max_tokens" and value is not None:
        body["max_completion_tokens"] = value


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:  # a lone surrogate, which is no text that JSON can carry
        for message in body["messages"]:
            message["content"] = message["content"].encode("utf-8", "replace").decode()
        return msgspec.json.encode(body)
