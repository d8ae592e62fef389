"""Answers repeated from a collection's semantic cache."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import msgspec

from vivace.answer.templated import AnswerRequest, TemplateAnswerer
from vivace.cache.semantic.cache import SemanticCache, SemanticEntry, SharedBudget
from vivace.errors import DeadlineExceeded, EmbeddingError, Overloaded, StoreError
from vivace.generate.templates import Templates
from vivace.protocols import Answerer, Embedder
from vivace.run.streams import closing
from vivace.run.work import work_context
from vivace.settings import Settings
from vivace.trace import Trace
from vivace.types import Answer, Chunk, Decision, Delta, Query, Vector, Vectors

ReadChunks: TypeAlias = Callable[[Iterable[int]], Mapping[int, Chunk]]
"""The chunks with these ids that exist; raises `StoreError`."""


class SemanticAnswerer(TemplateAnswerer):
    """Repeats the answer to an earlier question that asks the same in other words.

    Where there is none, and for whatever is not answered from passages, `inner` answers. One for
    each collection; used on the event loop alone.

    Args:
        templates: those of `inner`.
        embedder: of questions; `inner`'s search embeds the same text again, so it should cache.
        chunks: reads the collection's present chunks; called on a thread.
        decide: records the decisions on thresholds.
        room: the byte budget of the semantic caches of all collections.
        in_flight: entered around a lookup, so that closing the collection waits for it.
    """

    def __init__(
        self,
        inner: Answerer,
        embedder: Embedder,
        chunks: ReadChunks,
        settings: Settings,
        templates: Templates | None = None,
        *,
        trace: Trace,
        decide: Callable[[Decision], None],
        room: SharedBudget,
        in_flight: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(settings, templates)
        self.name = inner.name
        self._inner = inner
        self._chunks = chunks
        self._embedder = embedder
        self._trace = trace
        self._in_flight = in_flight
        self._fixed = msgspec.json.encode(
            [
                inner.name,
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
        self._cache = SemanticCache(
            settings.cache.semantic_bound,
            model=embedder.name,
            reads=embedder.reads,
            embed=self._vectors,
            room=room,
            seconds=settings.cache.seconds,
            trace=trace,
            decide=decide,
        )

    async def begin(self, request: AnswerRequest) -> AsyncIterator[Delta]:
        if not self._fits(request):
            return await self._answer(request)
        query, scope = request.query, self._scope(request)
        with self._in_flight(), work_context(seconds=query.deadline, user=query.user):
            kept, vector = await self._find(query, scope)
        if kept is not None:
            return _replayed(kept)
        return self._keeping(await self._answer(request), query, scope, vector)

    async def close(self) -> None:
        await self._cache.close()
        await self._inner.close()

    async def _answer(self, request: AnswerRequest) -> AsyncIterator[Delta]:
        if isinstance(self._inner, TemplateAnswerer):  # need not resolve the template again
            return await self._inner.begin(request)
        return self._inner.stream(request.query, request.search, request.options)

    def _fits(self, request: AnswerRequest) -> bool:
        """Whether the question alone determines the answer.

        Not a follow-up, not a query with its own vector or with `explain`; nor an answer that is
        sampled, unless `cache.sampled` is set. A question that the search will refuse is not even
        embedded.
        """
        query, options = request.query, request.options
        generate, cache = self.settings.generate, self.settings.cache
        temperature = generate.temperature if options.temperature is None else options.temperature
        if temperature > 0 and not cache.sampled:
            return False
        return (
            request.template.reads == "passages"
            and not options.history
            and query.vector is None
            and not query.explain
            and bool(query.text.strip())
            and len(query.text) <= self.settings.search.max_question_chars
        )

    def _scope(self, request: AnswerRequest) -> bytes:
        """A digest of everything that an answer depends on except its question."""
        query, options = request.query, request.options
        values: list[Any] = [options.system, options.max_tokens, options.temperature]
        values += [options.template, options.target_language]
        values += [query.k, query.min_score, query.filters]
        own = msgspec.json.encode(values, order="deterministic", enc_hook=repr)
        return hashlib.blake2b(self._fixed + b"\0" + own, digest_size=16).digest()

    async def _find(self, query: Query, scope: bytes) -> tuple[Answer | None, Vector | None]:
        """The answer to repeat, if any, and the question's vector."""
        try:
            vector = (await self._vectors([query.text]))[0]
        except (EmbeddingError, DeadlineExceeded, Overloaded):
            # the search raises it again, or does without
            self._trace.count("semantic.no_vector")
            return None, None
        return await self._cache.find(query.text, vector, scope, self._valid), vector

    async def _keeping(
        self, deltas: AsyncIterator[Delta], query: Query, scope: bytes, vector: Vector | None
    ) -> AsyncIterator[Delta]:
        """Pass the deltas on and keep the answer of the last one."""
        async with closing(deltas):
            async for delta in deltas:
                if delta.answer is not None:
                    # whole chunks, because a filter may read any of their fields
                    used = {h.chunk.id: h.chunk for h in delta.answer.hits[: delta.answer.read]}
                    if used:
                        self._cache.keep(query.text, vector, scope, delta.answer, used)
                    else:
                        self._cache.judge(query.text, scope, delta.answer)
                yield delta

    async def _vectors(self, texts: Sequence[str]) -> Vectors:
        return (await self._embedder.embed(texts, kind="query")).vectors

    async def _valid(self, entry: SemanticEntry) -> bool:
        """Whether every passage that the answer was written from is unchanged."""
        used: dict[int, Any] = entry.sources
        try:
            found = await asyncio.to_thread(self._chunks, used)
        except StoreError:
            # the search that follows raises it again
            self._trace.count("semantic.unreadable")
            return False
        return all(found.get(number) == chunk for number, chunk in used.items())


async def _replayed(answer: Answer) -> AsyncIterator[Delta]:
    yield Delta(answer.text)
    yield Delta(answer=answer)
