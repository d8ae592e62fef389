"""What an engine remembers: one memory, and the wrappers that keep their values in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, Final, TypeVar

import msgspec

from vivace.cache import embedder as embedders
from vivace.cache import generator as generators
from vivace.cache import kept
from vivace.cache import policy as policies
from vivace.cache.generator import CachedGenerator
from vivace.cache.guarded import ResilientTier
from vivace.cache.memory import Memory
from vivace.cache.searcher import CachedSearcher
from vivace.cache.semantic.cache import SharedBudget
from vivace.cache.statistics import CacheStatistics
from vivace.cache.tiered import Tiered, invalidation
from vivace.cache.tiers import OF_TIMEOUT, load
from vivace.collection.corpus import Corpus
from vivace.collection.paths import resolved
from vivace.protocols import Embedder, Generator, Searcher
from vivace.run.pools import ThreadPool
from vivace.settings import Settings
from vivace.trace import Trace
from vivace.types import Decision

V = TypeVar("V")

_CLEAR_SECONDS: Final = 60.0
"""For tiers that answer: who clears wants to know that it is done."""
_SEMANTIC_SHARE: Final = 0.25
"""Of the memory, where there are semantic answers."""
_LEASE: Final = 2.0
"""Seconds after which another process answers in the place of one that has died."""


class Cleared(msgspec.Struct, frozen=True):
    """Values that the memory had, and of every tier whether it is empty by now."""

    values: int
    tiers: dict[str, bool] = {}


class Caching:
    """Of all collections of an engine. Where the settings want no cache, nothing is wrapped."""

    def __init__(self, settings: Settings, record: Callable[[Decision], None]) -> None:
        """Args:
        record: called, on a thread of its own, with every decision on the policy.
        """
        self.trace = Trace()
        """Of the tiers: timeouts, open breakers, what was dropped."""
        self._settings = settings
        self._cache = cache = settings.cache
        self.tokens_saved = 0
        """Prompt and completion tokens that replayed answers did not cost."""
        self._record = record
        self.memory: Memory[Any] | None = None
        capacity = int(cache.memory_mib * (1 << 20))
        self.room: SharedBudget | None = None
        """Of all semantic answers; None where there are to be none."""
        if capacity:
            if cache.semantic:
                self.room = SharedBudget(int(_SEMANTIC_SHARE * capacity))
                capacity -= self.room.capacity
            policy = policies.make(cache.policy, capacity, self._decided)
            self.memory = Memory(capacity, policy, weigh=kept.weigh)
        self._tiers = (
            load(cache, resolved(settings.home), self.trace) if self.memory is not None else []
        )
        self._channel = invalidation(self._tiers)
        self._tiered: list[Tiered[Any]] = []
        if self._channel is not None:
            self._channel.subscribe(self._forget_semantic)

    def embedder(self, embedder: Embedder, pool: ThreadPool) -> Embedder:
        """For questions."""
        if self.memory is None or not self._cache.embeddings:
            return embedder
        # a process that dies meanwhile costs less than waiting for another one's: no lease
        stays = self._kept(kept.EMBEDDING, embedders.encode, embedders.decode, lease=0.0)
        return embedders.cached(embedder, stays, seconds=self._cache.seconds, pool=pool)

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
            self._kept(kept.ANSWER, generators.encode, generators.decode),
            seconds=cache.seconds,
            stale_seconds=cache.stale_seconds,
            sampled=cache.sampled,
            saved=self._save,
            count=partial(self.memory.count, kept.ANSWER),
            scope=self._settings.generate.model,
        )

    def statistics(self) -> CacheStatistics | None:
        """None where there is no cache."""
        return None if self.memory is None else self.memory.statistics()

    async def clear(self) -> Cleared:
        """Forget everything, in the tiers and in other processes too."""
        self._forget_semantic(None, None)
        if self.memory is None:
            return Cleared(0)
        count = self.memory.clear()
        for tiered in self._tiered:
            tiered.forget(None, None)
        for tiered in self._tiered[:1]:  # they share their tiers
            await tiered.clear(seconds=_CLEAR_SECONDS)
        tiers = [tier for tier in self._tiers if isinstance(tier, ResilientTier)]
        return Cleared(count, {tier.name: not tier.queue.clearing for tier in tiers})

    async def close(self) -> None:
        """Write what waits for the tiers, as far as they take it, and let go of them."""
        if self._channel is not None:
            await self._channel.close()
        for tier in self._tiers:
            await tier.close()
        if self.memory is not None:
            self.memory.close()

    def _forget_semantic(self, key: bytes | None, kind: str | None) -> None:
        if key is None and self.room is not None:
            self.room.clear()

    def _kept(
        self,
        kind: str,
        encode: Callable[[V], bytes],
        decode: Callable[[bytes], V],
        *,
        lease: float = _LEASE,
    ) -> kept.Kept[V]:
        assert self.memory is not None
        if not self._tiers:
            return kept.Local(self.memory, kind)
        tiered = Tiered(
            kept.OfKind(self.memory, kind),
            self._tiers,
            encode=encode,
            decode=decode,
            lease=lease,
            seconds=OF_TIMEOUT * self._cache.tier_ms / 1000,
            channel=self._channel,
            trace=self.trace,
        )
        self._tiered.append(tiered)
        return tiered

    def _decided(self, decision: Decision) -> None:
        """Called in the middle of a get, so a thread of its own writes the decision."""
        Thread(target=self._record, args=(decision,), name="vivace-decision", daemon=True).start()

    def _save(self, tokens: int) -> None:
        self.tokens_saved += tokens
