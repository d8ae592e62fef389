"""The vectors of questions that were embedded before, bit for bit as the model returned them."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np

from vivace.cache.namespace import CacheNamespace
from vivace.cache.values import EMBEDDING, key
from vivace.protocols import Embedder, EmbedsTokens, Kind
from vivace.run.microbatch import EmbedsThen, Then
from vivace.run.pools import ThreadPool
from vivace.types import Embedded, Vector, Vectors

R = TypeVar("R")
_HEAD: Final = struct.Struct("<Ii")
_NO_TOKENS: Final = -1
_ARRAY_BYTES: Final = 128
"""Of a numpy array's object."""


class EmbeddedText(NamedTuple):
    """A text's vector (dim,) and, where requested, its token vectors (tokens, dim); read-only."""

    vector: Vector
    tokens: Vectors | None

    @property
    def nbytes(self) -> int:
        of_tokens = 0 if self.tokens is None else _ARRAY_BYTES + self.tokens.nbytes
        return _ARRAY_BYTES + self.vector.nbytes + of_tokens


def embedded_text(vector: Vector, tokens: Vectors | None) -> EmbeddedText:
    """Read-only copies: a view would keep its whole batch in memory."""
    copies = [None if each is None else np.array(each, np.float32) for each in (vector, tokens)]
    for each in copies:
        if each is not None:
            each.flags.writeable = False
    assert copies[0] is not None
    return EmbeddedText(copies[0], copies[1])


def encode(value: EmbeddedText) -> bytes:
    """For a tier: dimension, number of token vectors (-1: not requested), float32 rows."""
    tokens = value.tokens
    head = _HEAD.pack(len(value.vector), _NO_TOKENS if tokens is None else len(tokens))
    return head + value.vector.tobytes() + (b"" if tokens is None else tokens.tobytes())


def decode(data: bytes) -> EmbeddedText:
    """The inverse of `encode`.

    Raises:
        ValueError: the data is something else.
    """
    if len(data) < _HEAD.size:
        raise ValueError("an embedding is shorter than its head")
    dim, count = _HEAD.unpack_from(data)
    if len(data) != _HEAD.size + 4 * dim * (1 + max(0, count)) or count < _NO_TOKENS:
        raise ValueError("an embedding is not as long as its head says")
    vector = np.frombuffer(data, np.float32, dim, _HEAD.size)
    if count == _NO_TOKENS:
        return embedded_text(vector, None)
    tokens = np.frombuffer(data, np.float32, dim * count, _HEAD.size + 4 * dim)
    return embedded_text(vector, tokens.reshape(count, dim))


class CachedEmbedder:
    """An `Embedder` that embeds a question once; passages are not kept.

    Made by `cached`, which returns a class with the capabilities of the embedder.

    Args:
        vectors: where they are kept.
        seconds: that they live.
        pool: runs the continuation of `embed_then` for a question that is known.
    """

    def __init__(
        self,
        embedder: Embedder,
        vectors: CacheNamespace[EmbeddedText],
        *,
        seconds: float,
        pool: ThreadPool,
    ) -> None:
        self.name = embedder.name
        self.dim = embedder.dim
        self._embedder = embedder
        self._vectors = vectors
        self._seconds = seconds
        self._pool = pool

    def reads(self, language: str) -> bool:
        return self._embedder.reads(language)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._embedder.count_tokens(texts)

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        """As the embedder; a question that is known is not embedded again."""
        if kind != "query" or not texts:
            return await self._embedder.embed(texts, kind=kind)
        found = await self._embedded(texts, tokens=False)
        return Embedded(np.stack([each.vector for each in found]))

    def close(self) -> None:
        self._embedder.close()

    # -- inside -----------------------------------------------------------------------------

    def _key(self, text: str, tokens: bool) -> bytes:
        # not normalised: models differ in what they make of spaces and capitals
        return key(EMBEDDING, self.name, self.dim, int(tokens), text)

    async def _embedded(self, texts: Sequence[str], *, tokens: bool) -> list[EmbeddedText]:
        keys = [self._key(text, tokens) for text in texts]
        if len(texts) == 1:

            async def compute() -> EmbeddedText:
                return (await self._computed(texts, tokens))[0]

            return [await self._vectors.get_or_compute(keys[0], compute, ttl=self._seconds)]
        found: dict[bytes, EmbeddedText] = {}
        missing: dict[bytes, str] = {}
        for one, text, known in zip(keys, texts, await self._vectors.get_many(keys), strict=True):
            if known is None:
                missing[one] = text
            else:
                found[one] = known
        if missing:
            start = time.perf_counter()
            computed = await self._computed(list(missing.values()), tokens)
            each = 1e3 * (time.perf_counter() - start) / len(missing)
            for one, value in zip(missing, computed, strict=True):
                found[one] = value
                await self._vectors.set(one, value, ttl=self._seconds, cost=each)
        return [found[one] for one in keys]

    async def _computed(self, texts: Sequence[str], tokens: bool) -> list[EmbeddedText]:
        if tokens:
            assert isinstance(self._embedder, EmbedsTokens)
            embedded = await self._embedder.embed_tokens(texts, kind="query")
        else:
            embedded = await self._embedder.embed(texts, kind="query")
        if not tokens or embedded.tokens is None:
            return [embedded_text(vector, None) for vector in embedded.vectors]
        pairs = zip(embedded.vectors, embedded.tokens, strict=True)
        return [embedded_text(*pair) for pair in pairs]


class _CachedTokens(CachedEmbedder):
    async def embed_tokens(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        """As `embed`, with every text's token vectors."""
        if kind != "query" or not texts:
            assert isinstance(self._embedder, EmbedsTokens)
            return await self._embedder.embed_tokens(texts, kind=kind)
        found = await self._embedded(texts, tokens=True)
        tokens = tuple(each.tokens for each in found if each.tokens is not None)
        return Embedded(
            np.stack([each.vector for each in found]), tokens if len(tokens) == len(found) else None
        )


class _CachedThen(CachedEmbedder):
    async def embed_then(self, text: str, then: Then[R], *, tokens: bool = False) -> R:
        """The result of `then` for the vector: called on the embedding's thread, or on the pool
        where nothing needs to be embedded."""
        one = self._key(text, tokens)
        known = await self._vectors.get(one)
        if known is not None:
            return await self._pool.run(then, known.vector, known.tokens)
        made: list[tuple[EmbeddedText, float]] = []
        start = time.perf_counter()

        def noting(vector: Vector, of_tokens: Vectors | None) -> R:
            made.append((embedded_text(vector, of_tokens), 1e3 * (time.perf_counter() - start)))
            return then(vector, of_tokens)

        assert isinstance(self._embedder, EmbedsThen)
        try:
            return await self._embedder.embed_then(text, noting, tokens=tokens)
        finally:
            if made:  # also where `then` failed: the vector is valid
                value, cost = made[0]
                await self._vectors.set(one, value, ttl=self._seconds, cost=cost)


class _CachedTokensThen(_CachedTokens, _CachedThen):
    """Both."""


def cached(
    embedder: Embedder, vectors: CacheNamespace[EmbeddedText], *, seconds: float, pool: ThreadPool
) -> CachedEmbedder:
    """The embedder with a cache, which is `EmbedsTokens` and `EmbedsThen` where the embedder is."""
    kinds = {
        (False, False): CachedEmbedder,
        (True, False): _CachedTokens,
        (False, True): _CachedThen,
        (True, True): _CachedTokensThen,
    }
    kind = kinds[isinstance(embedder, EmbedsTokens), isinstance(embedder, EmbedsThen)]
    return kind(embedder, vectors, seconds=seconds, pool=pool)
