"""Results of searches, for as long as nothing they depend on has changed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

import msgspec
import numpy as np

from vivace.cache.namespace import CacheNamespace
from vivace.cache.values import SEARCH, key
from vivace.errors import VivaceError
from vivace.protocols import Searcher
from vivace.run.work import current
from vivace.types import Hit, Plan, Query, SearchResult

_PATIENCE: Final = 0.5
"""Share of its time that a question with a deadline waits for the result of another: the rest is
enough for a search of its own, with fewer stages."""
_YIELD_EVERY: Final = 16
"""Hits, some 0.5 ms of them, after which the event loop runs other tasks: a hit waits for nothing,
so a caller that repeats a question would keep the loop to itself."""


class SearchState(Protocol):
    """What a search would see now."""

    @property
    def epoch(self) -> int: ...

    @property
    def plan(self) -> Plan | None: ...

    @property
    def shape(self) -> tuple[str, ...]:
        """Names of the indexes: different indexes over the same rows may find different rows."""
        ...


class CachedSearcher:
    """A `Searcher` over one collection that keeps its results.

    A result is kept under everything it depends on: the collection, its epoch, plan and indexes,
    the settings of the search, and the question with its k, filters, minimum score and vector. So
    nothing has to be invalidated when one of them changes. Deadline and user are not in the key:
    a degraded result is not kept, nor one that was found while the state changed. A question with
    `explain` is always searched: it asks how long this search took.

    Args:
        results: where they are kept.
        standing: returns the state that a search would see, if that is known without catching up
            with other processes; None: the question is searched. Microseconds, on any thread.
        scope: what else results depend on, for the life of this searcher.
        seconds: that a result lives; an empty one lives `negative_seconds`.
    """

    def __init__(
        self,
        searcher: Searcher,
        results: CacheNamespace[SearchResult],
        standing: Callable[[], SearchState | None],
        *,
        scope: Sequence[str | bytes | int],
        seconds: float,
        negative_seconds: float,
    ) -> None:
        self._searcher = searcher
        self._results = results
        self._standing = standing
        self._scope = key("scope", *scope)
        self._seconds = seconds
        self._negative_seconds = negative_seconds
        self._hits = 0
        self._prefix: tuple[SearchState | None, bytes] = None, b""

    async def search(self, query: Query) -> SearchResult:
        """As the searcher; a result that is known is not searched for again."""
        query = _stripped(query)
        state = None if query.explain else self._standing()
        one = None if state is None else self._key(state, query)
        if state is None or one is None:
            return await self._searcher.search(query)
        known = self._results.get_local(one)
        if known is not None:
            self._hits += 1
            if self._hits % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            return _copied(known)
        result = await self._results.compute(
            one,
            lambda: self._searcher.search(query),
            ttl=lambda found: self._life(found, state),
            shared=lambda found: not found.degraded and found.epoch == state.epoch,
            patience=_patience(query, current().deadline),
        )
        return _copied(result)

    async def search_many(self, queries: Sequence[Query]) -> list[SearchResult | VivaceError]:
        """As the searcher: all of one state. Unknown results are searched for together."""
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
                value = self._results.get_local(one)
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
                return await self._searcher.search_many(queries)  # two states: start again
            for where, new in zip(missing, computed, strict=True):
                found[where] = new
                if isinstance(where, bytes) and isinstance(new, SearchResult):
                    life = self._life(new, state)
                    if life > 0:
                        await self._results.set(where, new, ttl=life, cost=each)
        results = [found[at if one is None else one] for at, one in enumerate(keys)]
        return [_copied(each) if isinstance(each, SearchResult) else each for each in results]

    # -- inside -----------------------------------------------------------------------------

    def _life(self, result: SearchResult, state: SearchState) -> float:
        """Seconds that the result is kept; 0 if it is degraded, or not of the state."""
        if result.degraded or result.epoch != state.epoch or self._standing() is not state:
            return 0.0
        return self._seconds if result.hits else self._negative_seconds

    def _key(self, state: SearchState, query: Query) -> bytes | None:
        """None for a question that has no key: the searcher says what is wrong with it."""
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
    """Without surrounding space: it changes neither the question nor its key."""
    text = query.text.strip()
    return query if text == query.text else replace(query, text=text)


def _patience(query: Query, until: float | None) -> float | None:
    left = query.deadline
    if until is not None:
        of_work = until - time.monotonic()
        left = of_work if left is None else min(left, of_work)
    return None if left is None else _PATIENCE * left


def _copied(result: SearchResult) -> SearchResult:
    """For one caller: the stages are dictionaries, which the caller may change."""
    hits = tuple([Hit(hit.chunk, hit.score, dict(hit.stages)) for hit in result.hits])
    return SearchResult(hits, result.epoch, result.degraded, dict(result.stages))
