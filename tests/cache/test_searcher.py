"""Results are remembered under all they depend on, and only good ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from tests.cache.turns import until
from vivace.cache.adaptation import make_policy
from vivace.cache.memory import Memory
from vivace.cache.namespace import CacheNamespace
from vivace.cache.searcher import CachedSearcher
from vivace.cache.values import SEARCH
from vivace.errors import BadFilter, DeadlineExceeded, VivaceError
from vivace.run.work import Priority, work_context
from vivace.types import Chunk, Hit, Plan, Query, SearchResult, Stage


@dataclass(frozen=True)
class SearchState:
    epoch: int = 1
    plan: Plan | None = None
    shape: tuple[str, ...] = ()


@dataclass
class Inner:
    """A `Searcher` that finds the question itself, and says in the score how often it searched."""

    state: SearchState | None = field(default_factory=SearchState)
    runs: int = 0
    asked: list[Query] = field(default_factory=list)
    degraded: tuple[str, ...] = ()
    empty: bool = False
    error: VivaceError | None = None
    go: asyncio.Event | None = None
    changes_to: SearchState | None = None

    async def search(self, query: Query) -> SearchResult:
        self.runs += 1
        self.asked.append(query)
        epoch = self.state.epoch if self.state else 0
        run = self.runs
        if self.go is not None:
            await self.go.wait()
        if self.error is not None:
            raise self.error
        if self.changes_to is not None:
            self.state, self.changes_to = self.changes_to, None
        hit = Hit(Chunk("d", query.text, id=1), float(run), {"cosine": 1.0})
        stages = {"fuse": Stage(1, 1.0)} if query.explain else {}
        return SearchResult(() if self.empty else (hit,), epoch, self.degraded, stages)

    async def search_many(self, queries: Sequence[Query]) -> list[SearchResult | VivaceError]:
        results: list[SearchResult | VivaceError] = []
        for query in queries:
            try:
                results.append(await self.search(query))
            except VivaceError as error:
                results.append(error)
        return results


class World:
    def __init__(self, **inner: Any) -> None:
        self.now = 0.0
        self.inner = Inner(**inner)
        self.memory = Memory(1 << 20, make_policy("lru", 1 << 20), clock=lambda: self.now, jitter=0)
        self.results: CacheNamespace[SearchResult] = self.memory.namespace(SEARCH)
        self.searcher = self.another("one")

    def another(self, uuid: str) -> CachedSearcher:
        return CachedSearcher(
            self.inner,
            self.results,
            lambda: self.inner.state,
            scope=(uuid, "cosine", "words"),
            seconds=100,
            negative_seconds=5,
        )

    async def run(self, query: Query | str, searcher: CachedSearcher | None = None) -> int:
        """Which run of the inner searcher the result is of."""
        query = Query(query) if isinstance(query, str) else query
        return int((await (searcher or self.searcher).search(query)).hits[0].score)


async def test_the_same_question_is_searched_once() -> None:
    w = World()
    assert [await w.run("red") for _ in range(3)] == [1, 1, 1]
    assert await w.run(" red\n") == 1
    assert w.inner.asked[0].text == "red"
    counts = w.memory.statistics().kinds[SEARCH]
    assert (counts.hits, counts.misses) == (3, 1)


VECTOR = np.ones(4, np.float32)
PLAIN = Query("red", 5)


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAIN, text="Red"),
        replace(PLAIN, k=6),
        replace(PLAIN, filters={"a": 1}),
        replace(PLAIN, filters={"a": "1"}),
        replace(PLAIN, filters={"a": True}),
        replace(PLAIN, filters={"a": {"$gte": 1}}),
        replace(PLAIN, min_score=0.0),
        replace(PLAIN, min_score=0.5),
        replace(PLAIN, vector=VECTOR),
        replace(PLAIN, vector=2 * VECTOR),
        replace(PLAIN, text="", vector=VECTOR),
    ],
)
async def test_what_differs_is_another_question(other: Query) -> None:
    w = World()
    assert [await w.run(PLAIN), await w.run(other)] == [1, 2]
    assert [await w.run(PLAIN), await w.run(other)] == [1, 2]


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAIN, user="somebody"),
        replace(PLAIN, deadline=1e6),
        replace(PLAIN, filters={}),
        replace(PLAIN, text="red "),
    ],
)
async def test_what_makes_no_difference_is_the_same(other: Query) -> None:
    w = World()
    assert [await w.run(PLAIN), await w.run(other)] == [1, 1]


async def test_filters_are_the_same_in_any_order() -> None:
    w = World()
    assert await w.run(replace(PLAIN, filters={"a": 1, "b": 2})) == 1
    assert await w.run(replace(PLAIN, filters={"b": 2, "a": 1})) == 1


@pytest.mark.parametrize(
    "state",
    [
        SearchState(2),
        SearchState(plan=Plan("pq")),
        SearchState(plan=Plan("pq", effort=3)),
        SearchState(shape=("s",)),
    ],
)
async def test_another_state_is_another_result(state: SearchState) -> None:
    w = World()
    before = w.inner.state
    assert await w.run("red") == 1
    w.inner.state = state
    assert [await w.run("red"), await w.run("red")] == [2, 2]
    w.inner.state = before  # such as a plan that was put back
    assert await w.run("red") == 1


async def test_collections_share_nothing() -> None:
    w = World()
    other = w.another("other")
    assert [await w.run("red"), await w.run("red", other), await w.run("red")] == [1, 2, 1]


async def test_behind_other_processes_nothing_is_remembered() -> None:
    w = World()
    assert await w.run("red") == 1
    w.inner.state = None
    assert [await w.run("red"), await w.run("red")] == [2, 3]


async def test_what_was_found_while_the_state_changed_is_not_kept() -> None:
    w = World()
    w.inner.changes_to = SearchState(1, Plan("pq"))
    assert await w.run("red") == 1
    assert await w.run("red") == 2
    w.inner.state = SearchState()
    assert await w.run("red") == 3


async def test_of_an_older_epoch_nothing_is_kept() -> None:
    w = World()
    current = SearchState(5)
    searcher = CachedSearcher(
        w.inner, w.results, lambda: current, scope=("x",), seconds=9, negative_seconds=9
    )
    assert [await w.run("red", searcher), await w.run("red", searcher)] == [1, 2]


async def test_degraded_results_and_errors_are_not_kept() -> None:
    w = World(degraded=("less effort",))
    assert [await w.run("red"), await w.run("red")] == [1, 2]
    w.inner.degraded = ()
    w.inner.error = BadFilter("no such key", fix="Use another")
    for _ in range(2):
        with pytest.raises(BadFilter):
            await w.run("red")
    assert w.inner.runs == 4


async def test_nothing_found_is_remembered_for_a_short_time() -> None:
    w = World(empty=True)
    for _ in range(3):
        assert (await w.searcher.search(Query("red"))).hits == ()
    assert w.inner.runs == 1
    w.now = 6
    await w.searcher.search(Query("red"))
    assert w.inner.runs == 2


async def test_who_asks_how_long_it_took_is_told_of_this_search() -> None:
    w = World()
    assert await w.run("red") == 1
    for run in (2, 3):
        result = await w.searcher.search(Query("red", explain=True))
        assert result.stages
        assert result.hits[0].score == run
    assert await w.run("red") == 1


async def test_what_a_caller_changes_is_his_own() -> None:
    w = World()
    for _ in range(3):
        stages = (await w.searcher.search(Query("red"))).hits[0].stages
        assert stages == {"cosine": 1.0}
        assert isinstance(stages, dict)
        stages["cosine"] = 0.0


async def test_who_asks_again_and_again_lets_others_have_their_turn() -> None:
    w = World()
    turns = 0

    async def other() -> None:
        nonlocal turns
        for _ in range(100):
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    for _ in range(200):
        await w.run("red")
    assert turns > 10
    await beside


async def test_a_hundred_at_once_are_one_search() -> None:
    w = World(go=asyncio.Event())
    tasks = [asyncio.create_task(w.run("red")) for _ in range(100)]
    await asyncio.sleep(0)
    assert w.inner.go is not None
    w.inner.go.set()
    assert await asyncio.gather(*tasks) == [1] * 100
    assert w.memory.statistics().kinds[SEARCH].shared == 99


async def test_a_degraded_search_is_not_shared() -> None:
    w = World(go=asyncio.Event(), degraded=("less effort",))
    tasks = [asyncio.create_task(w.run("red")) for _ in range(4)]
    await asyncio.sleep(0)
    assert w.inner.go is not None
    w.inner.go.set()
    assert sorted(await asyncio.gather(*tasks)) == [1, 2, 3, 4]


async def test_somebodys_deadline_is_not_everybodys() -> None:
    w = World(go=asyncio.Event(), error=DeadlineExceeded("late", fix="Wait"))
    tasks = [asyncio.create_task(w.run("red")) for _ in range(3)]
    await asyncio.sleep(0)
    assert w.inner.go is not None
    w.inner.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert w.inner.runs == 3


async def test_who_is_in_a_hurry_does_not_wait_for_who_is_not() -> None:
    w = World(go=asyncio.Event())
    with work_context(Priority.BACKGROUND):
        slow = asyncio.create_task(w.run("red"))
    urgent = asyncio.create_task(w.run("red"))
    with work_context(seconds=0.0):
        late = asyncio.create_task(w.run("red"))
    await until(lambda: w.inner.runs == 3)
    assert w.inner.go is not None
    w.inner.go.set()
    assert sorted([await slow, await urgent, await late]) == [1, 2, 3]


async def test_of_many_the_new_ones_are_searched_together() -> None:
    w = World()
    await w.run("a")
    results = await w.searcher.search_many([Query(text) for text in ("b", "a", "c", "b")])
    assert [query.text for query in w.inner.asked] == ["a", "b", "c"]
    texts = [r.hits[0].chunk.text for r in results if isinstance(r, SearchResult)]
    assert texts == ["b", "a", "c", "b"]
    await w.searcher.search_many([Query("b"), Query("c")])
    assert w.inner.runs == 3


async def test_many_are_of_one_state() -> None:
    w = World()
    await w.run("a")
    current = SearchState(1)
    w.inner.state = SearchState(2)
    searcher = CachedSearcher(
        w.inner,
        w.results,
        lambda: current,
        scope=("one", "cosine", "words"),
        seconds=9,
        negative_seconds=9,
    )
    results = await searcher.search_many([Query("a"), Query("b")])
    assert [r.epoch for r in results if isinstance(r, SearchResult)] == [2, 2]
