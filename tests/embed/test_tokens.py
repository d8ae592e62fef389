"""Token vectors: of the same forward pass, and their signs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from vivace.embed.local import LocalEmbedder, Text
from vivace.embed.minilm import MiniLM
from vivace.embed.passages import token_signs
from vivace.embed.precomputed import Precomputed
from vivace.protocols import EmbedsTokens
from vivace.run.microbatch import EmbedsThen
from vivace.types import Vector, Vectors

TEXTS = [
    "How do I reset my password?",
    "The cat sat on the mat, and the dog beside it. " * 8,
    "Paris",
    "Quantum error correction protects information from decoherence, at the price of qubits.",
    "3.14159",
    "",
]


@pytest.fixture(scope="module")
def model() -> Iterator[MiniLM]:
    model = MiniLM(workers=1, batch=8)
    yield model
    model.close()


def wanted(text: str, *, tokens: bool = True) -> Text:
    return Text(text, "query", tokens=tokens)


def test_who_has_token_vectors(model: MiniLM) -> None:
    assert isinstance(model, EmbedsTokens)
    assert isinstance(model, EmbedsThen)
    assert not hasattr(LocalEmbedder, "embed_tokens")
    assert not isinstance(Precomputed(4), EmbedsTokens)


async def test_a_vector_of_unit_length_for_every_token_but_the_special_ones(model: MiniLM) -> None:
    found = await model.embed_tokens([*TEXTS, "word " * 1_000], kind="query")
    assert found.tokens is not None
    counts = [*model.count_tokens(TEXTS), 254]
    assert [rows.shape for rows in found.tokens] == [(count, 384) for count in counts]
    for rows in found.tokens:
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


async def test_the_sentence_vector_is_the_same_to_the_bit(model: MiniLM) -> None:
    for text in TEXTS:
        plain = (await model.embed([text], kind="query")).vectors
        beside = (await model.embed_tokens([text], kind="query")).vectors
        assert np.array_equal(plain, beside)
        then = await model.embed_then(text, lambda vector, _: vector, tokens=True)
        assert np.array_equal(plain[0], then)
    together = np.stack(model.encode([wanted(text, tokens=False) for text in TEXTS]))
    beside = np.stack([row.vector for row in model.encode_tokens(list(map(wanted, TEXTS)))])
    assert np.array_equal(together, beside)


def test_token_vectors_never_depend_on_batch_mates(model: MiniLM) -> None:
    together = model.encode_tokens(list(map(wanted, TEXTS)))
    for text, encoded in zip(TEXTS, together, strict=True):
        (alone,) = model.encode_tokens([wanted(text)])
        assert alone.tokens is not None
        assert encoded.tokens is not None
        # to the bit on the machines seen; a sign may turn only where a component is about 0
        np.testing.assert_allclose(encoded.tokens, alone.tokens, atol=1e-6)
        turned = (encoded.tokens > 0) != (alone.tokens > 0)
        assert (np.abs(alone.tokens[turned]) < 1e-6).all()


def test_only_who_asks_gets_them(model: MiniLM) -> None:
    mixed = model.encode_tokens([wanted("one"), wanted("two", tokens=False), wanted("three")])
    assert [row.tokens is None for row in mixed] == [False, True, False]


async def test_a_question_goes_on_with_them_where_they_were_asked_for(model: MiniLM) -> None:
    def then(vector: Vector, tokens: Vectors | None) -> tuple[int, ...] | None:
        assert vector.shape == (384,)
        return None if tokens is None else tokens.shape

    assert await model.embed_then("two words", then) is None
    assert await model.embed_then("two words", then, tokens=True) == (2, 384)
    assert (await model.embed(["two words"], kind="query")).tokens is None


async def test_a_passage_it_cannot_read_has_none(model: MiniLM) -> None:
    found = await model.embed_tokens(
        ["维瓦切是一个检索引擎。", "It reads English."], kind="passage"
    )
    assert found.tokens is not None
    assert [rows.shape for rows in found.tokens] == [(0, 384), (4, 384)]
    assert not found.vectors[0].any()


async def test_no_texts_give_no_vectors(model: MiniLM) -> None:
    found = await model.embed_tokens([], kind="passage")
    assert (found.vectors.shape, found.tokens) == ((0, 384), ())


def test_a_set_bit_is_a_component_above_zero() -> None:
    row = np.array([[0.5, -0.5, 0.0, 1e-9, -1, 1, 1, -1, 0.1]], np.float32)
    assert token_signs(row).tolist() == [[0b10010110, 0b10000000]]
    assert token_signs(np.zeros((0, 9), np.float32)).shape == (0, 2)


def test_pooled_signs_are_of_the_mean_of_two_neighbours() -> None:
    rows = np.array([[3, -1], [-1, -1], [-2, 1], [1, 1], [-1, 1]], np.float32)
    assert token_signs(rows, pooled=True).tolist() == [[0b10 << 6], [0b01 << 6], [0b01 << 6]]
    assert token_signs(rows[:0], pooled=True).shape == (0, 1)
