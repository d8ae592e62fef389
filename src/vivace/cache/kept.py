"""What a wrapper keeps its values in: the memory of this process, or that with tiers behind it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, Generic, Protocol, TypeVar

from vivace.cache.memory import Memory
from vivace.types import Answer, Chunk, SearchResult

V = TypeVar("V")

EMBEDDING, SEARCH, ANSWER = "embedding", "search", "answer"
"""The kinds of values."""
_PART_BYTES: Final = 200
"""Of a citation, a span or what supports a sentence; their passages are the hits'."""
_HIT_BYTES: Final = 700
"""Of a hit: the objects, their numbers and the dictionary of its stages."""


class Kept(Protocol[V]):
    """Asynchronous, for a tier may have to be asked. `cache.tiered.Tiered` is one."""

    async def get(self, key: bytes) -> V | None: ...

    async def get_many(self, keys: Sequence[bytes]) -> list[V | None]: ...

    def lead(self, key: bytes) -> AbstractAsyncContextManager[V | None]:
        """The value; or None, where whoever entered makes it and gives it to `set`."""
        ...

    async def set(
        self,
        key: bytes,
        value: V,
        *,
        ttl: float | None = None,
        cost: float = 1.0,
        kind: str = "",
    ) -> None: ...

    async def get_or_compute(
        self,
        key: bytes,
        compute: Callable[[], Awaitable[V]],
        *,
        ttl: float | None,
        stale: float = 0.0,
        cost: float | None = None,
        kind: str = "",
    ) -> V: ...


class Local(Generic[V]):
    """A `Kept` of this process alone, for values of one kind in a memory that holds several."""

    def __init__(self, memory: Memory[Any], kind: str) -> None:
        self._memory = memory
        self._kind = kind

    async def get(self, key: bytes) -> V | None:
        value: V | None = self._memory.get(key, self._kind)
        return value

    async def get_many(self, keys: Sequence[bytes]) -> list[V | None]:
        return [self._memory.get(key, self._kind) for key in keys]

    def lead(self, key: bytes) -> AbstractAsyncContextManager[V | None]:
        return nullcontext(self._memory.get(key, self._kind))

    async def set(
        self,
        key: bytes,
        value: V,
        *,
        ttl: float | None = None,
        cost: float = 1.0,
        kind: str = "",
    ) -> None:
        self._memory.set(key, value, ttl=ttl, cost=cost, kind=kind or self._kind)

    async def get_or_compute(
        self,
        key: bytes,
        compute: Callable[[], Awaitable[V]],
        *,
        ttl: float | None,
        stale: float = 0.0,
        cost: float | None = None,
        kind: str = "",
    ) -> V:
        value: V = await self._memory.get_or_compute(
            key, compute, ttl=ttl, stale=stale, cost=cost, kind=kind or self._kind
        )
        return value


class OfKind(Generic[V]):
    """Values of one kind in a memory that holds several, as `cache.tiered.Tiered` asks for them."""

    def __init__(self, memory: Memory[Any], kind: str) -> None:
        self._memory = memory
        self._kind = kind

    def get(self, key: bytes) -> V | None:
        value: V | None = self._memory.get(key, self._kind)
        return value

    def set(
        self, key: bytes, value: V, *, ttl: float | None = None, cost: float = 1.0, kind: str = ""
    ) -> None:
        self._memory.set(key, value, ttl=ttl, cost=cost, kind=self._kind)

    def delete(self, key: bytes) -> bool:
        return self._memory.delete(key)

    def clear(self, kind: str | None = None) -> int:
        return self._memory.clear(kind)

    async def get_or_compute(
        self,
        key: bytes,
        compute: Callable[[], Awaitable[V]],
        *,
        ttl: float | Callable[[V], float | None] | None,
        stale: float = 0.0,
        cost: float | None = None,
        kind: str = "",
    ) -> V:
        value: V = await self._memory.get_or_compute(
            key, compute, ttl=ttl, stale=stale, cost=cost, kind=self._kind
        )
        return value


def weigh(value: Any) -> int:
    """Bytes that a value of any kind takes in memory.

    A chunk is counted with every result that holds it, though several may share it: no budget is
    passed by what was counted twice.
    """
    if isinstance(value, SearchResult):
        return 100 + sum(_HIT_BYTES + _of_chunk(hit.chunk) for hit in value.hits)
    nbytes: int = value.nbytes
    return nbytes


def of_answer(answer: Answer) -> int:
    """As `weigh`, of an answer with its passages."""
    parts = _PART_BYTES * (len(answer.citations) + len(answer.spans) + len(answer.support))
    hits = sum(_HIT_BYTES + _of_chunk(hit.chunk) for hit in answer.hits)
    return sys.getsizeof(answer.text) + parts + hits


def _of_chunk(chunk: Chunk) -> int:
    size = sys.getsizeof
    texts = size(chunk.text) + size(chunk.document_id) + size(chunk.title) + size(chunk.source)
    section = sum(map(size, chunk.section))
    return texts + section + (_of_json(chunk.metadata) if chunk.metadata else 0)


def _of_json(value: Any) -> int:
    """Roughly, of a JSON value as Python has it."""
    if isinstance(value, Mapping):
        return 232 + sum(_of_json(name) + _of_json(each) for name, each in value.items())
    if isinstance(value, list | tuple):
        return 56 + sum(8 + _of_json(each) for each in value)
    return sys.getsizeof(value)
