"""Late interaction: how well do a chunk's words answer each of the question's?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vivace.types import Scores, Signs, Vectors


def maxsim(question: Vectors, chunks: Sequence[Signs]) -> Scores:
    """The mean over the question's tokens of the best product with a token of the chunk's.

    (len(chunks),) float32; 0 for a chunk without tokens. Khattab, Zaharia, "ColBERT", 2020.

    Args:
        question: (q, dim) float32.
        chunks: sign bits, taken as vectors of +-1/sqrt(dim).
    """
    scores = np.zeros(len(chunks), np.float32)
    dim = question.shape[1]
    if not len(question):
        return scores
    for at, signs in enumerate(chunks):
        if len(signs):
            bits = np.unpackbits(signs, axis=1, count=dim).astype(np.float32)
            products = question @ (2 * bits - 1).T
            scores[at] = products.max(axis=1).mean() / np.sqrt(dim)
    return scores
