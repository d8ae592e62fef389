"""Token vectors as their signs: a bit a component, a 32nd of what float32 takes."""

from __future__ import annotations

import numpy as np

from vivace.types import Signs, Vectors


def signs(tokens: Vectors, *, pooled: bool = False) -> Signs:
    """The signs (t, ceil(dim / 8)) of token vectors (t, dim) of unit length.

    With `pooled` those of the means of neighbours, two by two; an odd one at the end is alone.
    """
    if pooled:
        rows = np.zeros((-(-len(tokens) // 2), tokens.shape[1]), np.float32)
        rows[:] = tokens[::2]
        rows[: len(tokens) // 2] += tokens[1::2]
        tokens = rows
    return np.packbits(tokens > 0, axis=1)
