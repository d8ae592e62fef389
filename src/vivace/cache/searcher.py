"""Results of searches, for as long as nothing that they depend on has changed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from vivace.cache.kept import SEARCH
from vivace.cache.keys import key
from vivace.cache.memory import Memory
from vivace.errors import DeadlineExceeded, Overloaded, VivaceError
from vivace.protocols import Searcher
from vivace.run.work import current
from vivace.types import Hit, Plan, Query, SearchResult

_OWN: Final = (DeadlineExceeded, Overloaded)
"""Errors of one question's time and turn, which say nothing about another's."""
_PATIENCE: Final = 0.5
"""Share of its time that a question with a deadline waits for another's result: what is left has
to do for a search of its own, with fewer steps."""
_TURN: Final = 16
"""Hits, some 0.5 ms of them, after which the event loop has its turn: a hit waits for nothing, and
who asks again and again would keep everybody else from it."""


class SearchState(Protocol):
    """What would be searched now."""

    @property
    def epoch(self) -> int: ...

    @property
    def plan(self) -> Plan | None: ...

    @property
    def shape(self) -> tuple[str, ...]:
        """Names of its indexes: others of the same rows may find others of them."""
        ...


class CachedSearcher:
    """A `Searcher` over one collection that remembers what it found.

    A result is kept under everything it depends on: the collection, its epoch, plan and indexes,
    the settings of the search, and the question with its k, filters, least score and vector.
    Nothing has to be forgotten when one of them changes. Deadline and user are no part of it: a
    result that was degraded for want of time, or anything else, is not kept, nor one that was found
    while the state changed. A question to be explained is always searched: it asks how long this
    search took.

    Args:
        standing: the state that a search would see, where that is known without catching up with
            other processes; None sends the question past the memory. Microseconds, any thread.
        scope: what else results depend on, for the life of this searcher.
        seconds: that a result lives; an empty one only `negative_seconds`.
    """

    def __init__(
        self,
        searcher: Searcher,
        memory: Memory[Any],
        standing: Callable[[], SearchState | None],
        *,
        scope: Sequence[str | bytes | int],
        seconds: float,
        negative_seconds: float,
    ) -> None:
        self._searcher = searcher
        self._memory = memory
        self._standing = standing
        self._scope = key("scope", *scope)
        self._seconds = seconds
        self._negative_seconds = negative_seconds
        self._hits = 0
        self._prefix: tuple[SearchState | None, bytes] = None, b""

    async def search(self, query: Query) -> SearchResult:
        """As the searcher; what was found before is not searched again."""
        query = _stripped(query)
        state = None if query.explain else self._standing()
        one = None if state is None else self._key(state, query)
        if state is None or one is None:
            return await self._searcher.search(query)
        known: SearchResult | None = self._memory.get(one, SEARCH)
        if known is not None:
            self._hits += 1
            if self._hits % _TURN == 0:
                await asyncio.sleep(0)
            return _copied(known)

        async def compute() -> SearchResult:
            found: SearchResult | None = self._memory.peek(one)  # of another thread, since
            if found is not None:
                return found
            start = time.perf_counter()
            found = await self._searcher.search(query)
            self._keep(one, state, found, 1e3 * (time.perf_counter() - start))
            return found

        work = current()
        result = await self._memory.flights.run(
            (one, work.priority),  # who is urgent does not wait for who is not
            compute,
            shared=lambda found: not found.degraded and found.epoch == state.epoch,
            own=_OWN,
            patience=_patience(query, work.deadline),
            joined=lambda: self._memory.count(SEARCH, "shared"),
        )
        return _copied(result)

    async def search_many(self, queries: Sequence[Query]) -> list[SearchResult | VivaceError]:
        """As the searcher: all of one state. Those that are not known are searched together."""
        queries = [_stripped(query) for query in queries]
        state = self._standing()
        if state is None:
            return await self._searcher.search_many(queries)
        keys = [None if query.explain else self._key(state, query) for query in queries]
        known: dict[bytes, SearchResult] = {}
        missing: dict[bytes | int, Query] = {}
        for at, (one, query) in enumerate(zip(keys, queries, strict=True)):
            if one is None:
                missing[at] = query
            elif one not in known and one not in missing:
                value: SearchResult | None = self._memory.get(one, SEARCH)
                if value is None:
                    missing[one] = query
                else:
                    known[one] = value
        found: dict[bytes | int, SearchResult | VivaceError] = dict(known.items())
        if missing:
            start = time.perf_counter()
            computed = await self._searcher.search_many(list(missing.values()))
            each = 1e3 * (time.perf_counter() - start) / len(missing)
            epochs = {new.epoch for new in computed if isinstance(new, SearchResult)}
            if known and not epochs <= {state.epoch}:
                return await self._searcher.search_many(queries)  # two states: begin again
            for where, new in zip(missing, computed, strict=True):
                found[where] = new
                if isinstance(where, bytes) and isinstance(new, SearchResult):
                    self._keep(where, state, new, each)
        results = [found[at if one is None else one] for at, one in enumerate(keys)]
        return [_copied(each) if isinstance(each, SearchResult) else each for each in results]

    # -- inside -----------------------------------------------------------------------------

    def _keep(self, one: bytes, state: SearchState, result: SearchResult, cost: float) -> None:
        if result.degraded or result.epoch != state.epoch or self._standing() is not state:
            return
        ttl = self._seconds if result.hits else self._negative_seconds
        self._memory.set(one, result, ttl=ttl, cost=cost, kind=SEARCH)

    def _key(self, state: SearchState, query: Query) -> bytes | None:
        """None for a question that has no key: whoever searches says what is wrong with it."""
        before, prefix = self._prefix
        if before is not state:
            plan = msgspec.json.encode(state.plan, order="deterministic")
            prefix = key("state", self._scope, state.epoch, plan, *state.shape)
            self._prefix = state, prefix
        filters = vector = shape = least = None
        try:
            if query.filters:
                filters = json.dumps(query.filters, sort_keys=True, default=str)
            if query.vector is not None:
                array = np.asarray(query.vector, np.float32)
                vector, shape = array.tobytes(), repr(array.shape)
            if query.min_score is not None:
                least = float(query.min_score)
            k = int(query.k)
        except (RecursionError, TypeError, ValueError):
            return None
        return key(SEARCH, prefix, query.text, k, least, filters, vector, shape)


def _stripped(query: Query) -> Query:
    """Without space around it: what is asked and kept is the same, whoever asks."""
    text = query.text.strip()
    return query if text == query.text else replace(query, text=text)


def _patience(query: Query, until: float | None) -> float | None:
    left = query.deadline
    if until is not None:
        of_work = until - time.monotonic()
        left = of_work if left is None else min(left, of_work)
    return None if left is None else _PATIENCE * left


def _copied(result: SearchResult) -> SearchResult:
    """For one caller: the stages are a dictionary, which he may change."""
    hits = tuple([Hit(hit.chunk, hit.score, dict(hit.stages)) for hit in result.hits])
    return SearchResult(hits, result.epoch, result.degraded, dict(result.stages))
