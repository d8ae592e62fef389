"""What an engine remembers: one memory, and the wrappers that keep their values in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from vivace.cache import embedder as embedders
from vivace.cache import kept
from vivace.cache import policy as policies
from vivace.cache.generator import CachedGenerator
from vivace.cache.memory import Memory
from vivace.cache.searcher import CachedSearcher
from vivace.cache.statistics import Statistics
from vivace.collection.corpus import Corpus
from vivace.errors import VivaceError
from vivace.protocols import Embedder, Generator, Searcher
from vivace.run.pools import Pool
from vivace.settings import Settings
from vivace.types import Query, SearchResult


class Caching:
    """Of all collections of an engine. Where the settings want no cache, nothing is wrapped."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache = cache = settings.cache
        self.tokens_saved = 0
        """Prompt and completion tokens that replayed answers did not cost."""
        self.memory: Memory[Any] | None = None
        capacity = int(cache.memory_mib * (1 << 20))
        if capacity:
            policy = policies.make(cache.policy, capacity)
            self.memory = Memory(capacity, policy, weigh=kept.weigh)

    def embedder(self, embedder: Embedder, pool: Pool) -> Embedder:
        """For questions."""
        if self.memory is None or not self._cache.embeddings:
            return embedder
        local: kept.Local[embedders.Row] = kept.Local(self.memory, kept.EMBEDDING)
        return embedders.cached(embedder, local, seconds=self._cache.seconds, pool=pool)

    def searcher(
        self, searcher: Searcher, corpus: Corpus, embedder: Embedder, weights: bytes = b""
    ) -> Searcher:
        """Args: `weights` are of a reranker that is the collection's own."""
        if self.memory is None or not self._cache.searches:
            return searcher
        stages = msgspec.json.encode(self._settings.search)
        scope = (
            corpus.store.uuid,
            corpus.store.metric,
            embedder.name,
            embedder.dim,
            stages,
            weights,
        )
        return CachedSearcher(
            searcher,
            self.memory,
            corpus.settled,
            scope=scope,
            seconds=self._cache.seconds,
            negative_seconds=min(self._cache.negative_seconds, self._cache.seconds),
        )

    def generator(self, generator: Generator) -> Generator:
        cache = self._cache
        if self.memory is None or not cache.answers:
            return generator
        return CachedGenerator(
            generator,
            kept.Local(self.memory, kept.ANSWER),
            seconds=cache.seconds,
            stale_seconds=cache.stale_seconds,
            sampled=cache.sampled,
            saved=self._save,
        )

    def statistics(self) -> Statistics | None:
        """None where there is no cache."""
        return None if self.memory is None else self.memory.statistics()

    def clear(self) -> int:
        """Forget everything; returns how many values that were."""
        return 0 if self.memory is None else self.memory.clear()

    def close(self) -> None:
        if self.memory is not None:
            self.memory.close()

    def _save(self, tokens: int) -> None:
        self.tokens_saved += tokens


class Timed:
    """A `Searcher` that says what its searches took: those that were not remembered."""

    def __init__(self, searcher: Searcher, took: Callable[[float], None]) -> None:
        self._searcher = searcher
        self._took = took

    async def search(self, query: Query) -> SearchResult:
        start = time.perf_counter()
        result = await self._searcher.search(query)
        self._took(time.perf_counter() - start)
        return result

    async def search_many(self, queries: Sequence[Query]) -> list[SearchResult | VivaceError]:
        return await self._searcher.search_many(queries)
