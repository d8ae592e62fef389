"""POST /v1/chat/completions: cited answers, whole or streamed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import msgspec
from starlette.types import Receive, Scope, Send

from vivace.engine import Collection
from vivace.errors import VivaceError
from vivace.run.streams import closing
from vivace.server import errors
from vivace.server.asgi import CancelOnDisconnect, decode_filters, decode_json, send_json
from vivace.server.body import BODY
from vivace.server.errors import BadRequest
from vivace.server.events import DONE, EventStream, TextFrame, event
from vivace.server.middleware import PLAIN_SEND
from vivace.server.state import AppState
from vivace.server.wire import (
    AnswerChoice,
    AnswerMessage,
    ChatMessage,
    ChatRequest,
    ChatResponse,
    ChatUsage,
    FinalChoice,
    FinalChunk,
    FinalDelta,
    PromptDetails,
    UsageChunk,
    answer_fields,
    url_annotations,
)
from vivace.types import Answer, AnswerOptions, Delta, Message

_DECODER = msgspec.json.Decoder(ChatRequest)
HEARTBEAT = 10.0
"""Seconds of silence after which a stream sends a comment: proxies cut at 30 or 60."""


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """The question of a chat request, and the options of its answer, with the earlier turns."""

    question: str
    options: AnswerOptions


class ChatRoute:
    """ASGI application of POST /v1/chat/completions."""

    path = "/v1/chat/completions"

    def __init__(self, state: AppState, *, heartbeat: float = HEARTBEAT) -> None:
        self._state = state
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = decode_json(scope.pop(BODY), _DECODER)
        collection = self._state.collection(request.model)
        turn = parse_chat_request(request)
        filters = decode_filters(request.filters)
        if request.stream:
            stream = EventStream(send, scope.get(PLAIN_SEND, send))
            deltas = collection.stream(
                turn.question, k=request.k, filters=filters, options=turn.options
            )
            await self._stream(request, collection, deltas, receive, stream)
            return
        async with CancelOnDisconnect(receive):
            answer = await collection.ask(
                turn.question, k=request.k, filters=filters, options=turn.options
            )
        await send_json(send, msgspec.json.encode(_response(request, answer)))

    async def _stream(
        self,
        request: ChatRequest,
        collection: Collection,
        deltas: AsyncIterator[Delta],
        receive: Receive,
        stream: EventStream,
    ) -> None:
        watch = CancelOnDisconnect(receive, beat=stream.beat, every=self._heartbeat)
        try:
            async with watch, closing(deltas):
                await _write(request, collection, deltas, stream)
        except VivaceError as error:
            if not stream.started:
                raise
            # too late for a status: an event carries the error, and no [DONE] follows
            errors.record(error, self._state.trace)
            await stream.end(b"data: " + errors.body(error) + b"\n\n")


async def _write(
    request: ChatRequest, collection: Collection, deltas: AsyncIterable[Delta], stream: EventStream
) -> None:
    start = time.perf_counter()
    wants_usage = bool(request.stream_options and request.stream_options.include_usage)
    answer_id, created = _new_id(), int(time.time())
    frame = TextFrame(answer_id, created, request.model, usage=wants_usage)
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
    choice = FinalChoice(answer.finish_reason, FinalDelta(url_annotations(answer)))
    last = event(FinalChunk(answer_id, created, request.model, [choice], **answer_fields(answer)))
    if not begun:
        last = frame.role() + last
    if wants_usage:
        last += event(UsageChunk(answer_id, created, request.model, _usage(answer)))
    await stream.end(last + DONE)


def _new_id() -> str:
    return f"chatcmpl-{uuid4().hex}"


def _response(request: ChatRequest, answer: Answer) -> ChatResponse:
    message = AnswerMessage(answer.text, url_annotations(answer))
    return ChatResponse(
        _new_id(),
        int(time.time()),
        request.model,
        [AnswerChoice(message, answer.finish_reason)],
        _usage(answer),
        **answer_fields(answer),
    )


def _usage(answer: Answer) -> ChatUsage:
    """As the model server counted; zeros where no model wrote the answer, or none were reported."""
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


def parse_chat_request(request: ChatRequest) -> ChatTurn:
    """The last user message as the question, the messages before it as history.

    Raises:
        BadRequest: there is no question, or the request asks for something unsupported.
    """
    _check(request)
    turns: list[Message] = []
    instructions: list[str] = []
    for number, message in enumerate(request.messages):
        text = _text(message, number)
        if message.role in ("system", "developer"):
            instructions.append(text)
        else:
            turns.append(Message(message.role, text))
    if not turns or turns[-1].role != "user":
        raise BadRequest(
            "messages: the last one is not the user's",
            fix="End with the question, as a message of the role user",
            param="messages",
        )
    return ChatTurn(
        turns[-1].content,
        AnswerOptions(
            history=tuple(turns[:-1]),
            system="\n\n".join(filter(None, instructions)),
            max_tokens=request.max_completion_tokens or request.max_tokens,
            temperature=request.temperature,
            template=request.template,
            target_language=request.target_language,
        ),
    )


def _check(request: ChatRequest) -> None:
    """Refuse what the client would otherwise expect in vain."""
    if request.n not in (None, 1):
        raise BadRequest("n: one answer a request", fix="Ask again for another", param="n")
    if request.response_format is not None and request.response_format.type != "text":
        raise BadRequest(
            "response_format: answers are text with citations",
            fix="Leave it out",
            param="response_format",
        )


def _text(message: ChatMessage, number: int) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for part in message.content:
        if part.type != "text":
            raise BadRequest(
                "messages: only text can be read",
                fix="Leave images, sound and files out",
                param=f"messages[{number}].content",
            )
    return "\n".join(part.text for part in message.content)
