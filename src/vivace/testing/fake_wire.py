"""How the fake model server behaves, and its routes: chat, embeddings, models."""

from __future__ import annotations

import asyncio
import base64
import random
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from aiohttp import web

from vivace.testing import grounded
from vivace.testing.faults import Fault
from vivace.types import Message

BLOCK = 16
"""Tokens in a block of the prefix cache."""
MOST_BODY = 64 << 20
_OVERSIZED = "all work and no play " * 3000
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the fake server answers. Times are in milliseconds."""

    mode: str = "grounded"
    """`grounded` answers from the prompt's passages with citations; `scripted` says `text`."""
    text: str = "The fake model has nothing to say."
    model: str = "fake"
    seed: int = 0
    ttft_ms: float = 0.0
    """Time to the first token of a prompt without cached tokens."""
    delay_ms: float = 0.0
    """Time between two tokens."""
    slots: int = 8
    """Requests served at full speed; beyond, times grow with the ratio of requests to slots."""
    slowdown: float = 1.0
    """The exponent of that growth; 0 is none."""
    reports_slots: bool = False
    """Report the slots at /props and /slots, as llama.cpp does."""
    cache_blocks: int = 4096
    """Blocks of 16 tokens in the prefix cache; 0 is no cache."""
    context: int = 0
    """The last so many tokens of a prompt are read, the others dropped silently; 0 reads all."""
    dim: int = 64
    """Dimensions of the embeddings."""
    retry_after: float = 0.05
    """Seconds in the Retry-After header of a 429."""
    faults: tuple[Fault, ...] = ()
    """The first of them that strikes a request is applied."""


@dataclass(frozen=True, slots=True)
class FakeStatistics:
    """What the fake server has counted."""

    requests: int = 0
    running: int = 0
    most_running: int = 0
    completed: int = 0
    cancelled: int = 0
    """Requests whose client left before the answer was complete."""
    faulted: int = 0
    embedded: int = 0
    """Texts embedded."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    connections: int = 0
    """Connections open now."""


@dataclass
class FakeState:
    """State of the fake server, written by its loop's thread only, under the lock `changed`."""

    behaviour: Behaviour
    draw: random.Random
    changed: threading.Condition = field(default_factory=threading.Condition)
    counts: FakeStatistics = field(default_factory=FakeStatistics)
    prompts: list[str] = field(default_factory=list)
    """The last message of each chat request, oldest first; the newest hundred."""

    def count(self, **more: int) -> None:
        with self.changed:
            now = {name: getattr(self.counts, name) + by for name, by in more.items()}
            self.counts = replace(self.counts, **now)
            if self.counts.running > self.counts.most_running:
                self.counts = replace(self.counts, most_running=self.counts.running)
            self.changed.notify_all()


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


class _Chat(msgspec.Struct):
    messages: list[_Message]
    model: str = ""
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class _Embeddings(msgspec.Struct):
    input: str | list[str | int | list[int]]
    model: str = ""
    encoding_format: str = "float"


class _ChatExchange:
    """One chat request: its answer, its token counts, and the fault that strikes it."""

    def __init__(self, request: _Chat, wire: FakeWire, fault: Fault | None) -> None:
        behaviour = wire.state.behaviour
        messages = [Message(m.role, _text(m.content)) for m in request.messages]
        prompt = [token for m in messages for token in [m.role, *grounded.tokens(m.content)]]
        context = behaviour.context
        if fault is not None and fault.kind == "truncated":
            context = context or max(1, len(prompt) // 3)
        if context and len(prompt) > context:
            kept = "".join(prompt[-context:])
            messages, prompt = [Message("user", kept)], prompt[-context:]
        self.fault = fault
        self.prompt_tokens = len(prompt)
        self.cached_tokens = wire.cached(prompt)
        scripted = behaviour.mode == "scripted"
        pieces = grounded.tokens(behaviour.text if scripted else grounded.answer(messages))
        most = request.max_tokens or request.max_completion_tokens or len(pieces)
        self.finish = "stop" if len(pieces) <= most else "length"
        self.pieces = pieces[:most]
        self.include_usage = bool(request.stream_options and request.stream_options.include_usage)
        self.id = f"chatcmpl-{wire.state.draw.getrandbits(64):016x}"
        self.model = request.model or behaviour.model

    def usage(self, completion: int) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def goes_wrong(self, kind: str, *, after: bool) -> bool:
        return self.fault is not None and (self.fault.kind, self.fault.after) == (kind, after)


class FakeWire:
    """The routes of the fake server. `stop` ends stalled responses."""

    def __init__(self, state: FakeState, stop: asyncio.Event) -> None:
        self.state = state
        self._stop = stop
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MOST_BODY)
        application.router.add_post("/v1/chat/completions", self._counted(self._chat))
        application.router.add_post("/v1/embeddings", self._counted(self._embeddings))
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/props", self._slots)
        application.router.add_get("/slots", self._slots)
        return application

    def cached(self, prompt: Sequence[str]) -> int:
        """Tokens of the longest prefix, in whole blocks, of an earlier prompt; stores this one."""
        most = self.state.behaviour.cache_blocks
        if not most:
            return 0
        chain, hits, broken = 0, 0, False
        for at in range(0, len(prompt) - BLOCK + 1, BLOCK):
            chain = hash((chain, tuple(prompt[at : at + BLOCK])))
            broken = broken or chain not in self._blocks
            hits += not broken
            self._blocks[chain] = None
            self._blocks.move_to_end(chain)
        while len(self._blocks) > most:
            self._blocks.popitem(last=False)
        return hits * BLOCK

    # -- counting and faults ----------------------------------------------------------------

    def _counted(
        self, route: Callable[[web.Request, Fault | None], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def run(request: web.Request) -> web.StreamResponse:
            async with self._running():
                fault = self._fault()
                if fault is not None and not fault.after and fault.kind in ("429", "500", "cut"):
                    return await self._refused(request, fault)
                return await route(request, fault)

        return run

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        count = self.state.count
        count(requests=1, running=1)
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            count(running=-1, cancelled=1)
            raise
        except BaseException:
            count(running=-1)
            raise
        count(running=-1, completed=1)

    def _fault(self) -> Fault | None:
        state = self.state
        number = state.counts.requests
        for fault in state.behaviour.faults:
            if fault.strikes(number, state.draw):
                state.count(faulted=1)
                return fault
        return None

    async def _refused(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        await request.read()
        if fault.kind == "cut":
            return _cut(request)
        seconds = self.state.behaviour.retry_after
        headers = {}
        if fault.kind == "429":
            headers = {"Retry-After": f"{seconds:g}", "retry-after-ms": f"{seconds * 1000:g}"}
        return _error(int(fault.kind), "the fake model was told to refuse this", headers)

    async def _stall(self) -> None:
        await self._stop.wait()

    async def _pause(self, milliseconds: float) -> None:
        behaviour = self.state.behaviour
        load = max(1.0, self.state.counts.running / behaviour.slots)
        if milliseconds:
            await asyncio.sleep(milliseconds / 1000 * load**behaviour.slowdown)

    # -- routes -----------------------------------------------------------------------------

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self.state.behaviour.model, "object": "model", "created": 0}
        return _json({"object": "list", "data": [{**model, "owned_by": "vivace"}]})

    async def _slots(self, request: web.Request) -> web.Response:
        behaviour = self.state.behaviour
        if not behaviour.reports_slots:
            return _error(404, "this server reports no slots")
        if request.path == "/props":
            return _json({"total_slots": behaviour.slots, "model_path": behaviour.model})
        return _json([{"id": number} for number in range(behaviour.slots)])

    async def _chat(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        try:
            asked = msgspec.json.decode(await request.read(), type=_Chat)
        except msgspec.DecodeError as error:
            return _error(400, str(error))
        chat = _ChatExchange(asked, self, fault)
        with self.state.changed:
            last = _text(asked.messages[-1].content) if asked.messages else ""
            self.state.prompts = [*self.state.prompts[-99:], last]
        self.state.count(prompt_tokens=chat.prompt_tokens, cached_tokens=chat.cached_tokens)
        fresh = 1 - chat.cached_tokens / max(1, chat.prompt_tokens)
        await self._pause(self.state.behaviour.ttft_ms * fresh)
        if asked.stream:
            return await self._stream(request, chat)
        return await self._whole(request, chat)

    async def _whole(self, request: web.Request, chat: _ChatExchange) -> web.StreamResponse:
        if chat.goes_wrong("slow", after=False):
            await self._stall()
        if chat.goes_wrong("error", after=False):
            return _json({"error": {"message": "the fake model failed", "code": 500}})
        await self._pause(self.state.behaviour.delay_ms * max(0, len(chat.pieces) - 1))
        text = "".join(chat.pieces)
        kind = chat.fault.kind if chat.fault is not None else ""
        if kind == "empty":
            text = ""
        elif kind == "oversized":
            text = _OVERSIZED * 32
        body = _encode(
            {
                "id": chat.id,
                "object": "chat.completion",
                "created": int(time.time()),
                "model": chat.model,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": chat.finish,
                    }
                ],
                "usage": chat.usage(len(chat.pieces)),
            }
        )
        self.state.count(completion_tokens=len(chat.pieces))
        if kind in ("malformed", "error"):
            body = b"{nonsense" if not chat.fault or not chat.fault.after else body[:-9] + b"{]"
        if kind in ("cut", "slow", "429", "500") and chat.fault and chat.fault.after:
            response = web.StreamResponse(headers={"Content-Length": str(len(body))})
            response.content_type = "application/json"
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            if kind == "slow":
                await self._stall()
            return _cut(request)
        return web.Response(body=body, content_type="application/json")

    async def _stream(self, request: web.Request, chat: _ChatExchange) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "text/event-stream"
        head = (
            f'data: {{"id":"{chat.id}","object":"chat.completion.chunk",'
            f'"created":{int(time.time())},"model":{_encode(chat.model).decode()},'
        ).encode()
        delay = self.state.behaviour.delay_ms
        await response.prepare(request)
        if await self._wrong(request, response, chat, after=False):
            return response
        empty = chat.goes_wrong("empty", after=False) or chat.goes_wrong("empty", after=True)
        pieces = [] if empty else chat.pieces
        role = b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},'
        first = head + role + b'"finish_reason":null}]}\n\n'
        token = head + b'"choices":[{"index":0,"delta":{"content":'
        for number, piece in enumerate(pieces):
            if number and delay:
                await self._pause(delay)
            # one write a token: the role travels with the first
            await response.write(first + token + _encode(piece) + b'},"finish_reason":null}]}\n\n')
            first = b""
            if not number and await self._wrong(request, response, chat, after=True):
                return response
        self.state.count(completion_tokens=len(pieces))
        end = head + b'"choices":[{"index":0,"delta":{},"finish_reason":"%b"}]}\n\n' % (
            chat.finish.encode()
        )
        if chat.include_usage:
            end += head + b'"choices":[],"usage":' + _encode(chat.usage(len(pieces))) + b"}\n\n"
        await response.write(first + end + b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _wrong(
        self,
        request: web.Request,
        response: web.StreamResponse,
        chat: _ChatExchange,
        *,
        after: bool,
    ) -> bool:
        """Apply the stream's fault if it strikes here; whether the answer ends with it."""
        fault = chat.fault
        if fault is None or fault.after is not after:
            return False
        if fault.kind == "slow":
            await self._stall()
        elif fault.kind in ("cut", "429", "500"):
            _cut(request)
        elif fault.kind == "malformed":
            await response.write(b"data: {nonsense\n\n")
        elif fault.kind == "error":
            failure = {"error": {"message": "the fake model failed", "type": "server_error"}}
            await response.write(b"data: " + _encode(failure) + b"\n\n")
        elif fault.kind == "oversized":
            piece = {"choices": [{"index": 0, "delta": {"content": _OVERSIZED}}]}
            while True:  # until the client closes the connection
                await response.write(b"data: " + _encode(piece) + b"\n\n")
        else:
            return False
        if request.transport is not None and not request.transport.is_closing():
            await response.write_eof()
        return True

    async def _embeddings(self, request: web.Request, fault: Fault | None) -> web.StreamResponse:
        try:
            asked = msgspec.json.decode(await request.read(), type=_Embeddings)
        except msgspec.DecodeError as error:
            return _error(400, str(error))
        texts = _texts(asked.input)
        if not texts or not all(texts):
            return _error(400, "the input is empty")
        kind = fault.kind if fault is not None else ""
        if kind == "slow":
            await self._stall()
        if kind == "malformed":
            return web.Response(body=b"{nonsense", content_type="application/json")
        if kind == "empty":
            texts = []
        await self._pause(self.state.behaviour.ttft_ms)
        rows = grounded.vectors(texts, self.state.behaviour.dim, self.state.behaviour.seed)
        self.state.count(embedded=len(texts))
        coded = asked.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": at,
                "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()
                if coded
                else row.tolist(),
            }
            for at, row in enumerate(rows)
        ]
        count = sum(len(grounded.tokens(text)) for text in texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return _json({"object": "list", "model": asked.model, "data": data, "usage": usage})


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content or ""


def _texts(given: str | list[str | int | list[int]]) -> list[str]:
    """The texts; token ids become words of their numbers."""
    if isinstance(given, str):
        return [given]
    if all(isinstance(one, int) for one in given):
        return [" ".join(map(str, given))] if given else []
    return [" ".join(map(str, one)) if isinstance(one, list) else str(one) for one in given]


def _cut(request: web.Request) -> web.StreamResponse:
    """Close the connection without a word."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _json(value: object) -> web.Response:
    return web.Response(body=_encode(value), content_type="application/json")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    kind = "rate_limit_error" if status == 429 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return web.Response(
        status=status, body=_encode(body), content_type="application/json", headers=headers
    )
