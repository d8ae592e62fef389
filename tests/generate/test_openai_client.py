"""The model client against servers of every manner."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from contextlib import ExitStack

import pytest

from tests.generate.canned import DONE, END, SSE, canned, chunk, client, deltas, refused
from vivace.errors import (
    BadSettings,
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
from vivace.generate import names
from vivace.generate.openai import OpenAI
from vivace.run.model_servers import ModelServer
from vivace.settings import Generate
from vivace.types import Delta, Usage

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,'


async def test_a_stream() -> None:
    body = SSE + b": queued\n\n" + chunk("", role="assistant") + chunk("Hel") + chunk("lo")
    body += END + USAGE + b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n' + DONE
    async with canned(body) as server, client(server, api_key="k") as model:
        found = await deltas(model)
        assert found == [
            Delta("Hel"),
            Delta("lo"),
            Delta(finish_reason="stop", usage=Usage(9, 2, 4)),
        ]
        assert server.requests == [
            {
                "model": "m",
                "messages": [{"role": "user", "content": "hello ?"}],
                "max_tokens": 100,
                "temperature": 0.5,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ]
        assert "authorization: bearer k" in server.headers[0].lower()
        assert server.headers[0].startswith("POST /v1/chat/completions ")


@pytest.mark.parametrize(
    "rest",
    [
        chunk("a") + END,  # without [DONE]
        chunk("a") + DONE,  # without a finish reason
        chunk("a", finish_reason="stop") + DONE,
        chunk("a") + END + b"data: [DONE]",
        (chunk("a") + END + DONE).replace(b"\n", b"\r\n"),
        (chunk("a") + END + DONE).replace(b"data: ", b"data:"),
        chunk("a") + END + USAGE + b'"prompt_tokens_details":null,"x":{}}}\n\n' + DONE,
        b'data: {"choices":null}\n\n' + chunk("a") + b"event: ping\ndata: x\n\n" + END + DONE,
        b'data: {"choices":[{}]}\n\n' + chunk("a") + END + DONE,
        chunk([{"type": "text", "text": "a"}, {"type": "image"}, 7]) + END + DONE,
        chunk("a") + END + b'data: {"choices":[],"usage":"none"}\n\n' + DONE,
        chunk("a") + END + b'data: {"choices":[],"usage":{"prompt_tokens":"9"}}\n\n' + DONE,
    ],
)
async def test_dialects(rest: bytes) -> None:
    async with canned(SSE + rest) as server, client(server) as model:
        found = await deltas(model)
        assert "".join(delta.text for delta in found) == "a"
        assert found[-1].finish_reason == "stop"


async def test_counts_may_be_floats() -> None:
    told = b'data: {"choices":[],"usage":{"prompt_tokens":9.0,"completion_tokens":2.0,'
    told += b'"prompt_tokens_details":{"cached_tokens":null},"prompt_cache_hit_tokens":4e0}}\n\n'
    body = SSE + chunk("a") + END + told + DONE
    async with canned(body) as server, client(server) as model:
        assert (await deltas(model))[-1].usage == Usage(9, 2, 4)


async def test_no_usage_told_is_none_invented() -> None:
    async with canned(SSE + chunk("a") + END + DONE) as server, client(server) as model:
        assert (await deltas(model))[-1].usage is None


@pytest.mark.parametrize("streaming", [True, False])
async def test_plain_json_is_an_answer_too(streaming: bool) -> None:
    body = json.dumps(
        {
            "choices": [{"message": {"content": "hi"}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1, "prompt_cache_hit_tokens": 3},
        }
    )
    reply = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    async with (
        canned(f"{reply}Connection: close\r\n\r\n{body}".encode()) as server,
        client(server, streaming=streaming) as model,
    ):
        last = Delta(finish_reason="length", usage=Usage(5, 1, 3))
        assert await deltas(model) == [Delta("hi"), last]
        assert ("stream" in server.requests[0]) is streaming


@pytest.mark.parametrize(
    ("rest", "error", "text"),
    [
        (chunk("a"), StreamCut, "a"),
        (chunk("a") + b"data: {", StreamMalformed, "a"),
        (chunk("a") + b"data: [1]\n\n", StreamMalformed, "a"),
        (chunk("a") + b'data: {"choices": 7}\n\n', StreamMalformed, "a"),
        (chunk("a") + b'data: {"error":' + b"[" * 10_000 + b"\n\n", StreamMalformed, "a"),
        (chunk("a") + b'data: "\xff"\n\n', StreamMalformed, "a"),
        (chunk("a") + b'data: {"error":{"message":"oom","code":503}}\n\n', ModelRefused, "a"),
        (b'event: error\ndata: {"error":"oom"}\n\n', ModelRefused, ""),
        (END + DONE, StreamEmpty, ""),
        (DONE, StreamEmpty, ""),
        (b"nothing of the kind\n", StreamCut, ""),
        (chunk("x" * 5000), StreamTooLong, "x" * 5000),
        (b"data: " + b"x" * (1 << 21), StreamTooLong, ""),
    ],
)
async def test_what_is_no_answer(rest: bytes, error: type[Exception], text: str) -> None:
    async with canned(SSE + rest) as server, client(server) as model:
        with pytest.raises(error) as raised:
            await deltas(model)
        assert getattr(raised.value, "text", "") == text
        if error is ModelRefused:
            assert "oom" in str(raised.value)


async def test_reasoning_alone_is_empty_and_says_why() -> None:
    thinks = b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n'
    rest = thinks + chunk(None, finish_reason="length") + DONE
    async with canned(SSE + rest) as server, client(server) as model:
        with pytest.raises(StreamEmpty, match=r"length.*max_tokens"):
            await deltas(model)


async def test_a_web_page_is_no_answer() -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"
    async with canned(page) as server, client(server) as model:
        with pytest.raises(StreamMalformed, match="web page"):
            await deltas(model)


async def test_a_wait_past_the_end_is_not_begun() -> None:
    async with canned(refused(429, "", "Retry-After: 9999")) as server:
        async with client(server, retries=5) as model:
            with pytest.raises(ModelRefused) as raised:
                await deltas(model)
            assert raised.value.retry_after == 9999
        assert len(server.requests) == 1


async def test_refused_parameters_are_left_out_and_remembered() -> None:
    def no(name: str) -> bytes:
        return refused(400, json.dumps({"error": {"message": f"Unsupported: {name}"}}))

    good = SSE + chunk("a") + END + DONE
    replies = (no("max_tokens, use max_completion_tokens"), no("stream_options"), good, good)
    async with canned(*replies) as server, client(server) as model:
        for _ in range(2):
            assert (await deltas(model))[0].text == "a"
        last = server.requests[-1]
        assert len(server.requests) == 4
        assert last["max_completion_tokens"] == 100
        assert not {"max_tokens", "stream_options"} & last.keys()


async def test_requests_at_once_are_adapted_alike() -> None:
    no = refused(400, json.dumps({"error": {"message": "Unsupported: temperature"}}))
    good = SSE + chunk("a") + END + DONE
    async with canned(no, no, good) as server, client(server) as model:
        for found in await asyncio.gather(deltas(model), deltas(model)):
            assert found[0].text == "a"
        assert ["temperature" in sent for sent in server.requests] == [True, True, False, False]


@pytest.mark.parametrize(
    "said",
    [
        "Invalid 'temperature': expected a value <= 1, but got 1.5 instead.",
        "temperature must be in [0, 1]",
        "max_completion_tokens is too large: 100000",
    ],
)
async def test_a_wrong_value_is_no_unknown_parameter(said: str) -> None:
    """To leave it out would answer this question otherwise than asked, and all later ones."""
    no = refused(400, json.dumps({"error": {"message": said}}))
    async with canned(no, SSE + chunk("a") + END + DONE) as server, client(server) as model:
        with pytest.raises(ModelRefused):
            await deltas(model)
        (last,) = [d for d in await deltas(model) if d.finish_reason]
        assert last.degraded == ()
        assert {"temperature", "max_tokens"} <= server.requests[-1].keys()


async def test_what_did_not_help_to_leave_out_is_not_remembered() -> None:
    no = refused(400, '{"error":"temperature is not supported"}')
    good = SSE + chunk("a") + END + DONE
    async with canned(no, refused(400), good) as server, client(server) as model:
        with pytest.raises(ModelRefused):
            await deltas(model)
        await deltas(model)
        assert ["temperature" in request for request in server.requests] == [True, False, True]


@pytest.mark.parametrize(
    "said",
    [
        "Unsupported value: 'temperature' does not support 0.0. Only the default (1) value is ...",
        "invalid temperature: only 1 is allowed for this model",
        "body.temperature: Extra inputs are not permitted",
    ],
)
async def test_a_temperature_that_was_left_out_is_told(said: str) -> None:
    no = refused(400, json.dumps({"detail": said}))
    good = SSE + chunk("a") + END + DONE
    async with canned(no, good, good) as server, client(server) as model:
        for _ in range(2):
            last = (await deltas(model))[-1]
            assert last.degraded == ("the model server takes no temperature, so its own was used",)
        assert len(server.requests) == 3


KEY = "sk-" + "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "reply",
    [
        SSE + f'data: {{"error":{{"message":"bad key {KEY}"}}}}\n\n'.encode(),
        SSE + f'event: error\ndata: {{"error":"{KEY}"}}\n\n'.encode(),
        refused(500, json.dumps({"error": {"message": "x" * 480 + KEY}})),
        refused(500, "x" * 480 + KEY),
        f"HTTP/1.1 {KEY} {KEY}\r\n\r\n".encode(),
    ],
)
async def test_no_part_of_the_key_is_in_an_error(reply: bytes) -> None:
    async with canned(reply) as server, client(server, api_key=KEY) as model:
        with pytest.raises(GenerationError) as raised:
            await deltas(model)
        assert KEY[:8] not in str(raised.value)


@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog refuses elsewhere")
async def test_connecting_has_a_clock_of_its_own() -> None:
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        model = OpenAI(ModelServer("m", url), Generate(retries=0, connect_seconds=0.2))
        try:
            with pytest.raises(ModelUnreachable, match=r"no connection within 0.2 s"):
                await deltas(model)
        finally:
            await model.close()


async def test_keep_alive_comments_are_no_tokens() -> None:
    async def pings(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE)
        while True:
            writer.write(b": ping\n\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with canned(pings) as server, client(server, first_token_seconds=0.2) as model:
        with pytest.raises(ModelTimeout, match=r"no first token within 0.2 s"):
            await deltas(model)


async def test_reasoning_is_a_sign_of_work() -> None:
    async def thinks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE + b'data: {"choices":[{"delta":{"reasoning":"hm"}}]}\n\n')
        await reader.read()  # until the client goes

    async with canned(thinks) as server, client(server, between_seconds=0.1) as model:
        with pytest.raises(StreamStalled, match=r"no token for 0.1 s"):
            await deltas(model)


async def test_the_whole_answer_has_a_clock_of_its_own() -> None:
    async def drips(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE)
        while True:
            writer.write(chunk("a"))
            await writer.drain()
            await asyncio.sleep(0.02)

    async with canned(drips) as server, client(server, total_seconds=0.3) as model:
        with pytest.raises(ModelTimeout, match="no whole answer") as raised:
            await deltas(model)
        assert raised.value.text.startswith("aa")


async def test_a_slow_reader_is_not_a_slow_server() -> None:
    body = SSE + chunk("a") + chunk("b") + END + DONE
    async with canned(body) as server, client(server, between_seconds=0.1) as model:
        from vivace.types import Message

        found = []
        async for delta in model.stream([Message("user", "x")], max_tokens=9, temperature=0):
            await asyncio.sleep(0.25)  # the reader's own time, which is what is tested
            found.append(delta.text)
        assert found == ["a", "b", ""]


def test_models_by_name() -> None:
    assert names.load(Generate()) is None
    model = names.load(Generate(model="openai:a/b:7b@http://h:1/v1/"))
    assert model is not None
    assert model.name == "openai:a/b:7b"


@pytest.mark.parametrize(
    "settings",
    [
        Generate(model="gpt-4"),
        Generate(model="openai:gpt-4"),
        Generate(model="openai:@http://h/v1"),
        Generate(model="openai:m@ftp://h/v1"),
        Generate(model="openai:m@http:///v1"),
        Generate(model="openai:m@http://h:99999999/v1"),
        Generate(model="openai:m@http://h/v1#7"),
        Generate(model="openai:m@http://user:hush@h/v1"),
        Generate(model="openai:m@http://h/v1?key=hush"),
        Generate(model="openai:m@http://h/v1", api_key="hush\n"),
    ],
)
def test_bad_names(settings: Generate) -> None:
    with pytest.raises(BadSettings, match=r"^generate\.") as raised:
        names.load(settings)
    assert "hush" not in str(raised.value)
