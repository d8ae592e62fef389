"""What an answer says that the passages do not, and what the documents do not hold."""

from __future__ import annotations

import asyncio

import pytest

from tests.answer.searches import finding
from tests.answer.test_prompted import STOP, Says
from vivace.answer.grounding import (
    claims,
    contradictions,
    grounded,
    likelihood,
    numbers,
    unknown_names,
)
from vivace.answer.prompted import Prompted
from vivace.generate.compression import whole_passages
from vivace.settings import Answering, Settings
from vivace.types import Chunk, Delta, Hit, Query, SearchResult

EN = (
    "Marie Curie was born in Warsaw in 1867. She was the first woman to win a Nobel Prize. "
    "The institute did not publish its 1,200 reports."
)
ZH = "玛丽·居里于1867年出生在华沙。她是第一位获得诺贝尔奖的女性。研究所没有公开报告。"


def hit(text: str, number: int = 1, **stages: float) -> Hit:
    return Hit(Chunk("d", text, 0, len(text), id=number), 1.0, stages)


@pytest.mark.parametrize(
    ("text", "answer", "reason"),
    [
        (EN, "Marie Curie was born in Warsaw [1].", ""),
        (EN, "Marie Curie was born in 1867 in Warsaw.", ""),
        (EN, "Marie Curie was born in Vienna in 1867.", "name"),
        (EN, "Marie Curie was born in Warsaw in 1876.", "number"),
        (EN, "Marie Curie was not born in Warsaw.", "negation"),
        (EN, "The institute did publish its 1200 reports.", "negation"),
        (EN, "The institute didn't publish its 1200 reports.", ""),
        (EN, "Bread rises because yeast makes gas.", "words"),
        (ZH, "玛丽·居里出生在华沙[1]。", ""),
        (ZH, "玛丽·居里于1867年出生在维也纳。", "name"),
        (ZH, "玛丽·居里于1876年出生在华沙。", "number"),
        (ZH, "她不是第一位获得诺贝尔奖的女性。", "negation"),
        (ZH, "研究所公开报告。", "negation"),
        (ZH, "今天的天气非常炎热。", "words"),
    ],
)
async def test_why_a_sentence_is_not_supported(text: str, answer: str, reason: str) -> None:
    (one,) = await grounded(answer, whole_passages([hit("Something else."), hit(text, 7)]))
    assert (one.supported, one.reason) == (not reason, reason)
    assert answer[one.start : one.end] == answer
    if reason != "words":
        assert one.chunk == 7


def test_citations_and_punctuation_claim_nothing() -> None:
    assert claims("One [1]. [2] — Two.") == [(0, 8), (9, 19)] or len(claims("[1]\n—")) == 0


def test_numbers_are_compared_in_one_notation() -> None:
    assert numbers("1,200 and 3.50 and twelve") == {"1200", "3.5", "12"}
    assert numbers("一九八四年有二十人，一万二千册") == {"1984", "20", "12000"}
    assert not unknown_names("Located in Paris", "It is in Paris.")
    assert contradictions("It is blue.", "It is not blue.")


async def test_unsupported_sentences_are_marked_and_noted() -> None:
    text = "The sky is blue [1]. The sky was painted by Rubens in 1640 [1]."
    made = Prompted(Says(Delta(text), STOP), Settings())
    result = SearchResult((hit("The sky is blue."),), 1)
    answer = [d async for d in made.stream(Query("sky?"), finding(result))][-1].answer
    assert answer is not None
    assert [one.supported for one in answer.support] == [True, False]
    assert answer.degraded == ("1 of 2 sentences: no passage supports them",)
    off = Prompted(Says(Delta(text), STOP), Settings(answer=Answering(ground=False)))
    answer = [d async for d in off.stream(Query("sky?"), finding(result))][-1].answer
    assert answer is not None
    assert (answer.support, answer.degraded) == ((), ())


async def test_questions_about_something_else_are_refused_below_the_setting() -> None:
    right, wrong = "Where was Marie Curie born?", "What lift does a swept wing have?"
    found, other = (hit(EN, cosine=0.7), hit(EN, cosine=0.05))
    likely, unlikely = likelihood(right, [found]), likelihood(wrong, [other])
    assert likely is not None
    assert unlikely is not None
    assert likely > 0.9
    assert unlikely < 0.1
    assert likelihood(right, []) is None
    for below, asked in ((0.0, 1), (0.5, 0)):
        model = Says(Delta("x [1]"), STOP)
        made = Prompted(model, Settings(answer=Answering(refuse_below=below)))
        deltas = [d async for d in made.stream(Query(wrong), finding(SearchResult((other,), 1)))]
        answer = deltas[-1].answer
        assert answer is not None
        assert (len(model.asked), answer.found) == (asked, bool(asked))
        assert answer.answerable == unlikely


async def test_grounding_lets_other_tasks_run_meanwhile() -> None:
    text = " ".join(f"Fact number {n} about the harbour of Kiel is old." for n in range(200))
    excerpts = whole_passages([hit(text, rank) for rank in range(3)])
    answer = "Fact number 7 about the harbour of Kiel is old. The harbour of Rome is new."
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    found = await grounded(answer, excerpts)
    task.cancel()
    assert [one.supported for one in found] == [True, False]
    assert turns > 3
