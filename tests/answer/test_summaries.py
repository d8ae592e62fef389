"""Texts that no prompt can hold, summarised."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.answer.searches import finding
from vivace.answer.prompted import Prompted
from vivace.answer.summaries import grouped_by_budget, whole_documents
from vivace.errors import ModelTimeout
from vivace.generate.prompts import PromptBuilder
from vivace.settings import Answering, Generate, Settings
from vivace.testing import grounded
from vivace.types import (
    Answer,
    AnswerOptions,
    Chunk,
    Delta,
    Hit,
    Message,
    Query,
    SearchResult,
    Usage,
)

SENTENCES = [f"Rule {n} of the house says word{n} and nothing else at all. " for n in range(60)]
TEXT = "".join(SENTENCES)
EACH = [len("".join(SENTENCES[:n])) for n in range(61)]
CHUNKS = [
    Chunk("d", TEXT[EACH[n] : EACH[min(60, n + 4)]], EACH[n], EACH[min(60, n + 4)], id=n)
    for n in range(0, 60, 3)
]
OPTIONS = AnswerOptions(template="summary")
COST = PromptBuilder(Generate(), Answering()).cost


class Model:
    """The grounded fake without its wire; counts who runs at once."""

    name = "model"

    def __init__(self, fail: int = 0) -> None:
        self.running = self.most = 0
        self.asked: list[str] = []
        self.fail = fail

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        self.running += 1
        self.most = max(self.most, self.running)
        self.asked.append(messages[-1].content)
        number = len(self.asked)
        try:
            await asyncio.sleep(0)
            if number == self.fail:
                raise ModelTimeout("late")
            yield Delta(grounded.answer(messages))
            yield Delta(finish_reason="stop", usage=Usage(100, 10, 5))
        finally:
            self.running -= 1

    async def close(self) -> None: ...


async def documents(ids: Sequence[str]) -> list[list[Chunk]]:
    assert list(ids) == ["d"]
    return [CHUNKS]


async def summary(model: Model, **answer: object) -> Answer:
    answering = Answering(**answer)  # type: ignore[arg-type]
    settings = Settings(answer=answering, generate=Generate(context_tokens=400))
    made = Prompted(model, settings, documents=documents)
    result = SearchResult((Hit(CHUNKS[3], 1.0),), 1)
    deltas = [d async for d in made.stream(Query("Summarise the rules"), finding(result), OPTIONS)]
    answer_ = deltas[-1].answer
    assert answer_ is not None
    return answer_


def test_groups_hold_every_character_once_and_fit() -> None:
    excerpts = whole_documents([CHUNKS])
    assert "".join(e.text for e in excerpts) == TEXT
    groups = grouped_by_budget(excerpts, 400, COST)
    assert "".join(e.text for group in groups for e in group) == TEXT
    assert all(sum(map(COST, group)) <= 400 for group in groups)
    long = Chunk("d", TEXT * 3, 0, 3 * len(TEXT), id=1)
    divided = grouped_by_budget(whole_documents([[long]]), 400, COST)
    assert "".join(e.text for group in divided for e in group) == TEXT * 3
    assert all(sum(map(COST, group)) <= 400 for group in divided)


@pytest.mark.parametrize("parallel", [1, 3])
async def test_map_reduce_reads_everything_with_bounded_parallelism(parallel: int) -> None:
    model = Model()
    answer = await summary(model, parallel=parallel)
    assert model.most == parallel
    for sentence in SENTENCES:
        assert (
            sum(sentence.strip() in prompt for prompt in model.asked if "<document-" in prompt) == 1
        )
    assert answer.usage == Usage(*(part * len(model.asked) for part in (100, 10, 5)))
    assert "Rule 0 of" in answer.text
    for citation in answer.citations:
        assert TEXT[citation.start : citation.end] == citation.text
        assert citation.chunk.id in {hit.chunk.id for hit in answer.hits[: answer.read]}
    assert all(one.supported for one in answer.support)


async def test_refine_continues_one_summary_from_part_to_part() -> None:
    model = Model()
    answer = await summary(model, summary="refine")
    assert model.most == 1
    groups = grouped_by_budget(whole_documents([CHUNKS]), 400, COST)
    assert len(model.asked) == len(groups)
    assert all("<summary-" in prompt for prompt in model.asked[1:])
    assert answer.citations


async def test_a_failed_part_raises_and_cancels_the_others() -> None:
    model = Model(fail=2)
    with pytest.raises(ModelTimeout):
        await summary(model)
    assert model.running == 0


class FirstLast(Model):
    """Its first reply comes after its second."""

    def __init__(self) -> None:
        super().__init__()
        self.second = asyncio.Event()

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        deltas = super().stream(messages, max_tokens=max_tokens, temperature=temperature)
        async for delta in deltas:
            if messages[-1].content == self.asked[0]:
                await self.second.wait()
            yield delta
        if len(self.asked) > 1 and messages[-1].content == self.asked[1]:
            self.second.set()


async def test_map_reduce_merges_the_parts_in_their_order() -> None:
    model = FirstLast()
    await summary(model, parallel=2)
    numbers = [int(number) for number in re.findall(r"\[(\d+)\]", model.asked[-1])]
    assert len(numbers) > 2
    assert numbers == sorted(numbers)
