"""Late interaction over token sign bits: each query token is matched to its best token of a chunk.

The score is ColBERT's (Khattab and Zaharia, "ColBERT: Efficient and Effective Passage Search via
Contextualized Late Interaction over BERT", 2020), as a mean instead of a sum. Chunk token vectors
are stored as their signs alone, query token vectors are floats. `docs/decisions/0024` has what was
tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivace.errors import BadVectors
from vivace.types import Scores, Signs, Vectors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_BLOCK: Final = 4096
"""Chunk tokens multiplied at once: as bits of 384 dimensions, a byte each, 1.5 MB."""
_SCALE: Final = 127
"""The largest component of a query token after rounding to 8 bits."""
MODEL: Final = (
    b'\x08\x08:e\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulI'
    b"nteger\x12\x04bitsZ\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12"
    b"\n\n\x03\x12\x01n\n\x03\x12\x01dZ\x15\n\x01b\x12\x10\n\x0e\x08\x03\x12\n"
    b"\n\x03\x12\x01d\n\x03\x12\x01qb\x15\n\x01c\x12\x10\n\x0e\x08\x06\x12\n\n"
    b"\x03\x12\x01n\n\x03\x12\x01qB\x04\n\x00\x10\r"
)
"""c = a @ b as an ONNX graph of one node; a test rebuilds it with the `onnx` package."""
COLUMNS: Final = 8
"""Columns that the kernels process at a time: nine took 453 us, eight 265 and sixteen 297."""

Bits: TypeAlias = NDArray[np.uint8]
SmallInts: TypeAlias = NDArray[np.int8]
Products: TypeAlias = NDArray[np.int32]


def maxsim(question: Vectors, chunks: Sequence[Signs]) -> Scores:
    """The mean over the query tokens of each one's largest dot product with a token of the chunk.

    Query tokens are rounded to 8 bits, each on its own scale, which moves a score by some .0003
    where signs instead of floats move it by .05; everything after that is exact. Runs on the
    calling thread; 20 chunks of 160 tokens and 12 query tokens take half a millisecond and 1.5 MB.

    Args:
        question: token vectors (q, dim) float32; of unit length the scores are from -1 to 1.
        chunks: token signs (t, ceil(dim / 8)) of each, taken as components of +-1/sqrt(dim).

    Returns:
        (len(chunks),) float32; 0 for a chunk without tokens, or a question without any. A chunk's
        score does not depend on the other chunks.

    Raises:
        BadVectors: the signs have another dimension than the question.
    """
    scores = np.zeros(len(chunks), np.float32)
    tokens, dim = question.shape
    width = -(-dim // 8)
    if not tokens:
        return scores
    scales = np.maximum(np.abs(question).max(axis=1), np.finfo(np.float32).tiny) / _SCALE
    columns = _columns(np.rint(question / scales[:, None]), width)
    sums = columns.sum(axis=0, dtype=np.int32)[:tokens]
    # of unit length, as the chunks' components are +-1/sqrt(dim); and a mean over the tokens
    scales /= tokens * dim**0.5
    for places in _blocks(chunks):
        parts = [chunks[at] for at in places]
        if any(part.shape[1] != width for part in parts):
            raise BadVectors(
                f"token signs are not of the question's {dim} dimensions",
                fix="Embed the collection anew: vivace rebuild --reembed",
            )
        starts = np.cumsum([0, *map(len, parts[:-1])])
        bits = np.unpackbits(np.concatenate(parts), axis=1)
        best = np.maximum.reduceat(products(bits, columns), starts, axis=0)[:, :tokens]
        # with a bit b for every component +-1: the sum of (2b - 1) * q
        scores[places] = (2 * best - sums) @ scales
    return scores


def _columns(question: Vectors, width: int) -> SmallInts:
    """The query tokens as columns (8 * width, a multiple of `COLUMNS`), padded with 0."""
    tokens, dim = question.shape
    columns = np.zeros((8 * width, -(-tokens // COLUMNS) * COLUMNS), np.int8)
    columns[:dim, :tokens] = question.T
    return columns


def _blocks(chunks: Sequence[Signs]) -> Iterator[list[int]]:
    """Places of chunks with tokens, in groups of at most `_BLOCK` tokens or of one chunk."""
    block: list[int] = []
    size = 0
    for place, signs in enumerate(chunks):
        if block and size + len(signs) > _BLOCK:
            yield block
            block, size = [], 0
        if len(signs):
            block.append(place)
            size += len(signs)
    if block:
        yield block


def products(bits: Bits, numbers: SmallInts) -> Products:
    """(n, dim) zeros and ones times (dim, columns) int8: exact, on the calling thread.

    By the integer kernels of onnxruntime: numpy has none, and converting the bits to floats first
    takes four times the memory and three times as long (`docs/decisions/0024`).
    """
    found: Products = _session().run(None, {"a": bits, "b": numbers})[0]
    return found


@cache
def _session() -> InferenceSession:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
