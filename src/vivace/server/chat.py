"""POST /v1/chat/completions: cited answers, whole or as they are written."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable
from uuid import uuid4

import msgspec
from starlette.types import Receive, Scope, Send

from vivace.engine import Collection
from vivace.errors import VivaceError
from vivace.run.streams import closing
from vivace.server import errors
from vivace.server.asgi import read, send_json
from vivace.server.disconnect import Attended
from vivace.server.door import PLAIN_SEND
from vivace.server.events import DONE, EventStream, TextFrame, event
from vivace.server.passages import annotate, sources, supported
from vivace.server.served import Served
from vivace.server.turns import Asked, asked
from vivace.server.wire import (
    AnswerMessage,
    ChatRequest,
    ChatResponse,
    ChatUsage,
    Choice,
    FinalChoice,
    FinalChunk,
    FinalDelta,
    PromptDetails,
    UsageChunk,
)
from vivace.types import Answer, Delta

_DECODER = msgspec.json.Decoder(ChatRequest)
HEARTBEAT = 10.0
"""Seconds of silence after which a stream sends a comment: proxies cut at 30 or 60."""


class Chat:
    """An ASGI application."""

    path = "/v1/chat/completions"

    def __init__(self, served: Served, *, heartbeat: float = HEARTBEAT) -> None:
        self._served = served
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await read(receive, _DECODER)
        collection = self._served.collection(request.model)
        what = asked(request)
        if request.stream:
            stream = EventStream(send, scope.get(PLAIN_SEND, send))
            await self._stream(request, collection, what, receive, stream)
            return
        async with Attended(receive):
            answer = await collection.ask(
                what.question, k=request.k, filters=request.filters, options=what.options
            )
        await send_json(send, msgspec.json.encode(_response(request, answer)))

    async def _stream(
        self,
        request: ChatRequest,
        collection: Collection,
        what: Asked,
        receive: Receive,
        stream: EventStream,
    ) -> None:
        deltas = collection.stream(
            what.question, k=request.k, filters=request.filters, options=what.options
        )
        try:
            async with Attended(receive, beat=stream.beat, every=self._heartbeat), closing(deltas):
                await self._write(request, collection, deltas, stream)
        except VivaceError as error:
            if not stream.started:
                raise
            # too late for a status: an event says it, and no [DONE] follows
            errors.note(error, self._served.trace)
            await stream.end(b"data: " + errors.body(error) + b"\n\n")

    async def _write(
        self,
        request: ChatRequest,
        collection: Collection,
        deltas: AsyncIterable[Delta],
        stream: EventStream,
    ) -> None:
        start = time.perf_counter()
        wants_usage = bool(request.stream_options and request.stream_options.include_usage)
        id, created = _id(), int(time.time())
        frame = TextFrame(id, created, request.model, usage=wants_usage)
        text, write = frame.text, stream.write
        answer: Answer | None = None
        begun = False
        async for delta in deltas:
            if delta.text:
                if begun:
                    await write(text(delta.text))
                else:
                    begun = True
                    collection.trace.observe("first_token", time.perf_counter() - start)
                    await write(frame.role() + text(delta.text))
            answer = delta.answer or answer
        assert answer is not None  # an Answerer's last delta carries it
        last = event(_final(id, created, request.model, answer))
        if not begun:
            last = frame.role() + last
        if wants_usage:
            last += event(UsageChunk(id, created, request.model, _usage(answer)))
        await stream.end(last + DONE)


def _id() -> str:
    return f"chatcmpl-{uuid4().hex}"


def _response(request: ChatRequest, answer: Answer) -> ChatResponse:
    message = AnswerMessage(answer.text, annotate(answer))
    return ChatResponse(
        _id(),
        int(time.time()),
        request.model,
        [Choice(message, answer.finish_reason)],
        _usage(answer),
        sources(answer),
        answer.degraded,
        answer.found,
        answer.generator,
        supported(answer),
        answer.answerable,
    )


def _final(id: str, created: int, model: str, answer: Answer) -> FinalChunk:
    choice = FinalChoice(answer.finish_reason, FinalDelta(annotate(answer)))
    return FinalChunk(
        id,
        created,
        model,
        [choice],
        sources(answer),
        answer.degraded,
        answer.found,
        answer.generator,
        supported(answer),
        answer.answerable,
    )


def _usage(answer: Answer) -> ChatUsage:
    """As the model server counted; zeros where no model wrote the answer or none were told."""
    usage = answer.usage
    if usage is None:
        return ChatUsage(0, 0, 0, PromptDetails(), answer.cost)
    return ChatUsage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        PromptDetails(usage.cached_tokens),
        answer.cost,
    )
