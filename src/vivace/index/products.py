"""Candidates for many queries at once: blocks of rows as float32, multiplied as matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.index import native
from vivace.types import Ids, Metric, Scores, Vectors

WORTH = 24
"""Queries from which on turning float16 rows into float32 costs less than it saves."""
_BLOCK = 1_024
"""Rows multiplied at a time: they stay in the cache, and BLAS stays on this thread."""
_GATHERED = 16
"""Blocks of which the best are looked through together."""


@dataclass(frozen=True, slots=True)
class Near:
    """`ids` are rows (q, width), `scores` (q, width) theirs up to `rounding`, best first."""

    ids: Ids
    scores: Scores
    longest: float
    """Length of the longest row."""


def nearest(rows: Any, queries: Vectors, width: int) -> Near:
    """The best `width` rows of a FAISS index of float16 rows, up to rounding; at most all rows.

    Memory: the rows of a block as float32, and `width` candidates a query for each of some blocks.
    """
    import faiss

    untyped: Any = faiss
    # from so many queries on FAISS leaves products to BLAS: as it comes, from 128,000. It holds for
    # the process, and cells of `ivf` gain by it too
    untyped.cvar.distance_compute_blas_threshold = WORTH
    l2 = rows.metric_type == untyped.METRIC_L2
    block = np.empty((_BLOCK, rows.d), np.float32)
    scores = np.empty((len(queries), 0), np.float32)
    ids = np.empty((len(queries), 0), np.int64)
    best: list[tuple[Scores, Ids]] = [(scores, ids)]
    longest = 0.0
    for at in range(0, rows.ntotal, _BLOCK):
        count = min(_BLOCK, rows.ntotal - at)
        part = block[:count]
        native.one_thread()
        rows.reconstruct_n(at, count, part)
        longest = max(longest, float(np.einsum("ij,ij->i", part, part).max()))
        found, here = untyped.knn(queries, part, min(width, count), rows.metric_type)
        best.append((-found if l2 else found, here + at))
        if len(best) > _GATHERED:
            best = [_best(best, width)]
    scores, ids = _best(best, width)
    return Near(ids, scores, longest**0.5)


def rounding(queries: Vectors, longest: float, dim: int, metric: Metric) -> NDArray[np.float64]:
    """How far two float32 sums (q,) over `dim` products can be apart (Higham, "Accuracy and
    Stability of Numerical Algorithms", 2002, section 3.1)."""
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    size = (lengths + longest) ** 2 if metric == "l2" else lengths * longest
    bound: NDArray[np.float64] = 2 * (dim + 4) * 2.0**-24 * size
    return bound


def _best(parts: list[tuple[Scores, Ids]], width: int) -> tuple[Scores, Ids]:
    scores, ids = np.hstack([p[0] for p in parts]), np.hstack([p[1] for p in parts])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
