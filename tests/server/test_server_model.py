"""With a model server behind it, the official SDK gets cited answers in both languages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import openai
import pytest

from tests.server.conftest import client_of
from tests.server.live import serving
from tests.server.test_server_sdk import QUESTIONS
from vivace.settings import Settings
from vivace.testing.fake_llm import FakeModel


@pytest.fixture
def grounded(config: Settings, handbook: str) -> Iterator[openai.OpenAI]:
    with FakeModel(mode="grounded") as fake:
        generate = msgspec.structs.replace(config.generate, model=f"openai:fake@{fake.url}")
        settings = msgspec.structs.replace(config, generate=generate)
        with serving(settings, [handbook]) as live, client_of(live) as client:
            yield client


@pytest.mark.parametrize(("question", "words", "file"), QUESTIONS)
def test_a_grounded_answer(grounded: openai.OpenAI, question: str, words: str, file: str) -> None:
    messages: Any = [{"role": "user", "content": question}]
    done = grounded.chat.completions.create(model="vivace", messages=messages)
    stream = grounded.chat.completions.create(
        model="vivace", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = done.choices[0].message.content or ""
    assert words in text
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    whole = [a.model_dump() for a in done.choices[0].message.annotations or []]
    assert whole == (chunks[-2].choices[0].delta.model_extra or {})["annotations"]
    assert whole[0]["url_citation"]["url"].endswith(file)
    assert done.usage is not None
    assert chunks[-1].usage is not None
    assert done.usage.completion_tokens == chunks[-1].usage.completion_tokens > 0
    assert (done.model_extra or {})["degraded"] == []


def test_a_template_is_a_field_of_the_request(grounded: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Good day. How are you?"}]
    asked = {"template": "translation", "target_language": "Deutsch"}
    done = grounded.chat.completions.create(model="vivace", messages=messages, extra_body=asked)
    assert done.choices[0].message.content == "(Deutsch) Good day. (Deutsch) How are you?"
    assert (done.model_extra or {})["support"] == []
    with pytest.raises(openai.BadRequestError, match="no template"):
        grounded.chat.completions.create(
            model="vivace", messages=messages, extra_body={"template": "poem"}
        )


def test_each_sentence_says_what_supports_it(grounded: openai.OpenAI) -> None:
    question, words, _ = QUESTIONS[0]
    messages: Any = [{"role": "user", "content": question}]
    done = grounded.chat.completions.create(model="vivace", messages=messages)
    extra = done.model_extra or {}
    (support,) = extra["support"]
    text = done.choices[0].message.content or ""
    assert words in text[support["start_index"] : support["end_index"]]
    assert support["supported"]
    assert support["source"] in {source["id"] for source in extra["sources"]}
    assert 0 < extra["answerable"] <= 1
