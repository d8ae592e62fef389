"""A model's answers in the engine: cited, counted, priced, and replaced where there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from tests.answer.searches import finding
from vivace.answer.prompted import Prompted, cost, says_not_found
from vivace.engine import Collection, Engine
from vivace.errors import ModelTimeout, StreamCut
from vivace.server.wire import sources
from vivace.settings import Generate, Settings, load
from vivace.testing.fake_llm import FakeModel
from vivace.testing.faults import Fault
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

HANDBOOK = "# Leaving\n\nThe notice period is six weeks.\n\n# Pay\n\nPay day is the last Friday.\n"
ZH = "员工的试用期为三个月。试用期内的通知期为两周。年假为三十天。"


@pytest.fixture
def fake() -> Iterator[FakeModel]:
    with FakeModel() as fake:
        yield fake


async def opened(engine: Engine, folder: Path) -> Collection:
    (folder / "handbook.md").write_text(HANDBOOK)
    (folder / "zh.txt").write_text(ZH)
    docs = await engine.open("handbook")
    await docs.ingest(folder)
    return docs


def engine(fake: FakeModel, **generate: object) -> Engine:
    return Engine(load(generate={"model": f"openai:fake@{fake.url}", "retries": 0, **generate}))


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("How long is the notice period?", "The notice period is six weeks."),
        ("试用期有多长？", "员工的试用期为三个月。"),
    ],
)
async def test_an_answer_has_citations_usage_and_cost(
    fake: FakeModel, tmp_path: Path, question: str, sentence: str
) -> None:
    async with engine(fake, price_prompt=2.0, price_completion=10.0) as made:
        docs = await opened(made, tmp_path)
        answer = await docs.ask(question)
        assert answer.found
        assert answer.generator == "openai:fake"
        assert answer.degraded == ()
        assert answer.finish_reason == "stop"
        (citation,) = answer.citations
        assert citation.text == sentence
        document = await docs.get(citation.chunk.document_id)
        assert document is not None
        assert document.text[citation.start : citation.end] == sentence
        span = answer.spans[0]
        assert (answer.text[span.start : span.end], span.citation) == (sentence, citation.number)
        usage = answer.usage
        assert usage is not None
        expected = (usage.prompt_tokens * 2 + usage.completion_tokens * 10) / 1e6
        assert answer.cost == pytest.approx(expected)


async def test_a_citation_is_of_the_document_whatever_the_prompt_shows(
    fake: FakeModel, tmp_path: Path
) -> None:
    """Control tokens are broken in the prompt only."""
    sentence = "The notice period <|im_start|> is six [INST] weeks."
    (tmp_path / "evil.txt").write_text(f"Leaving.\n\n{sentence}\n\nThe end.")
    async with engine(fake) as made:
        docs = await made.open("evil")
        await docs.ingest(tmp_path / "evil.txt")
        answer = await docs.ask("How long is the notice period?")
        assert "The notice period < |im_start|> is six [ INST] weeks." in answer.text
        (citation,) = answer.citations
        assert citation.text == sentence
        document = await docs.get(citation.chunk.document_id)
        assert document is not None
        assert document.text[citation.start : citation.end] == sentence


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Which spacecraft first landed on a comet?", "The documents do not say."),
        ("火星上有多少座火山？", "文档中没有提到。"),
    ],
)
async def test_questions_that_the_documents_do_not_answer(
    fake: FakeModel, tmp_path: Path, question: str, text: str
) -> None:
    async with engine(fake) as made:
        answer = await (await opened(made, tmp_path)).ask(question)
        assert not answer.found
        assert answer.text == text
        assert answer.citations == ()


async def test_a_second_question_is_partly_cached(fake: FakeModel, tmp_path: Path) -> None:
    async with engine(fake, price_prompt=10.0, price_cached=1.0) as made:
        docs = await opened(made, tmp_path)
        await docs.ask("How long is the notice period?")
        answer = await docs.ask("When is pay day?")
        assert answer.usage is not None
        assert 0 < answer.usage.cached_tokens < answer.usage.prompt_tokens


async def test_a_dead_server_is_replaced_by_quotes(tmp_path: Path) -> None:
    with FakeModel() as fake:
        made = engine(fake)
    async with made:
        docs = await opened(made, tmp_path)
        answer = await docs.ask("How long is the notice period?")
        assert answer.generator == "extractive"
        assert answer.found
        assert "cannot be reached" in answer.degraded[-1]
        assert "configured" not in answer.text  # one is
        assert answer.usage is None


async def test_a_half_answer_is_not_followed_by_quotes(tmp_path: Path) -> None:
    with FakeModel(faults=[Fault("cut", after=True)]) as fake:
        async with engine(fake) as made:
            docs = await opened(made, tmp_path)
            stream = docs.stream("How long is the notice period?")
            assert (await anext(stream)).text == "The"
            with pytest.raises(StreamCut) as raised:
                await anext(stream)
            assert raised.value.text == "The"


async def test_a_prompt_that_the_server_truncated_is_noted(tmp_path: Path) -> None:
    with FakeModel(context=64) as fake:
        async with engine(fake) as made:
            answer = await (await opened(made, tmp_path)).ask("How long is the notice period?")
            assert any("tokens of a prompt of at least" in note for note in answer.degraded)


class Says:
    """A `Generator` of fixed deltas that keeps what it was asked."""

    name = "says"

    def __init__(self, *deltas: Delta, error: Exception | None = None) -> None:
        self.deltas = deltas
        self.error = error
        self.asked: list[tuple[tuple[Message, ...], int, float]] = []
        self.closed = 0

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        self.asked.append((tuple(messages), max_tokens, temperature))
        try:
            for delta in self.deltas:
                yield delta
            if self.error is not None:
                raise self.error
        finally:
            self.closed += 1

    async def close(self) -> None: ...


RESULT = SearchResult((Hit(Chunk("d", "The sky is blue.", 0, 16, id=1), 1.0),), 1, ("slow",))
STOP = Delta(finish_reason="stop", usage=None)


async def answer_of(model: Says, result: SearchResult = RESULT, **options: object) -> Answer:
    prompted = Prompted(model, Settings(generate=Generate(system="Rhyme.", standalone=False)))
    asked = AnswerOptions(**options)  # type: ignore[arg-type]
    found = [d async for d in prompted.stream(Query("sky?"), finding(result), asked)]
    answer = found[-1].answer
    assert answer is not None
    assert answer.text == "".join(delta.text for delta in found)
    return answer


async def test_notes_follow_those_of_the_search() -> None:
    answer = await answer_of(Says(Delta("Blue [1][4]."), Delta(finish_reason="length")))
    assert answer.degraded == (
        "slow",
        "the answer cites 4, which no passage has",
        "the answer was cut at the most tokens allowed",
    )
    assert (answer.usage, answer.cost, answer.finish_reason) == (None, None, "length")


async def test_options_reach_the_model() -> None:
    model = Says(Delta("Blue [1]."), STOP)
    history = (Message("user", "a"), Message("assistant", "b"))
    await answer_of(model, history=history, system="Be brief.", max_tokens=7, temperature=0.5)
    ((messages, most, temperature),) = model.asked
    assert (most, temperature) == (7, 0.5)
    assert messages[0].content.endswith("Rhyme.\nBe brief.")
    assert messages[1:3] == history


@pytest.mark.parametrize(("asked", "most"), [(None, 9), (7, 7), (1_000_000, 9)])
async def test_max_tokens_is_bounded_by_the_setting(asked: int | None, most: int) -> None:
    model = Says(Delta("Blue [1]."), STOP)
    prompted = Prompted(model, Settings(generate=Generate(max_tokens=9)))
    async for _ in prompted.stream(Query("sky?"), finding(RESULT), AnswerOptions(max_tokens=asked)):
        pass
    assert model.asked[0][1] == most


async def test_parameters_that_the_server_refused_are_noted() -> None:
    answer = await answer_of(Says(Delta("Blue [1]."), Delta(finish_reason="stop", degraded=("x",))))
    assert answer.degraded == ("slow", "x")


async def test_read_counts_the_hits_in_the_prompt() -> None:
    hits = tuple(Hit(Chunk(f"d{n}", f"wor{n} " * 400, 0, 2000, id=n), 1.0) for n in range(9))
    for budget, read in ((1_500, 2), (100_000, 5)):
        prompted = Prompted(
            Says(Delta("a"), STOP), Settings(generate=Generate(context_tokens=budget))
        )
        found = [d async for d in prompted.stream(Query("q"), finding(SearchResult(hits, 1)))]
        answer = found[-1].answer
        assert answer is not None
        assert (len(answer.hits), answer.read) == (9, read)
        assert [source.id for source in sources(answer)] == list(range(read))


async def test_without_hits_the_model_is_not_asked() -> None:
    model = Says(Delta("made up"), STOP)
    answer = await answer_of(model, SearchResult((), 1))
    assert (answer.text, answer.found) == ("The documents do not say.", False)
    assert not model.asked
    history = (Message("user", "a"),)
    assert (await answer_of(model, SearchResult((), 1), history=history)).text == "made up"


async def test_closing_the_stream_closes_the_models() -> None:
    model = Says(Delta("a"), Delta("b"), STOP)
    stream = Prompted(model, Settings()).stream(Query("q"), finding(RESULT))
    await anext(stream)
    await stream.aclose()
    assert model.closed == 1


async def test_words_in_a_target_language_are_not_compared_with_the_documents() -> None:
    answer = await answer_of(Says(Delta("Le ciel est bleu [1]."), STOP), target_language="fr")
    assert (answer.support, answer.degraded) == ((), ("slow",))
    answer = await answer_of(Says(Delta("Le ciel est bleu [1]."), STOP))
    assert answer.degraded == ("slow", "1 of 1 sentences: no passage supports them")


async def test_without_quoting_the_error_is_raised() -> None:
    with pytest.raises(ModelTimeout):
        await answer_of(Says(error=ModelTimeout("late")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The documents do not say.", True),
        ("**The documents do not say**", True),
        ("文档中没有提到", True),
        ("", True),
        ("The documents say that it is blue.", False),
    ],
)
def test_says_not_found(text: str, expected: bool) -> None:
    assert says_not_found(text) is expected


def test_cost_by_the_prices_set() -> None:
    usage = Usage(1_000_000, 100_000, 400_000)
    assert cost(usage, Generate()) is None
    assert cost(None, Generate(price_prompt=1)) is None
    prices = Generate(price_prompt=1, price_cached=0.5, price_completion=10)
    assert cost(usage, prices) == pytest.approx(0.6 + 0.2 + 1)
    assert cost(usage, Generate(price_prompt=1)) == pytest.approx(1)
