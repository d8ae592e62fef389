"""Quotes with exact spans, in two languages, and the courage to say "not in the documents"."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.answer.searches import finding
from tests.collection.conftest import HashEmbedder
from vivace.answer.extractive import Extractive
from vivace.engine import Collection, Engine
from vivace.errors import EmbeddingError
from vivace.settings import Settings, load
from vivace.types import Answer, Chunk, Document, Hit, Query, SearchResult

HANDBOOK = """# Leaving

The notice period is six weeks to the end of a quarter.
Managers have a notice period of three months.

| a | b |
|---|---|
| 1 | 2 |

# Holidays

Every employee has thirty days of holiday a year. Unused days expire in March.
"""
ZH = "员工的试用期为三个月。试用期内的通知期为两周。年假为三十天。"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def docs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Collection]:
    async with Engine(load(home=str(tmp_path_factory.mktemp("home")))) as engine:
        docs = await engine.open("handbook")
        folder = tmp_path_factory.mktemp("docs")
        (folder / "handbook.md").write_text(HANDBOOK)
        (folder / "zh.txt").write_text(ZH)
        await docs.ingest(folder)
        yield docs


pytestmark = pytest.mark.asyncio(loop_scope="module")


def exact(answer: Answer, documents: dict[str, Document]) -> None:
    """Every citation is the document's own text, and every span shows it."""
    for citation in answer.citations:
        text = documents[citation.chunk.document_id].text
        assert text[citation.start : citation.end] == citation.text
        assert citation.chunk.start <= citation.start < citation.end <= citation.chunk.end
    for span in answer.spans:
        citation = answer.citations[span.citation - 1]
        assert answer.text[span.start : span.end] == " ".join(citation.text.split())


async def by_id(docs: Collection) -> dict[str, Document]:
    found = {}
    for listed, _ in await docs.list():
        document = await docs.get(listed.id)
        assert document is not None
        found[document.id] = document
    return found


async def test_an_english_question_is_answered_by_quotes(docs: Collection) -> None:
    answer = await docs.ask("How long is the notice period?")
    assert answer.found
    assert answer.generator == "extractive"
    assert "no language model wrote them" in answer.text
    assert "six weeks" in answer.citations[0].text
    exact(answer, await by_id(docs))


async def test_a_chinese_question_is_answered_by_quotes(docs: Collection) -> None:
    answer = await docs.ask("试用期有多长？")
    assert answer.found
    assert "并非由语言模型撰写" in answer.text
    assert answer.citations[0].text == "员工的试用期为三个月。"
    exact(answer, await by_id(docs))


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Which spacecraft first landed on a comet?", "The documents do not say."),
        ("火星上有多少座火山？", "文档中没有提到。"),
    ],
)
async def test_questions_that_the_documents_do_not_answer(
    docs: Collection, question: str, text: str
) -> None:
    answer = await docs.ask(question)
    assert not answer.found
    assert answer.text == text
    assert answer.citations == ()


async def test_sentences_are_streamed_and_the_last_delta_has_the_answer(docs: Collection) -> None:
    deltas = [delta async for delta in docs.stream("How many days of holiday are there?")]
    assert len(deltas) >= 3
    answer = deltas[-1].answer
    assert answer is not None
    assert "".join(delta.text for delta in deltas) == answer.text
    assert all(delta.answer is None for delta in deltas[:-1])


async def test_nothing_is_quoted_without_hits() -> None:
    generator = Extractive(HashEmbedder(), Settings())
    assert not (await last(generator, Query("anything"), SearchResult((), 0))).found


async def test_a_failing_embedder_degrades_to_words() -> None:
    embedder = HashEmbedder()
    embedder.broken = True
    with pytest.raises(EmbeddingError):
        await embedder.embed(["x"], kind="query")
    hit = Hit(Chunk("d", "The sky is blue. Grass is green.", 0, 32, id=1), 1.0)
    answer = await last(
        Extractive(embedder, Settings()), Query("is the sky blue"), SearchResult((hit,), 1)
    )
    assert answer.citations[0].text == "The sky is blue."
    assert answer.degraded == ("sentences chosen by words alone: the embedder is broken",)


async def test_overlapping_chunks_are_quoted_once() -> None:
    text = "The sky is blue. The sky is blue."
    hits = (
        Hit(Chunk("d", text[:16], 0, 16, id=1), 1.0),
        Hit(Chunk("d", text, 0, 33, id=2), 0.9),
    )
    generator = Extractive(HashEmbedder(), Settings())
    answer = await last(generator, Query("sky blue"), SearchResult(hits, 1))
    assert [c.text for c in answer.citations] == ["The sky is blue."]


async def last(generator: Extractive, query: Query, result: SearchResult) -> Answer:
    deltas = [delta async for delta in generator.stream(query, finding(result))]
    assert deltas[-1].answer is not None
    return deltas[-1].answer


async def test_markup_is_not_quoted(docs: Collection, tmp_path: Path) -> None:
    answer = await docs.ask("What about leaving?")
    assert not any(c.text.startswith(("#", "|")) for c in answer.citations)
