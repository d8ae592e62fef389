"""Making and merging `Matches`: descending scores, ties by ascending id, padding last."""

from __future__ import annotations

from collections.abc import Sequence
from operator import gt
from typing import Final

import numpy as np

from vivace.types import Ids, Matches, Scores

ROUNDING: Final = 1e-6
"""How far a family's scores may differ from those of a scan, relative to 1 or the larger score."""


def empty(queries: int, k: int) -> Matches:
    """Matches (queries, k) of padding only."""
    return Matches(np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32))


def best(ids: Ids, scores: Scores, k: int) -> Matches:
    """The k best of each row of candidates (q, n); padding is id -1 with score -inf."""
    # padding has the lowest score already, so its id decides nothing
    order = np.lexsort((ids, -scores), axis=-1)[:, :k]
    if len(order) == 1:  # plain indexing is several times cheaper, and most searches are one query
        found = Matches(ids[:, order[0]], scores[:, order[0]])
    else:
        found = Matches(
            np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
        )
    missing = k - order.shape[1]
    if missing <= 0:
        return found
    padding = empty(len(ids), missing)
    return Matches(np.hstack([found.ids, padding.ids]), np.hstack([found.scores, padding.scores]))


def of_rows(table: Ids, rows: Ids, scores: Scores, k: int) -> Matches:
    """The k best of rows (q, n >= k) by descending score, -1 last, as ids of `table`."""
    if len(rows) == 1:
        # most searches are one query without ties, and have nothing to sort
        row = scores[0].tolist()  # Python compares so few sooner than numpy
        if len(row) >= k and rows.item(-1) >= 0 and all(map(gt, row, row[1:])):
            return Matches(table.take(rows[:, :k]), scores[:, :k])
    return best(np.where(rows < 0, -1, table.take(rows, mode="clip")), scores, k)


def merge(parts: Sequence[Matches], queries: int, k: int) -> Matches:
    """The k best over parts that hold different ids."""
    if not parts:
        return empty(queries, k)
    if len(parts) == 1:
        return parts[0]
    ids = np.concatenate([p.ids for p in parts], axis=1)
    return best(ids, np.concatenate([p.scores for p in parts], axis=1), k)


def stacked(rows: Sequence[Matches]) -> Matches:
    """Matches of one query after another, of equal k."""
    return Matches(np.vstack([m.ids for m in rows]), np.vstack([m.scores for m in rows]))
