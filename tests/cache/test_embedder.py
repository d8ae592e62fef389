"""Vectors of questions: embedded once, to the bit, and only questions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from tests.retrieve.world import Words
from vivace.cache.adaptation import make_policy
from vivace.cache.embedder import CachedEmbedder, EmbeddedText, cached, decode, encode
from vivace.cache.memory import Memory
from vivace.cache.namespace import CacheNamespace
from vivace.cache.values import EMBEDDING
from vivace.embed.precomputed import Precomputed
from vivace.errors import BadFilter, EmbeddingError
from vivace.protocols import EmbedsTokens
from vivace.run.microbatch import EmbedsThen
from vivace.run.pools import ThreadPool
from vivace.types import Vector, Vectors

Kept = CacheNamespace[EmbeddedText]


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(1, "test")
    yield pool
    pool.close()


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def vectors() -> Kept:
    return Memory(1 << 20, make_policy("lru", 1 << 20)).namespace(EMBEDDING)


@pytest.fixture
def embedder(words: Words, vectors: Kept, pool: ThreadPool) -> CachedEmbedder:
    return cached(words, vectors, seconds=60, pool=pool)


async def test_a_question_is_embedded_once_and_to_the_bit(
    embedder: CachedEmbedder, words: Words
) -> None:
    plain = (await words.embed(["red apple"], kind="query")).vectors
    for _ in range(3):
        found = await embedder.embed(["red apple"], kind="query")
        assert found.vectors.tobytes() == plain.tobytes()
        found.vectors[:] = 0  # what one caller does is his own
    assert words.calls == [["red apple"]] * 2


async def test_of_many_only_the_new_ones_are_embedded_each_once(
    embedder: CachedEmbedder, words: Words
) -> None:
    await embedder.embed(["a", "b"], kind="query")
    found = await embedder.embed(["c", "a", "c", "d"], kind="query")
    assert words.calls == [["a", "b"], ["c", "d"]]
    plain = (await words.embed(["c", "a", "c", "d"], kind="query")).vectors
    assert found.vectors.tobytes() == plain.tobytes()


async def test_passages_and_nothing_pass_through(embedder: CachedEmbedder, words: Words) -> None:
    await embedder.embed(["a"], kind="passage")
    await embedder.embed(["a"], kind="passage")
    assert words.calls == [["a"], ["a"]]


async def test_token_vectors_are_kept_with_the_vector(
    embedder: CachedEmbedder, words: Words
) -> None:
    assert isinstance(embedder, EmbedsTokens)
    first = await embedder.embed_tokens(["red apple"], kind="query")
    again = await embedder.embed_tokens(["red apple"], kind="query")
    assert len(words.calls) == 1
    assert first.tokens is not None
    assert again.tokens is not None
    assert first.tokens[0].tobytes() == again.tokens[0].tobytes()
    assert not again.tokens[0].flags.writeable
    await embedder.embed(["red apple"], kind="query")  # of another pass of the model
    assert len(words.calls) == 2


async def test_what_goes_on_with_a_known_question_embeds_nothing(
    embedder: CachedEmbedder, words: Words
) -> None:
    assert isinstance(embedder, EmbedsThen)

    def then(vector: Vector, tokens: Vectors | None) -> tuple[bytes, int]:
        return vector.tobytes(), -1 if tokens is None else len(tokens)

    first = await embedder.embed_then("red apple", then, tokens=True)
    assert first == await embedder.embed_then("red apple", then, tokens=True)
    assert first[1] == 2
    assert len(words.calls) == 1
    assert (await embedder.embed_then("red apple", then))[1] == -1


async def test_a_vector_outlives_what_failed_with_it(
    embedder: CachedEmbedder, words: Words
) -> None:
    assert isinstance(embedder, EmbedsThen)

    def fail(vector: Vector, tokens: Vectors | None) -> None:
        raise BadFilter("no such key", fix="Use another")

    for _ in range(2):
        with pytest.raises(BadFilter):
            await embedder.embed_then("red apple", fail)
    assert len(words.calls) == 1


async def test_a_failure_is_not_kept(embedder: CachedEmbedder, words: Words) -> None:
    for _ in range(2):
        with pytest.raises(EmbeddingError):
            await embedder.embed(["poison"], kind="query")
    assert len(words.calls) == 2


async def test_a_hundred_at_once_are_embedded_once(embedder: CachedEmbedder, words: Words) -> None:
    await asyncio.gather(*(embedder.embed(["red apple"], kind="query") for _ in range(100)))
    assert words.calls == [["red apple"]]


async def test_another_model_shares_nothing(
    embedder: CachedEmbedder, vectors: Kept, pool: ThreadPool
) -> None:
    other = Words()
    other.name = "other words"
    await embedder.embed(["red apple"], kind="query")
    both = cached(other, vectors, seconds=60, pool=pool)
    await both.embed(["red apple"], kind="query")
    assert other.calls == [["red apple"]]


def test_it_can_do_what_the_embedder_can(vectors: Kept, pool: ThreadPool) -> None:
    made = cached(Precomputed(8), vectors, seconds=60, pool=pool)
    assert not isinstance(made, EmbedsTokens | EmbedsThen)
    assert (made.name, made.dim) == ("given:8", 8)


@pytest.mark.parametrize("tokens", [None, 0, 3])
def test_a_row_comes_back_from_its_bytes(tokens: int | None) -> None:
    rng = np.random.default_rng(0)
    of_tokens = None if tokens is None else rng.normal(size=(tokens, 5)).astype(np.float32)
    row = EmbeddedText(rng.normal(size=5).astype(np.float32), of_tokens)
    back = decode(encode(row))
    assert back.vector.tobytes() == row.vector.tobytes()
    assert (back.tokens is None) is (tokens is None)
    if back.tokens is not None and of_tokens is not None:
        assert back.tokens.shape == of_tokens.shape
        assert back.tokens.tobytes() == of_tokens.tobytes()
    for damaged in (encode(row)[:-1], encode(row) + b"\0", b"", b"\xff" * 9):
        with pytest.raises(ValueError, match="embedding"):
            decode(damaged)
