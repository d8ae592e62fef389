"""Where a collection's semantic answers stand: around the search and the answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from vivace.cache.semantic.cache import SemanticCache, SemanticEntry, SharedBudget
from vivace.collection.corpus import Corpus
from vivace.errors import DeadlineExceeded, EmbeddingError, Overloaded, StoreError
from vivace.protocols import Embedder
from vivace.run.streams import closing
from vivace.settings import Settings
from vivace.trace import Trace
from vivace.types import Answer, AnswerOptions, Chunk, Decision, Delta, Query, Vector, Vectors


class Remembered:
    """The semantic cache of one collection. Used on the event loop alone."""

    def __init__(
        self,
        corpus: Corpus,
        embedder: Embedder,
        answerer: str,
        settings: Settings,
        trace: Trace,
        decide: Callable[[Decision], None],
        room: SharedBudget,
    ) -> None:
        self._corpus = corpus
        self._embedder = embedder
        self._trace = trace
        self._fixed = msgspec.json.encode(
            [
                answerer,
                embedder.name,
                settings.search,
                settings.answer,
                # what the answer's text depends on; neither secrets nor limits of time
                settings.generate.max_tokens,
                settings.generate.temperature,
                settings.generate.context_tokens,
                settings.generate.system,
            ]
        )
        self._sampled = settings.cache.sampled
        self._temperature = settings.generate.temperature
        self.answers = SemanticCache(
            settings.cache.semantic_bound,
            model=embedder.name,
            reads=embedder.reads,
            embed=self._vectors,
            room=room,
            seconds=settings.cache.seconds,
            trace=trace,
            decide=decide,
        )

    def fits(self, query: Query, options: AnswerOptions) -> bool:
        """Whether the question alone says what is asked: none that follows others, none with a
        vector of its own, none that wants to see what each stage did; nor is one whose answers
        are sampled, unless `cache.sampled` allows it."""
        asked = options.temperature
        temperature = self._temperature if asked is None else asked
        if temperature > 0 and not self._sampled:
            return False
        return not options.history and query.vector is None and not query.explain

    def scope(self, query: Query, options: AnswerOptions) -> bytes:
        """All that an answer depends on but its question."""
        wishes: list[Any] = [
            options.system,
            options.max_tokens,
            options.temperature,
            options.template,
        ]
        wishes += [options.target_language, query.k, query.min_score, query.filters]
        own = msgspec.json.encode(wishes, order="deterministic", enc_hook=repr)
        return hashlib.blake2b(self._fixed + b"\0" + own, digest_size=16).digest()

    async def find(self, query: Query, scope: bytes) -> tuple[Answer | None, Vector | None]:
        """The answer to give again, if any, and the question's vector."""
        try:
            vector = (await self._vectors([query.text]))[0]
        except (EmbeddingError, DeadlineExceeded, Overloaded):
            # the search will say so, or go on without
            self._trace.count("semantic.no_vector")
            return None, None
        return await self.answers.find(query.text, vector, scope, self._valid), vector

    async def kept(
        self, deltas: AsyncIterator[Delta], query: Query, scope: bytes, vector: Vector | None
    ) -> AsyncIterator[Delta]:
        """The deltas as they come; the answer of the last one is kept."""
        async with closing(deltas):
            async for delta in deltas:
                if delta.answer is not None:
                    used = self._used(delta.answer)
                    if used:
                        self.answers.keep(query.text, vector, scope, delta.answer, used)
                    else:
                        self.answers.judge(query.text, scope, delta.answer)
                yield delta

    async def close(self) -> None:
        await self.answers.close()

    # -- inside -----------------------------------------------------------------------------

    async def _vectors(self, texts: Sequence[str]) -> Vectors:
        return (await self._embedder.embed(texts, kind="query")).vectors

    @staticmethod
    def _used(answer: Answer) -> dict[int, Chunk]:
        """The passages it was written from, as they were then: a filter may look at any part."""
        return {hit.chunk.id: hit.chunk for hit in answer.hits[: answer.read]}

    async def _valid(self, entry: SemanticEntry) -> bool:
        used: dict[int, Any] = entry.sources
        try:
            found = await asyncio.to_thread(self._corpus.snapshot().chunks, used)
        except StoreError:
            # the search that follows tells of it
            self._trace.count("semantic.unreadable")
            return False
        return all(found.get(id) == chunk for id, chunk in used.items())


async def again(answer: Answer) -> AsyncIterator[Delta]:
    """An answer that was kept, as a stream."""
    yield Delta(answer.text)
    yield Delta(answer=answer)
