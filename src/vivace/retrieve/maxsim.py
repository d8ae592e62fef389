"""Late interaction over token sign bits: every token of the question finds its best in a chunk.

The score is ColBERT's (Khattab and Zaharia, "ColBERT: Efficient and Effective Passage Search via
Contextualized Late Interaction over BERT", 2020), as a mean and not a sum. A chunk's token vectors
are known by their signs alone, the question's as floats. `docs/decisions/0024` has what was tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vivace.errors import BadVectors
from vivace.types import Scores, Signs, Vectors

_BITS: Final = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
_COMPONENTS: Final = 2 * _BITS.astype(np.float32) - 1
"""(256, 8) float32: the eight components that a byte stands for."""
_BLOCK: Final = 1_024
"""Tokens of chunks at a time: as float32 of 384 dimensions 1.5 MB, which stay near the cache."""
_GROUP: Final = 32
"""Tokens of the question in one product."""
_ONE_THREAD: Final = 1 << 18
"""Multiplications up to which OpenBLAS stays on the calling thread: 65,536 times its
GEMM_MULTITHREAD_THRESHOLD of 4. Beyond it every product wakes a thread a core, and on cores that
others use each waits for all: 48 ms were measured where 1 ms is the work."""


def maxsim(question: Vectors, chunks: Sequence[Signs]) -> Scores:
    """The mean, over the question's tokens, of the best dot product with a token of the chunk's.

    On one thread; 20 chunks of 160 tokens and 12 tokens of a question take about a millisecond, and
    3 MB.

    Args:
        question: token vectors (q, dim) float32; of unit length the scores are from -1 to 1.
        chunks: token signs (t, ceil(dim / 8)) of each, taken as components of +-1/sqrt(dim).

    Returns:
        (len(chunks),) float32; 0 for a chunk without tokens, or a question without any. A chunk's
        score depends on the other chunks by float32's rounding at most.

    Raises:
        BadVectors: signs of another dimension than the question's.
    """
    scores = np.zeros(len(chunks), np.float32)
    tokens, dim = question.shape
    width = -(-dim // 8)
    if tokens:
        columns = _columns(question, width)
        for places in _blocks(chunks):
            parts = [chunks[at] for at in places]
            if any(part.shape[1] != width for part in parts):
                raise BadVectors(
                    f"token signs are not of the question's {dim} dimensions",
                    fix="Embed the collection anew: vivace rebuild --reembed",
                )
            starts = np.cumsum([0, *map(len, parts[:-1])])
            best = np.maximum.reduceat(_products(columns, np.concatenate(parts)), starts, axis=0)
            scores[places] = best[:, :tokens].mean(axis=1)
        scores /= np.float32(dim**0.5)
    return scores


def _columns(question: Vectors, width: int) -> NDArray[np.float32]:
    """The question's tokens as columns (8 * width, an even number); what is added is zero.

    With one column numpy would not multiply matrices, and threads come sooner there; an odd number
    is slower than the next (seven 1.09 ms, eight .84).
    """
    tokens, dim = question.shape
    columns = np.zeros((8 * width, tokens + tokens % 2), np.float32)
    columns[:dim, :tokens] = question.T
    return columns


def _blocks(chunks: Sequence[Signs]) -> Iterator[list[int]]:
    """Places of chunks with tokens: as many in a row as a block holds, at least one."""
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


def _products(columns: NDArray[np.float32], signs: Signs) -> NDArray[np.float32]:
    """Every row of signs, as +-1, by every column: (rows, columns) float32.

    As many small products as keep each on this thread; numpy goes through them in C.
    """
    dim, tokens = columns.shape
    group = min(tokens, _GROUP)
    rows = max(1, _ONE_THREAD // (group * dim))
    rows -= rows % 8 if rows > 8 else 0  # what the kernels take at a time
    count = len(signs)
    whole = -(-count // rows) * rows
    components = np.empty((whole, dim), np.float32)
    filled = components[:count].reshape(count, dim // 8, 8)
    np.take(_COMPONENTS, signs, axis=0, out=filled, mode="clip")
    components[count:] = 0
    products = np.empty((whole, tokens), np.float32)
    for at in range(0, tokens, group):
        here = slice(at, at + group)
        np.matmul(
            components.reshape(-1, rows, dim),
            columns[:, here],
            out=products[:, here].reshape(-1, rows, products[:, here].shape[1]),
        )
    return products[:count]
