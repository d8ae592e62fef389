"""Late interaction against its definition."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vivace.embed.passages import token_signs
from vivace.errors import BadVectors
from vivace.retrieve.maxsim import MODEL, maxsim, products
from vivace.types import Signs, Vectors


def unit(count: int, dim: int, seed: int) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    scaled: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def by_definition(question: Vectors, chunk: Signs) -> float:
    dim = question.shape[1]
    bits = np.unpackbits(chunk, axis=1)[:, :dim].astype(np.float64)
    components = (2 * bits - 1) / np.sqrt(dim)
    return float((question.astype(np.float64) @ components.T).max(axis=1).mean())


@pytest.mark.parametrize("tokens", [1, 2, 3, 12, 33, 64, 254])
@pytest.mark.parametrize("dim", [384, 20, 8])
def test_maxsim_is_the_mean_of_each_tokens_best_product(tokens: int, dim: int) -> None:
    question = unit(tokens, dim, tokens)
    lengths = [1, 160, 7, 254, 1, 333, 90, 200, 2]
    chunks = [token_signs(unit(length, dim, length)) for length in lengths]
    scores = maxsim(question, chunks)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(
        scores, [by_definition(question, c) for c in chunks], atol=4e-3 if dim < 384 else 1e-3
    )


def test_a_chunk_longer_than_a_block_is_scored() -> None:
    question, chunk = unit(5, 24, 0), token_signs(unit(3_000, 24, 1))
    found = maxsim(question, [token_signs(unit(4, 24, 2)), chunk, token_signs(unit(9, 24, 3))])
    assert found[1] == pytest.approx(by_definition(question, chunk), abs=4e-3)


def test_without_tokens_the_score_is_zero() -> None:
    empty = np.zeros((0, 48), np.uint8)
    chunk = token_signs(unit(30, 384, 1))
    scores = maxsim(unit(4, 384, 0), [empty, chunk, empty])
    assert scores[[0, 2]].tolist() == [0, 0]
    assert scores[1] > 0
    assert maxsim(unit(4, 384, 0), [empty]).tolist() == [0]
    assert maxsim(unit(4, 384, 0), []).shape == (0,)
    assert maxsim(unit(0, 384, 0), [chunk]).tolist() == [0]


def test_a_score_does_not_depend_on_the_other_chunks() -> None:
    question = unit(12, 384, 0)
    chunks = [token_signs(unit(100 + at, 384, at)) for at in range(20)]
    alone = [maxsim(question, [chunk])[0] for chunk in chunks]
    assert maxsim(question, chunks).tolist() == alone


def test_the_same_words_are_nearest() -> None:
    question = unit(6, 384, 0)
    strangers = [token_signs(unit(50, 384, at)) for at in range(1, 6)]
    holding = token_signs(np.concatenate([unit(40, 384, 9), question]))
    assert maxsim(question, [*strangers, holding]).argmax() == 5


def test_signs_of_another_model_are_refused() -> None:
    with pytest.raises(BadVectors, match="384 dimensions"):
        maxsim(unit(3, 384, 0), [np.zeros((5, 32), np.uint8)])


def test_what_the_question_is_rounded_to_is_scored_exactly() -> None:
    whole = np.random.default_rng(3).integers(-127, 128, (11, 40)).astype(np.float32)
    whole[:, 0] = 127  # so that every scale is one
    chunks = [token_signs(unit(length, 40, length)) for length in (3, 50, 700)]
    np.testing.assert_allclose(
        maxsim(whole, chunks), [by_definition(whole, chunk) for chunk in chunks], rtol=1e-6
    )


def test_zero_tokens_score_zero() -> None:
    question = unit(4, 384, 0)
    question[1] = 0
    chunk = token_signs(unit(30, 384, 1))
    assert maxsim(question, [chunk])[0] == pytest.approx(by_definition(question, chunk), abs=4e-3)
    assert maxsim(np.zeros((2, 384), np.float32), [chunk]).tolist() == [0]


def test_the_onnx_graph_is_one_product() -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "bits",
        [
            helper.make_tensor_value_info("a", TensorProto.UINT8, ["n", "d"]),
            helper.make_tensor_value_info("b", TensorProto.INT8, ["d", "q"]),
        ],
        [helper.make_tensor_value_info("c", TensorProto.INT32, ["n", "q"])],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert onnx.load_from_string(MODEL) == built


@pytest.mark.parametrize("shape", [(1, 8, 8), (0, 8, 8), (700, 384, 16), (33, 1024, 24)])
def test_products_are_exact_also_at_the_extremes(shape: tuple[int, int, int]) -> None:
    rows, dim, columns = shape
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (rows, dim), np.uint8)
    bits[: rows // 2] = 1
    for numbers in (rng.integers(-127, 128, (dim, columns)), np.full((dim, columns), -127)):
        small = numbers.astype(np.int8)
        found = products(bits, small)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, bits.astype(np.int64) @ numbers)
