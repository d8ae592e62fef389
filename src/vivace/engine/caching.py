"""What an engine remembers: one memory, and the wrappers that keep their values in it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Final

import msgspec

from vivace.cache import embedder as embedders
from vivace.cache import generator as generators
from vivace.cache.adaptation import make_policy
from vivace.cache.generator import CachedGenerator
from vivace.cache.memory import Cleared, Memory
from vivace.cache.searcher import CachedSearcher
from vivace.cache.semantic.cache import SharedBudget
from vivace.cache.statistics import CacheStatistics
from vivace.cache.tiers.loading import OF_TIMEOUT, load
from vivace.cache.values import ANSWER, EMBEDDING, SEARCH, Seal
from vivace.collection.corpus import Corpus
from vivace.collection.paths import resolved
from vivace.errors import BadSettings
from vivace.protocols import Embedder, Generator, Searcher
from vivace.run.pools import ThreadPool
from vivace.settings import Settings
from vivace.trace import Trace
from vivace.types import Decision

_CLEAR_SECONDS: Final = 60.0
"""For tiers that can be reached: the caller wants to know that they are empty."""
_LEAST_SECRET: Final = 16
_SEMANTIC_SHARE: Final = 0.25
"""Of the memory, where there are semantic answers."""


def _seal(secret: str) -> Seal | None:
    """Raises: BadSettings: the secret can be guessed."""
    if secret and len(secret) < _LEAST_SECRET:
        raise BadSettings(
            f"cache.secret has fewer than {_LEAST_SECRET} characters",
            fix="Take a random one, such as that of `openssl rand -hex 32`",
        )
    return Seal(secret) if secret else None


class Caching:
    """The caches of all collections of an engine. Without a cache nothing is wrapped."""

    def __init__(self, settings: Settings, record: Callable[[Decision], None]) -> None:
        """Args:
        record: called, on a thread of its own, with every decision on the policy.
        """
        self.trace = Trace()
        """Counters of the tiers: timeouts, open breakers, dropped writes."""
        self._settings = settings
        self._cache = cache = settings.cache
        self.tokens_saved = 0
        """Prompt and completion tokens that replayed answers did not cost."""
        self._record = record
        self.memory: Memory | None = None
        capacity = int(cache.memory_mib * (1 << 20))
        self.room: SharedBudget | None = None
        """Of all semantic answers; None where there are to be none."""
        if not capacity:
            return
        if cache.semantic:
            self.room = SharedBudget(int(_SEMANTIC_SHARE * capacity))
            capacity -= self.room.capacity
        self.memory = Memory(
            capacity,
            make_policy(cache.policy, capacity, self._decided),
            tiers=load(cache, resolved(settings.home), self.trace),
            tier_seconds=OF_TIMEOUT * cache.tier_ms / 1000,
            seal=_seal(cache.secret),
            trace=self.trace,
        )
        if self.room is not None:
            self.memory.on_clear(self.room.clear)

    def embedder(self, embedder: Embedder, pool: ThreadPool) -> Embedder:
        """For questions."""
        if self.memory is None or not self._cache.embeddings:
            return embedder
        # no lease: waiting for another process would cost more than embedding twice
        vectors = self.memory.namespace(
            EMBEDDING, encode=embedders.encode, decode=embedders.decode, lease=False
        )
        return embedders.cached(embedder, vectors, seconds=self._cache.seconds, pool=pool)

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
            self.memory.namespace(SEARCH),
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
            self.memory.namespace(ANSWER, encode=generators.encode, decode=generators.decode),
            seconds=cache.seconds,
            stale_seconds=cache.stale_seconds,
            sampled=cache.sampled,
            saved=self._save,
            scope=self._settings.generate.model,
        )

    def statistics(self) -> CacheStatistics | None:
        """None where there is no cache."""
        return None if self.memory is None else self.memory.statistics()

    async def clear(self) -> Cleared:
        """Forget everything, in the tiers and in other processes too."""
        return Cleared(0) if self.memory is None else await self.memory.clear(_CLEAR_SECONDS)

    async def close(self) -> None:
        """Write what is queued for the tiers, as far as they take it, and disconnect from them."""
        if self.memory is not None:
            await self.memory.close()

    def _decided(self, decision: Decision) -> None:
        """Called in the middle of a get, so a thread of its own writes the decision."""
        Thread(target=self._record, args=(decision,), name="vivace-decision", daemon=True).start()

    def _save(self, tokens: int) -> None:
        self.tokens_saved += tokens
