"""Products of bits and small whole numbers, by the integer kernels of onnxruntime.

numpy multiplies whole numbers without a kernel for it; floats, made of the bits first, take four
times the memory and three times as long. `docs/decisions/0024` has the figures.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Bits: TypeAlias = NDArray[np.uint8]
Small: TypeAlias = NDArray[np.int8]
Wide: TypeAlias = NDArray[np.int32]

MODEL: Final = (
    b'\x08\x08:e\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulI'
    b"nteger\x12\x04bitsZ\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12"
    b"\n\n\x03\x12\x01n\n\x03\x12\x01dZ\x15\n\x01b\x12\x10\n\x0e\x08\x03\x12\n"
    b"\n\x03\x12\x01d\n\x03\x12\x01qb\x15\n\x01c\x12\x10\n\x0e\x08\x06\x12\n\n"
    b"\x03\x12\x01n\n\x03\x12\x01qB\x04\n\x00\x10\r"
)
"""c = a @ b as an ONNX graph of one node; a test builds it anew with the `onnx` package."""
COLUMNS: Final = 8
"""What the kernels take at a time: nine columns took 453 us, eight 265 and sixteen 297."""


def products(bits: Bits, numbers: Small) -> Wide:
    """(n, dim) zeros and ones by (dim, columns): exact, on the calling thread."""
    found: Wide = _session().run(None, {"a": bits, "b": numbers})[0]
    return found


@cache
def _session() -> InferenceSession:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
