"""The fake model server speaks the wire, keeps its own books and fails on schedule."""

from __future__ import annotations

import json
import random
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest

from vivace.errors import BadInput
from vivace.generate.prompts import PromptBuilder
from vivace.generate.templates import resolve
from vivace.settings import Answering, Generate
from vivace.testing import grounded
from vivace.testing.fake_llm import FakeModel
from vivace.testing.faults import Fault, parse
from vivace.types import AnswerOptions, Chunk, Hit, Message, Query


def post(fake: FakeModel, path: str, **body: Any) -> Any:
    request = urllib.request.Request(
        f"{fake.url}/{path}", json.dumps(body).encode(), {"Connection": "close"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        raw = response.read()
    if response.headers.get_content_type() == "application/json":
        return json.loads(raw)
    lines = [line[6:] for line in raw.decode().splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def chat(fake: FakeModel, text: str = "hi", **more: Any) -> Any:
    return post(fake, "chat/completions", messages=[{"role": "user", "content": text}], **more)


def test_whole_and_streamed_are_the_same_text() -> None:
    with FakeModel(mode="scripted", text="Two words. 你好") as fake:
        whole = chat(fake)
        assert whole["choices"][0]["message"]["content"] == "Two words. 你好"
        assert whole["usage"]["completion_tokens"] == 4
        chunks = chat(fake, stream=True, stream_options={"include_usage": True})
        deltas = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
        assert deltas == ["", "Two", " words.", " 你", "好", ""]
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == whole["usage"]
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
        short = chat(fake, max_tokens=2)
        assert short["choices"][0]["message"]["content"] == "Two words."
        assert short["choices"][0]["finish_reason"] == "length"
        done = fake.wait(lambda s: s.running == 0)
        assert (done.requests, done.completed, done.most_running) == (3, 3, 1)
        assert fake.prompts() == ["hi"] * 3


def test_the_prefix_cache_counts_whole_blocks() -> None:
    with FakeModel() as fake:
        text = " ".join(f"word{n}" for n in range(40))

        def cached(text: str) -> int:
            usage = chat(fake, text)["usage"]
            return int(usage["prompt_tokens_details"]["cached_tokens"])

        assert [cached(text), cached(text), cached(text + " more"), cached("x " + text)] == [
            0,
            32,
            32,
            0,
        ]


def test_models_and_embeddings() -> None:
    with FakeModel(model="mini", dim=8, seed=3) as fake, FakeModel(dim=8, seed=3) as twin:
        with urllib.request.urlopen(f"{fake.url}/models", timeout=10) as response:
            assert json.load(response)["data"][0]["id"] == "mini"
        one = post(fake, "embeddings", input="green grass")
        two = post(twin, "embeddings", input=["green grass", "blue"], model="x")
        assert one["data"][0]["embedding"] == two["data"][0]["embedding"]
        assert [len(row["embedding"]) for row in two["data"]] == [8, 8]
        assert len(post(fake, "embeddings", input=[[1, 2], [3]])["data"]) == 2
        assert len(post(fake, "embeddings", input=[1, 2])["data"]) == 1
        bodies: list[dict[str, Any]] = [{"input": []}, {"input": ["", "x"]}, {"input": 7}]
        for body in bodies:
            with pytest.raises(urllib.error.HTTPError) as raised:
                post(fake, "embeddings", **body)
            with raised.value as error:
                assert error.code == 400


def test_a_429_carries_retry_after() -> None:
    with FakeModel(faults=[Fault("429", every=2)], retry_after=1.5) as fake:
        chat(fake)
        with pytest.raises(urllib.error.HTTPError) as raised:
            chat(fake)
        with raised.value as error:
            assert (error.code, error.headers["Retry-After"]) == (429, "1.5")
            assert error.headers["retry-after-ms"] == "1500"
            assert set(json.load(error)["error"]) == {"message", "type", "param", "code"}
        chat(fake)
        assert fake.statistics().faulted == 1


def test_schedules() -> None:
    draw = random.Random(0)

    def struck(fault: Fault) -> list[int]:
        return [n for n in range(1, 9) if fault.strikes(n, draw)]

    assert struck(parse("500")) == list(range(1, 9))
    assert struck(parse("500@first=2")) == [1, 2]
    assert struck(parse("cut:after@every=3")) == [3, 6]
    assert 0 < len(struck(parse("slow@p=0.5"))) < 8
    assert parse("cut:after@every=3") == Fault("cut", after=True, every=3)
    assert struck(parse("slow@p=1")) == list(range(1, 9))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fire",
        "500:before",
        "500@first=x",
        "500@first=1.5",
        "cut@",
        "429@first=0",
        "429@every=0",
        "429@p=0",
        "429@p=1.5",
    ],
)
def test_malformed_faults_are_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse(text)


PASSAGES = [
    "The notice period is six weeks. Lunch is at noon.",
    "试用期为三个月。年假为三十天。",
]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How long is the notice period?", "The notice period is six weeks. [1]"),
        ("When is lunch?", "Lunch is at noon. [1]"),
        ("年假有多少天？", "年假为三十天。[2]"),
        ("Who was Napoleon?", "The documents do not say."),
        ("谁发明了蒸汽机？", "文档中没有提到。"),
    ],
)
def test_grounded_answers(question: str, expected: str) -> None:
    hits = [Hit(Chunk("d", text, 0, len(text)), 1.0) for text in PASSAGES]
    options = AnswerOptions()
    builder = PromptBuilder(Generate(), Answering())
    prompt = builder.build(resolve(Query(question), options), hits, options)
    assert grounded.answer(prompt.messages) == expected


def test_grounded_without_a_prompt_of_ours() -> None:
    assert (
        grounded.answer([])
        == grounded.answer([Message("user", "hi")])
        == "The documents do not say."
    )


def test_a_port_in_use_and_an_unknown_mode() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadInput, match="cannot listen"):
            FakeModel(port=taken.getsockname()[1]).start()
    with pytest.raises(BadInput, match="cannot listen"):
        FakeModel(port=70_000).start()
    with pytest.raises(BadInput, match="no mode"):
        FakeModel(mode="psychic")


def test_stopping_aborts_running_requests_and_is_idempotent() -> None:
    fake = FakeModel(faults=[Fault("slow")]).start()
    with socket.create_connection(("127.0.0.1", int(fake.url.split(":")[2].split("/")[0]))) as one:
        body = b'{"messages":[{"role":"user","content":"x"}]}'
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        one.sendall(head.encode() + body)
        fake.wait(lambda s: s.running == 1)
        fake.stop()
        fake.stop()
    assert fake.statistics().running == 0
    with pytest.raises(TimeoutError):
        fake.wait(lambda s: s.requests == 2, seconds=0.01)
