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
from vivace.retrieve.bitproducts import COLUMNS, products
from vivace.types import Scores, Signs, Vectors

_BLOCK: Final = 4096
"""Tokens of chunks at a time: as bits of 384 dimensions, a byte each, 1.5 MB."""
_MOST: Final = 127
"""The greatest of a question's components as a whole number."""


def maxsim(question: Vectors, chunks: Sequence[Signs]) -> Scores:
    """The mean, over the question's tokens, of the best dot product with a token of the chunk's.

    The question's tokens are rounded to 8 bits, each on a scale of its own, which moves a score by
    some .0003 where signs instead of floats move it by .05; everything after that is exact. On one
    thread; 20 chunks of 160 tokens and 12 tokens of a question take half a millisecond and 1.5 MB.

    Args:
        question: token vectors (q, dim) float32; of unit length the scores are from -1 to 1.
        chunks: token signs (t, ceil(dim / 8)) of each, taken as components of +-1/sqrt(dim).

    Returns:
        (len(chunks),) float32; 0 for a chunk without tokens, or a question without any. A chunk's
        score does not depend on the other chunks.

    Raises:
        BadVectors: signs of another dimension than the question's.
    """
    scores = np.zeros(len(chunks), np.float32)
    tokens, dim = question.shape
    width = -(-dim // 8)
    if not tokens:
        return scores
    scales = np.maximum(np.abs(question).max(axis=1), np.finfo(np.float32).tiny) / _MOST
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


def _columns(question: Vectors, width: int) -> NDArray[np.int8]:
    """The question's tokens as columns (8 * width, a multiple of `COLUMNS`); what is added is 0."""
    tokens, dim = question.shape
    columns = np.zeros((8 * width, -(-tokens // COLUMNS) * COLUMNS), np.int8)
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
