"""Semantic answers around a real collection: what they depend on, and when they are forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vivace.engine import Engine
from vivace.settings import load
from vivace.types import AnswerOptions, Document, Message, Query

TOWER = Document(
    "tower", "The Eiffel Tower was completed in 1889. It stands in Paris.", metadata={"lang": "en"}
)
OTHER = Document("other", "Bread is baked from flour, water and salt.")
FIRST = "When was the Eiffel Tower completed?"
EQUAL = "when was the eiffel tower completed"


async def test_an_equal_question_gets_the_answer_until_its_passage_changes(tmp_path: Path) -> None:
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


async def test_it_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
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


async def test_clearing_the_cache_forgets_them(tmp_path: Path) -> None:
    async with Engine(load(cache__semantic=True)) as engine:
        docs = await engine.open(tmp_path / "docs")
        await docs.add([TOWER, OTHER])
        await docs.ask(FIRST)
        assert (await docs.ask(FIRST)).cached == "semantic"
        await engine.caching.clear()
        assert (await docs.ask(FIRST)).cached == ""
