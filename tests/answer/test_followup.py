"""A follow-up question becomes one that stands alone, or stays as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from vivace.answer.followup import rewriting_prompt, standalone_question
from vivace.engine import Engine
from vivace.errors import ModelUnreachable
from vivace.settings import load
from vivace.testing.fake_llm import FakeModel
from vivace.trace import Trace
from vivace.types import AnswerOptions, Chunk, Delta, Message

HISTORY = (Message("user", "Who wrote Faust?"), Message("assistant", "Goethe [1]."))


class Model:
    """A `Generator` that says what it is told to."""

    name = "model"

    def __init__(self, text: str = "", finish: str = "stop", error: Exception | None = None):
        self.text = text
        self.finish = finish
        self.error = error
        self.hangs = False
        self.closed = False
        self.asked: list[tuple[Message, ...]] = []
        self.most: list[int] = []

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        self.asked.append(tuple(messages))
        self.most.append(max_tokens)
        try:
            if self.error is not None:
                raise self.error
            for word in self.text.split(" "):
                yield Delta(word + " ")
            if self.hangs:
                await asyncio.Event().wait()
            yield Delta(finish_reason=self.finish)
        finally:
            self.closed = True

    async def close(self) -> None: ...


async def test_a_followup_is_rewritten_with_the_conversation() -> None:
    model, trace = Model(' "When did Goethe write Faust?"\n'), Trace()
    assert (
        await standalone_question("When?", HISTORY, model, trace) == "When did Goethe write Faust?"
    )
    assert trace.counters() == {"standalone.rewritten": 1}
    assert model.most[0] < 200
    told = model.asked[0][-1].content
    assert "User: Who wrote Faust?" in told
    assert "Assistant: Goethe [1]." in told
    assert told.endswith("Last question: When?")


async def test_a_chinese_followup_is_rewritten_in_chinese() -> None:
    system, user = rewriting_prompt("什么时候？", HISTORY)
    assert "改写" in system.content
    assert user.content.endswith("最后一个问题：什么时候？")


async def test_without_history_the_model_is_not_asked() -> None:
    model = Model("something")
    assert await standalone_question("When?", (), model, Trace()) == "When?"
    assert model.asked == []


@pytest.mark.parametrize(
    "model",
    [
        Model(""),
        Model("x" * 1000),
        Model("When did Goethe", finish="length"),
        Model(error=ModelUnreachable("nobody there")),
    ],
)
async def test_any_failure_leaves_the_question_unchanged(model: Model) -> None:
    trace = Trace()
    assert await standalone_question("When?", HISTORY, model, trace) == "When?"
    assert trace.counters() == {"standalone.failed": 1}


async def test_a_model_that_hangs_is_closed() -> None:
    model, trace = Model("When did"), Trace()
    model.hangs = True
    assert await standalone_question("When?", HISTORY, model, trace, seconds=0.01) == "When?"
    assert model.closed


@pytest.mark.parametrize("on", [True, False])
async def test_a_collection_searches_for_the_rewritten_question(on: bool) -> None:
    with FakeModel(mode="scripted", text="When was the bridge painted?") as fake:
        settings = load(
            embed__model="given:8",
            generate__model=f"openai:fake@{fake.url}",
            generate__standalone=on,
        )
        async with Engine(settings) as engine:
            docs = await engine.open("follow")
            chunk = Chunk("a", "The bridge was painted in May.", 0, 30)
            await docs.add([chunk], np.ones((1, 8), np.float32))
            answer = await docs.ask("And when?", options=AnswerOptions(history=HISTORY))
            assert len(answer.hits) == on
            assert fake.statistics().requests == 1 + on
            answer = await docs.ask("When was the bridge painted?")
            assert len(answer.hits) == 1
            assert fake.statistics().requests == 2 + on
