"""Where a search runs, and what it does without an embedding."""

from __future__ import annotations

import asyncio

import pytest

from tests.retrieve.world import TEXTS, Source, Words, world
from vivace.errors import DeadlineExceeded, Overloaded, VivaceError
from vivace.run.work import work_context
from vivace.types import Embedded, Query


@pytest.mark.parametrize("count", [1, 5])
async def test_a_question_that_cannot_be_embedded_is_searched_by_its_words(count: int) -> None:
    with world() as w:
        # from the third one at once, a question continues on the embedding's thread
        searches = [w.searcher.search(Query("poison apple", explain=True)) for _ in range(count)]
        results = await asyncio.gather(*searches)
        assert w.trace.counters()["search.embedding_failed"] == count
    for result in results:
        assert result.degraded == ("dense side skipped: it is poisoned",)
        assert result.hits
        assert "embed" not in result.stages
        assert result.hits[0].stages.keys() == {"bm25"}


async def test_several_at_once_find_the_same_as_one() -> None:
    queries = [Query(text, k=4) for text in TEXTS]
    with world(source=Source(signed=True)) as w:
        together = await asyncio.gather(*map(w.searcher.search, queries))
        assert together == [await w.searcher.search(query) for query in queries]


class Refusing(Words):
    """Has no time to embed: the deadline passes in its queue."""

    async def embed(self, texts: object, *, kind: object) -> Embedded:
        raise DeadlineExceeded("embedding: too late", fix="Allow more time")


async def test_a_deadline_that_passes_in_the_embedders_queue_skips_the_dense_side() -> None:
    with world(embedder=Refusing()) as w:
        result = await w.searcher.search(Query("red apple", deadline=30.0))
        assert w.trace.counters()["search.embedding_late"] == 1
        assert result.hits
        with pytest.raises(DeadlineExceeded):  # without a deadline it is none of the search's
            await w.searcher.search(Query("red apple"))


@pytest.mark.parametrize("count", [1, 5])
async def test_a_cancelled_search_ends(count: int) -> None:
    words = Words()
    words.never = True
    with world(embedder=words) as w:
        tasks = [asyncio.create_task(w.searcher.search(Query("red apple"))) for _ in range(count)]
        await words.asleep.wait()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        words.never = False
        assert (await w.searcher.search(Query("red apple"))).hits


async def test_a_bad_filter_is_the_error_whatever_the_embedding_does() -> None:
    with world() as w:
        for text in ("red apple", "poison apple"):
            with pytest.raises(VivaceError, match="no such key"):
                await w.searcher.search(Query(text, filters={"x": 1}))


async def test_many_after_their_deadline_are_errors_each() -> None:
    with world() as w:
        results = await w.searcher.search_many([Query("red"), Query("apple", deadline=1e-9)])
    assert not isinstance(results[0], VivaceError)
    assert isinstance(results[1], DeadlineExceeded | Overloaded)
    with world() as w, work_context(seconds=0.0):
        results = await w.searcher.search_many([Query("red")] * 3)
    assert all(isinstance(result, DeadlineExceeded) for result in results)
