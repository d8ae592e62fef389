"""The semantic cache around an answerer: what is repeated, and until when."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.answer.searches import finding
from tests.collection.conftest import HashEmbedder
from vivace.answer.semantic import SemanticAnswerer
from vivace.cache.semantic.cache import SharedBudget
from vivace.engine import Engine
from vivace.errors import BadQuery
from vivace.generate.templates import ResolvedTemplate, resolve
from vivace.protocols import Answerer, Kind, Search
from vivace.settings import Settings, load
from vivace.trace import Trace
from vivace.types import (
    Answer,
    AnswerOptions,
    Chunk,
    Delta,
    Document,
    Embedded,
    Hit,
    Message,
    Query,
    SearchResult,
)

PLAIN = AnswerOptions()

TOWER = Document(
    "tower", "The Eiffel Tower was completed in 1889. It stands in Paris.", metadata={"lang": "en"}
)
OTHER = Document("other", "Bread is baked from flour, water and salt.")
FIRST = "When was the Eiffel Tower completed?"
EQUAL = "when was the eiffel tower completed"


async def test_an_equal_question_repeats_the_answer_until_its_passage_changes(
    tmp_path: Path,
) -> None:
    async with Engine(load(cache__semantic=True)) as engine:
        docs = await engine.open(tmp_path / "docs")
        await docs.add([TOWER, OTHER])
        first = await docs.ask(FIRST)
        assert first.cached == ""
        again = await docs.ask(EQUAL)
        assert (again.cached, again.cached_question) == ("semantic", FIRST)
        assert again.text == first.text
        texts = [delta.text async for delta in docs.stream(EQUAL)]
        assert "".join(texts) == first.text

        assert (await docs.ask(EQUAL, k=3)).cached == ""
        assert (await docs.ask(EQUAL, filters={"lang": "en"})).cached == ""
        assert (await docs.ask(EQUAL, options=AnswerOptions(system="Be brief."))).cached == ""
        follows = AnswerOptions(history=(Message("user", "Hi"), Message("assistant", "Hello")))
        assert (await docs.ask(EQUAL, options=follows)).cached == ""
        assert (await docs.ask(EQUAL, options=AnswerOptions(temperature=0.7))).cached == ""
        assert (await docs.ask(Query(EQUAL, explain=True))).cached == ""

        await docs.add([Document("third", "Nothing of any tower.")])
        assert (await docs.ask(EQUAL)).cached == "semantic"
        await docs.add([replace(TOWER, text=TOWER.text.replace("1889", "1890"))])
        fresh = await docs.ask(EQUAL)
        assert fresh.cached == ""
        assert "1890" in fresh.text
        await docs.delete("tower")
        assert (await docs.ask(EQUAL)).cached == ""


async def test_the_semantic_cache_is_off_by_default(tmp_path: Path) -> None:
    async with Engine(load()) as engine:
        docs = await engine.open(tmp_path / "docs")
        await docs.add([TOWER])
        await docs.ask(FIRST)
        assert (await docs.ask(FIRST)).cached == ""


async def test_a_passage_that_a_filter_no_longer_admits_is_not_quoted(tmp_path: Path) -> None:
    async with Engine(load(cache__semantic=True)) as engine:
        docs = await engine.open(tmp_path / "docs")
        await docs.add([TOWER, OTHER])
        assert (await docs.ask(FIRST, filters={"lang": "en"})).found
        assert (await docs.ask(FIRST, filters={"lang": "en"})).cached == "semantic"
        await docs.add([replace(TOWER, metadata={"lang": "fr"})])
        now = await docs.ask(FIRST, filters={"lang": "en"})
        assert now.cached == ""
        assert not any(hit.chunk.document_id == "tower" for hit in now.hits)


async def test_clearing_the_cache_forgets_semantic_answers(tmp_path: Path) -> None:
    async with Engine(load(cache__semantic=True)) as engine:
        docs = await engine.open(tmp_path / "docs")
        await docs.add([TOWER, OTHER])
        await docs.ask(FIRST)
        assert (await docs.ask(FIRST)).cached == "semantic"
        await engine.resources.caching.clear()
        assert (await docs.ask(FIRST)).cached == ""


class Plain:
    """An answerer without templates."""

    name = "plain"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closed = False

    async def stream(
        self, query: Query, search: Search, options: AnswerOptions = PLAIN
    ) -> AsyncIterator[Delta]:
        self.asked.append(query.text)
        result = await search(query)
        yield Delta("Made.")
        yield Delta(answer=Answer("Made.", result.hits))

    async def close(self) -> None:
        self.closed = True


CHUNK = Chunk("tower", TOWER.text, 0, len(TOWER.text), id=1)


def around(answerer: Answerer, embedder: HashEmbedder) -> SemanticAnswerer:
    return SemanticAnswerer(
        answerer,
        embedder,
        lambda ids: {CHUNK.id: CHUNK},
        Settings(),
        trace=Trace(),
        decide=lambda decision: None,
        room=SharedBudget(1 << 20),
        in_flight=nullcontext,
    )


async def answer_of(answerer: Answerer, query: Query, search: Search) -> Answer:
    return [delta.answer async for delta in answerer.stream(query, search) if delta.answer][-1]


async def test_any_answerer_can_be_wrapped() -> None:
    inner, search = Plain(), finding(SearchResult((Hit(CHUNK, 1.0),), 1))
    made = around(inner, HashEmbedder())
    assert (await answer_of(made, Query(FIRST), search)).text == "Made."
    assert (await answer_of(made, Query(EQUAL), search)).cached == "semantic"
    assert inner.asked == [FIRST]
    await made.close()
    assert inner.closed


@pytest.mark.parametrize("question", ["", "word " * 10_000])
async def test_a_question_that_the_search_refuses_is_not_embedded(question: str) -> None:
    class Counting(HashEmbedder):
        calls = 0

        async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
            self.calls += 1
            return await super().embed(texts, kind=kind)

    async def refusing(query: Query) -> SearchResult:
        raise BadQuery("refused")

    embedder = Counting()
    made = around(Plain(), embedder)
    with pytest.raises(BadQuery):
        await answer_of(made, Query(question), refusing)
    assert not embedder.calls
    await made.close()


@pytest.mark.parametrize("semantic", [True, False])
async def test_the_template_is_resolved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, semantic: bool
) -> None:
    resolved: list[Query] = []

    def counting(query: Query, *rest: Any) -> ResolvedTemplate:
        resolved.append(query)
        return resolve(query, *rest)

    monkeypatch.setattr("vivace.answer.templated.resolve", counting)
    async with Engine(load(cache__semantic=semantic)) as engine:
        docs = await engine.open(tmp_path / "docs")
        await docs.add([TOWER])
        await docs.ask(FIRST)
        assert len(resolved) == 1
