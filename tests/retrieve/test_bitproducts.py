"""Products of bits and small whole numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vivace.retrieve.bitproducts import MODEL, products


def test_the_graph_is_one_product() -> None:
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
