"""The vectors of questions that were embedded before. To the bit as the model gave them."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np

from vivace.cache.kept import EMBEDDING, Kept
from vivace.cache.keys import key
from vivace.protocols import Embedder, EmbedsTokens, Kind
from vivace.run.microbatch import EmbedsThen, Then
from vivace.run.pools import ThreadPool
from vivace.types import Embedded, Vector, Vectors

R = TypeVar("R")
_HEAD: Final = struct.Struct("<Ii")
_NO_TOKENS: Final = -1
_ARRAY_BYTES: Final = 128
"""Of a numpy array's object."""


class Row(NamedTuple):
    """A text's vector (dim,) and, where they were asked for, its token vectors; read-only."""

    vector: Vector
    tokens: Vectors | None

    @property
    def nbytes(self) -> int:
        of_tokens = 0 if self.tokens is None else _ARRAY_BYTES + self.tokens.nbytes
        return _ARRAY_BYTES + self.vector.nbytes + of_tokens


def row(vector: Vector, tokens: Vectors | None) -> Row:
    """A copy that nothing else holds or can change: a view would keep its whole batch alive."""
    copies = [None if each is None else np.array(each, np.float32) for each in (vector, tokens)]
    for each in copies:
        if each is not None:
            each.flags.writeable = False
    assert copies[0] is not None
    return Row(copies[0], copies[1])


def encode(value: Row) -> bytes:
    """For a tier: dimension, number of token vectors (-1: none were asked for), float32 rows."""
    tokens = value.tokens
    head = _HEAD.pack(len(value.vector), _NO_TOKENS if tokens is None else len(tokens))
    return head + value.vector.tobytes() + (b"" if tokens is None else tokens.tobytes())


def decode(data: bytes) -> Row:
    """What `encode` wrote.

    Raises:
        ValueError: it is something else.
    """
    if len(data) < _HEAD.size:
        raise ValueError("an embedding is shorter than its head")
    dim, count = _HEAD.unpack_from(data)
    if len(data) != _HEAD.size + 4 * dim * (1 + max(0, count)) or count < _NO_TOKENS:
        raise ValueError("an embedding is not as long as its head says")
    vector = np.frombuffer(data, np.float32, dim, _HEAD.size)
    if count == _NO_TOKENS:
        return row(vector, None)
    tokens = np.frombuffer(data, np.float32, dim * count, _HEAD.size + 4 * dim)
    return row(vector, tokens.reshape(count, dim))


class CachedEmbedder:
    """An `Embedder` that embeds a question once. Passages pass through.

    Make one with `cached`: it can do what the embedder can.

    Args:
        kept: where the vectors stay.
        seconds: that they live.
        pool: where `embed_then` goes on with a question that need not be embedded.
    """

    def __init__(
        self, embedder: Embedder, kept: Kept[Row], *, seconds: float, pool: ThreadPool
    ) -> None:
        self.name = embedder.name
        self.dim = embedder.dim
        self._embedder = embedder
        self._kept = kept
        self._seconds = seconds
        self._pool = pool

    def reads(self, language: str) -> bool:
        return self._embedder.reads(language)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._embedder.count_tokens(texts)

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        """As the embedder; a question that was embedded before is not embedded again."""
        if kind != "query" or not texts:
            return await self._embedder.embed(texts, kind=kind)
        rows = await self._rows(texts, tokens=False)
        return Embedded(np.stack([row.vector for row in rows]))

    def close(self) -> None:
        self._embedder.close()

    # -- inside -----------------------------------------------------------------------------

    def _key(self, text: str, tokens: bool) -> bytes:
        # not normalised: what a model makes of spaces or capitals is its own
        return key(EMBEDDING, self.name, self.dim, int(tokens), text)

    async def _rows(self, texts: Sequence[str], *, tokens: bool) -> list[Row]:
        keys = [self._key(text, tokens) for text in texts]
        if len(texts) == 1:

            async def compute() -> Row:
                return (await self._computed(texts, tokens))[0]

            made = self._kept.get_or_compute(keys[0], compute, ttl=self._seconds, kind=EMBEDDING)
            return [await made]
        found: dict[bytes, Row] = {}
        missing: dict[bytes, str] = {}
        for one, text, known in zip(keys, texts, await self._kept.get_many(keys), strict=True):
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
                await self._keep(one, value, each)
        return [found[one] for one in keys]

    async def _computed(self, texts: Sequence[str], tokens: bool) -> list[Row]:
        if tokens:
            assert isinstance(self._embedder, EmbedsTokens)
            embedded = await self._embedder.embed_tokens(texts, kind="query")
        else:
            embedded = await self._embedder.embed(texts, kind="query")
        if not tokens or embedded.tokens is None:
            return [row(vector, None) for vector in embedded.vectors]
        return [row(*pair) for pair in zip(embedded.vectors, embedded.tokens, strict=True)]

    async def _keep(self, key: bytes, value: Row, cost: float) -> None:
        await self._kept.set(key, value, ttl=self._seconds, cost=cost, kind=EMBEDDING)


class _Tokens(CachedEmbedder):
    async def embed_tokens(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        """As `embed`, with every text's token vectors."""
        if kind != "query" or not texts:
            assert isinstance(self._embedder, EmbedsTokens)
            return await self._embedder.embed_tokens(texts, kind=kind)
        rows = await self._rows(texts, tokens=True)
        tokens = tuple(row.tokens for row in rows if row.tokens is not None)
        return Embedded(
            np.stack([row.vector for row in rows]), tokens if len(tokens) == len(rows) else None
        )


class _Then(CachedEmbedder):
    async def embed_then(self, text: str, then: Then[R], *, tokens: bool = False) -> R:
        """What `then` makes of the vector: on the embedding's thread, or on the pool where there
        is nothing to embed."""
        one = self._key(text, tokens)
        known = await self._kept.get(one)
        if known is not None:
            return await self._pool.run(then, known.vector, known.tokens)
        made: list[tuple[Row, float]] = []
        start = time.perf_counter()

        def noting(vector: Vector, of_tokens: Vectors | None) -> R:
            made.append((row(vector, of_tokens), 1e3 * (time.perf_counter() - start)))
            return then(vector, of_tokens)

        assert isinstance(self._embedder, EmbedsThen)
        try:
            return await self._embedder.embed_then(text, noting, tokens=tokens)
        finally:
            if made:  # also where `then` failed: the vector is none the worse
                await self._keep(one, *made[0])


class _TokensThen(_Tokens, _Then):
    """Both."""


def cached(
    embedder: Embedder, kept: Kept[Row], *, seconds: float, pool: ThreadPool
) -> CachedEmbedder:
    """The embedder with a memory: `EmbedsTokens`, `EmbedsThen` or both where it is."""
    kinds = {
        (False, False): CachedEmbedder,
        (True, False): _Tokens,
        (False, True): _Then,
        (True, True): _TokensThen,
    }
    kind = kinds[isinstance(embedder, EmbedsTokens), isinstance(embedder, EmbedsThen)]
    return kind(embedder, kept, seconds=seconds, pool=pool)
