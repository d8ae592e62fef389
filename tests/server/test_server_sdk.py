"""The official openai SDK gets cited answers in both languages."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
import openai
import pytest

from tests.server.conftest import Serve, async_client_of, client_of
from tests.server.live import WAIT, Live, Stub, one_then_silence, tokens

QUESTIONS = [
    ("How long is the notice period?", "six weeks", "leave.md"),
    ("试用期是多久？", "三个月", "zh.txt"),
]


def check_cited(text: str, annotations: list[Any], extra: dict[str, Any], file: str) -> None:
    assert annotations
    for annotation in annotations:
        assert annotation["type"] == "url_citation"
        where = annotation["url_citation"]
        assert where["url"].startswith("file:///")
        assert where["url"].endswith(f"/{file}")
        assert where["title"]
    where = annotations[0]["url_citation"]
    quoted = text[where["start_index"] : where["end_index"]]
    cited = [quote for source in extra["sources"] for quote in source["citations"]]
    assert quoted in [" ".join(quote["text"].split()) for quote in cited]
    source = next(source for source in extra["sources"] if source["citations"])
    assert source["source"].endswith(file)
    assert extra["degraded"] == []
    assert extra["found"] is True


@pytest.mark.parametrize(("question", "words", "file"), QUESTIONS)
def test_an_answer(sdk: openai.OpenAI, question: str, words: str, file: str) -> None:
    done = sdk.chat.completions.create(
        model="vivace", messages=[{"role": "user", "content": question}]
    )
    choice = done.choices[0]
    assert words in (choice.message.content or "")
    assert choice.finish_reason == "stop"
    assert done.usage is not None
    assert done.usage.total_tokens == 0  # no model wrote it
    assert done.model == "vivace"
    assert done.id.startswith("chatcmpl-")
    annotations = [a.model_dump() for a in choice.message.annotations or []]
    check_cited(choice.message.content or "", annotations, done.model_extra or {}, file)


@pytest.mark.parametrize(("question", "words", "file"), QUESTIONS)
def test_a_streamed_answer(sdk: openai.OpenAI, question: str, words: str, file: str) -> None:
    stream = sdk.chat.completions.create(
        model="handbook",
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
    )
    with stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert words in text
    final, usage = chunks[-2], chunks[-1]
    assert final.choices[0].finish_reason == "stop"
    assert [c.choices[0].finish_reason for c in chunks[:-2]] == [None] * (len(chunks) - 2)
    annotations = (final.choices[0].delta.model_extra or {})["annotations"]
    check_cited(text, annotations, final.model_extra or {}, file)
    assert usage.choices == []
    assert usage.usage is not None
    assert len({c.id for c in chunks}) == 1


def test_not_found(sdk: openai.OpenAI) -> None:
    done = sdk.chat.completions.create(
        model="vivace", messages=[{"role": "user", "content": "Who composed the Goldberg tunes?"}]
    )
    assert done.choices[0].message.content == "The documents do not say."
    assert (done.model_extra or {})["found"] is False


async def test_async(live: Live) -> None:
    async with async_client_of(base_url=f"{live.address}/v1") as client:
        question: Any = [{"role": "user", "content": QUESTIONS[0][0]}]
        whole, stream = await asyncio.gather(
            client.chat.completions.create(model="vivace", messages=question),
            client.chat.completions.create(model="vivace", messages=question, stream=True),
        )
        assert "six weeks" in (whole.choices[0].message.content or "")
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(pieces) == whole.choices[0].message.content


def test_usage_finish_reason_and_what_is_asked(serve: Serve) -> None:
    stub = Stub(tokens)
    with client_of(serve(stub)) as client:
        done = client.chat.completions.create(
            model="vivace",
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Is there lunch?"},
                {"role": "assistant", "content": "Yes."},
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "When is it?"}]},
            ],
            max_tokens=7,
            max_completion_tokens=9,
            temperature=0.5,
            top_p=0.5,
        )
    assert done.choices[0].finish_reason == "length"
    usage = done.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (11, 200, 211)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 5
    assert (usage.model_extra or {})["cost"] == 0.25
    assert stub.questions == ["When is it?"]
    options = stub.options[0]
    assert options.system == "Be brief.\n\nBe kind."
    assert [(m.role, m.content) for m in options.history] == [
        ("user", "Is there lunch?"),
        ("assistant", "Yes."),
    ]
    assert (options.max_tokens, options.temperature) == (9, 0.5)


def test_many_streams_at_once(serve: Serve) -> None:
    running = serve(Stub(tokens))

    async def ask(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(
            model="vivace", messages=[{"role": "user", "content": "lunch?"}], stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async def main() -> list[str]:
        async with async_client_of(base_url=f"{running.address}/v1") as client:
            return await asyncio.gather(*(ask(client) for _ in range(20)))

    before = running.tasks()
    answers = asyncio.run(main())
    assert answers == ["".join(f"token{n} " for n in range(200))] * 20
    running.idle()
    assert running.tasks() <= before


def test_a_cancelled_stream_stops_the_work(serve: Serve) -> None:
    stub = Stub(one_then_silence)
    running = serve(stub)
    before = running.tasks()
    with client_of(running) as client:
        stream = client.chat.completions.create(
            model="vivace", messages=[{"role": "user", "content": "lunch?"}], stream=True
        )
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        assert not stub.stopped.is_set()
        stream.close()
        assert stub.stopped.wait(WAIT)
    running.idle()
    assert running.tasks() <= before


def test_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["vivace", "handbook"]
    assert sdk.models.retrieve("handbook").owned_by == "vivace"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("other")


def test_an_unknown_model(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        sdk.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "a"}])
    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"
    assert raised.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        sdk.embeddings.create(model="text-embedding-3", input="a")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": " "}]}, None),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content",
        ),
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"k": 0}}, "k"),
        ({"extra_body": {"filters": {"no": 1}}}, None),
    ],
)
def test_bad_requests(sdk: openai.OpenAI, fields: dict[str, Any], param: str | None) -> None:
    question = [{"role": "user", "content": "lunch?"}]
    for stream in (False, True):
        create: Any = sdk.chat.completions.create
        with pytest.raises(openai.BadRequestError) as raised:
            create(**{"model": "vivace", "messages": question, "stream": stream, **fields})
        assert raised.value.param == param
        assert raised.value.message


class TestEmbeddings:
    def test_base64_and_numbers_agree(self, sdk: openai.OpenAI) -> None:
        texts = ["a notice period", "lunch"]
        packed = sdk.embeddings.create(model="vivace", input=texts)
        plain = sdk.embeddings.create(model="handbook", input=texts, encoding_format="float")
        vectors = np.array([row.embedding for row in packed.data], np.float32)
        assert vectors.shape == (2, 384)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert np.array_equal(vectors, np.array([row.embedding for row in plain.data], np.float32))
        assert packed.usage.prompt_tokens == packed.usage.total_tokens == 4
        one = sdk.embeddings.create(model="vivace", input=texts[0], dimensions=384)
        assert np.array_equal(np.array(one.data[0].embedding, np.float32), vectors[0])

    def test_the_wire_is_little_endian(self, live: Live) -> None:
        import httpx

        body = {"input": "lunch", "encoding_format": "base64"}
        value = httpx.post(f"{live.address}/v1/embeddings", json=body).json()
        row = np.frombuffer(base64.b64decode(value["data"][0]["embedding"]), "<f4")
        assert row.shape == (384,)
        body["encoding_format"] = "float"
        value = httpx.post(f"{live.address}/v1/embeddings", json=body).json()
        assert np.array_equal(np.array(value["data"][0]["embedding"], "<f4"), row)

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"input": [1, 2, 3]}, "input"),
            ({"input": [[1, 2], [3]]}, "input"),
            ({"input": []}, "input"),
            ({"input": ["a", ""]}, "input"),
            ({"input": ["a"] * 2049}, "input"),
            ({"dimensions": 5}, "dimensions"),
        ],
    )
    def test_bad_requests(self, sdk: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
        create: Any = sdk.embeddings.create
        with pytest.raises(openai.BadRequestError) as raised:
            create(**{"model": "vivace", "input": "a", **fields})
        assert raised.value.param == param
