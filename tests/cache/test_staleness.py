"""Whatever changes, and wherever: what is remembered is what would be found and answered now.

Every question is asked of an engine with caches and then, over the very same collection, without
them. All engines of a history share one memory, as processes share a tier: what one configuration
keeps is there when the next one asks.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Awaitable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.cache.changing import WORDS, Elsewhere, change, engine, settings_of
from vivace.cache.adaptation import make_policy
from vivace.cache.memory import Memory
from vivace.engine import Collection, Engine
from vivace.errors import VivaceError
from vivace.trace import Trace
from vivace.types import Answer, Query, SearchResult

T = TypeVar("T")
PLACES = ("a", "b")
_AGAIN = 4
CAPACITY = 4 << 20
COUNTED: Counter[str] = Counter()
"""Over all histories: a cache that never remembers anything is never stale."""

places = st.sampled_from(PLACES)
numbers = st.integers(0, 5)
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)
changes = st.sampled_from(["put", "put", "put", "recolour", "delete", "plan", "rebuild"])
queries = st.sampled_from(
    [
        Query("ash", 3),
        Query("ash", 1),
        Query("Ash birch cedar", 3),
        Query('"ash birch"', 3),
        Query("elm -fir", 10),
        Query("ash", 3, filters={"colour": "red"}),
        Query("ash", 3, filters={"colour": "blue"}),
        Query("ash", 3, min_score=0.6),
    ]
)


class Histories(RuleBasedStateMachine):
    elsewhere: Elsewhere

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.home = Path(tempfile.mkdtemp())
        self.now = 0.0
        self.steps = 0
        self.memory = Memory(CAPACITY, make_policy("lru", CAPACITY), clock=lambda: self.now)
        self.stack = ExitStack()
        # how long another process's plan may go unnoticed is not what is tried here
        patch = self.stack.enter_context
        patch(mock.patch("vivace.collection.plan_state.POLL_SECONDS", 0.0))
        patch(mock.patch("vivace.engine.caching.Memory", return_value=self.memory))
        self.asked: deque[tuple[str, Query]] = deque(maxlen=_AGAIN)
        self.made: dict[str, Any] = {}
        self.salt, self.model = "s0", "m0"
        self.run(self.open())

    def run(self, work: Any) -> Any:
        self.steps += 1
        return self.runner.run(work)

    async def open(self) -> None:
        cached, plain = settings_of(**self.made), settings_of(cache={"memory_mib": 0}, **self.made)
        self.engine: Engine = engine(cached, self.salt, self.model)
        self.plain: Engine = engine(plain, self.salt, self.model)
        self.docs: dict[str, Collection] = {
            place: await self.engine.open(self.home / place) for place in PLACES
        }

    async def close(self) -> None:
        await self.engine.close()
        await self.plain.close()

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            for kind, counts in self.memory.statistics().kinds.items():
                COUNTED[kind] += counts.hits
            self.run(self.close())
            self.runner.close()
            self.stack.close()
            shutil.rmtree(self.home)

    # -- what changes -------------------------------------------------------------------------

    @rule(place=places, what=changes, number=numbers, words=words)
    def change_here(self, place: str, what: str, number: int, words: list[str]) -> None:
        self.run(change(self.docs[place], what, number, words))
        self.ask_again()

    @rule(place=places, what=changes, number=numbers, words=words)
    def change_elsewhere(self, place: str, what: str, number: int, words: list[str]) -> None:
        self.elsewhere.do(self.home / place, self.salt, what, number, words)
        self.ask_again()

    @rule(place=places, what=changes, number=numbers, words=words, query=queries)
    def change_while_asking(
        self, place: str, what: str, number: int, words: list[str], query: Query
    ) -> None:
        docs = self.docs[place]

        async def both() -> None:
            asked = [_tried(docs.search(query)) for _ in range(5)]
            await asyncio.gather(*asked[:4], change(docs, what, number, words), asked[4])

        self.run(both())
        self.ask(place, query)
        self.ask_again()

    @rule(
        made=st.fixed_dictionaries(
            {},
            optional={
                "search": st.fixed_dictionaries(
                    {},
                    optional={
                        "keyword_weight": st.sampled_from([0.1, 0.9]),
                        "mmr": st.sampled_from([0.0, 0.5]),
                        "distinct": st.booleans(),
                        "fusion": st.sampled_from(["rrf", "dense"]),
                    },
                ),
                "generate": st.fixed_dictionaries(
                    {"system": st.sampled_from(["", "Be brief."])},
                    optional={"max_tokens": st.just(77)},
                ),
                "answer": st.fixed_dictionaries({"passages": st.sampled_from([1, 2])}),
            },
        ),
        model=st.sampled_from(["m0", "m1"]),
    )
    def other_settings(self, made: dict[str, Any], model: str) -> None:
        self.run(self.close())
        self.made, self.model = made, model
        self.run(self.open())
        self.ask_again()

    # it takes as long as all others together
    @precondition(lambda self: self.steps % 5 == 0)
    @rule(salt=st.sampled_from(["s0", "s1"]))
    def another_embedder(self, salt: str) -> None:
        async def reembed() -> None:
            await self.close()
            async with engine(settings_of(cache={"memory_mib": 0}), salt, "none") as made:
                for place in PLACES:
                    await made.reembed(self.home / place)
            self.salt = salt
            await self.open()

        self.run(reembed())
        self.ask_again()

    @rule(place=places)
    def another_collection_in_its_place(self, place: str) -> None:
        self.run(self.close())
        shutil.rmtree(self.home / place)
        self.run(self.open())
        self.ask_again()

    @rule(seconds=st.sampled_from([4.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # -- what must be true --------------------------------------------------------------------

    def ask_again(self) -> None:
        """The newest questions: what changed since may have changed what is found for them."""
        for place, query in list(self.asked):
            self.ask(place, query)
        for place, query in list(self.asked)[-2:]:
            self.answer(place, query)

    @rule(place=places, query=queries)
    def ask(self, place: str, query: Query) -> None:
        if (place, query) not in self.asked:
            self.asked.append((place, query))
        docs = self.docs[place]

        async def asked() -> list[SearchResult | VivaceError]:
            plain = self.plain.resources.searcher(docs.corpus, Trace())
            return [await _tried(one.search(query)) for one in (docs, plain, docs)]

        first, true, again = map(_plain, self.run(asked()))
        assert first == true == again, (first, true, again)

    @rule(place=places, several=st.lists(queries, min_size=1, max_size=5))
    def ask_many(self, place: str, several: list[Query]) -> None:
        docs = self.docs[place]

        async def asked() -> tuple[list[Any], list[Any]]:
            plain = self.plain.resources.searcher(docs.corpus, Trace())
            found = await docs.search_many(several)
            return found, await plain.search_many(several)

        found, true = self.run(asked())
        assert [_plain(each) for each in found] == [_plain(each) for each in true]

    @rule(place=places, query=queries)
    def answer(self, place: str, query: Query) -> None:
        docs = self.docs[place]

        async def true() -> Answer:
            search = self.plain.resources.searcher(docs.corpus, Trace()).search
            answerer = self.plain.resources.answerer(docs.corpus, Trace(), docs.record, nullcontext)
            deltas = answerer.stream(query, search)
            return [delta.answer async for delta in deltas if delta.answer][-1]

        async def asked() -> list[Answer | VivaceError]:
            return [await _tried(one) for one in (docs.ask(query), true(), docs.ask(query))]

        first, uncached, again = map(_said, self.run(asked()))
        assert first == uncached == again, (first, uncached, again)


async def _tried(work: Awaitable[T]) -> T | VivaceError:
    try:
        return await work
    except VivaceError as error:
        return error


def _plain(result: SearchResult | VivaceError) -> Any:
    """Without the last bits of the scores: a batch is multiplied in another order."""
    if isinstance(result, VivaceError):
        return str(result)
    hits = [
        (
            hit.chunk,
            round(hit.score, 4),
            {name: round(score, 4) for name, score in hit.stages.items()},
        )
        for hit in result.hits
    ]
    return hits, result.epoch, result.degraded


def _said(answer: Answer | VivaceError) -> Any:
    if isinstance(answer, VivaceError):
        return str(answer)
    citations = [(c.number, c.chunk, c.text) for c in answer.citations]
    return answer.text, citations, answer.degraded, answer.found, answer.support


@pytest.mark.timeout(300)
def test_no_history_shows_what_is_stale_or_foreign() -> None:
    COUNTED.clear()
    Histories.elsewhere = Elsewhere()
    try:
        run_state_machine_as_test(
            Histories,
            settings=settings(
                max_examples=15,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        Histories.elsewhere.close()
    assert all(COUNTED[kind] > 5 for kind in ("search", "answer", "embedding")), COUNTED
