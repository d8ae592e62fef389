"""Two rankings into one, as functions over arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vivace.types import Ids, Matches, Scores


@dataclass(frozen=True, slots=True)
class Candidates:
    """What either side proposed, each id once; the scores are of the same length as `ids`."""

    ids: Ids
    bm25: Scores
    """0 where the keyword side did not propose it."""
    cosine: Scores
    """-inf where the dense side did not propose it."""


def candidates(keyword: Matches, dense: Matches | None) -> Candidates:
    """The union of two rankings of one query.

    Over some hundred ids plain dictionaries are twice as fast as numpy's set functions.
    """
    bm25 = dict(zip(keyword.ids[0].tolist(), keyword.scores[0].tolist(), strict=True))
    near = [] if dense is None else [id for id in dense.ids[0].tolist() if id >= 0]
    here = set(near)
    ids = near + [id for id in bm25 if id not in here]
    cosine = np.full(len(ids), -np.inf, np.float32)
    if dense is not None:
        cosine[: len(near)] = dense.scores[0, : len(near)]
    return Candidates(
        np.array(ids, np.int64),
        np.array([bm25.get(id, 0.0) for id in ids], np.float32),
        cosine,
    )


def max_norm(bm25: Scores, cosine: Scores, weight: float) -> Scores:
    """`w * bm25/max(bm25) + (1 - w) * cosine`.

    Dividing by the best keyword score of the query puts it on the scale of a cosine. On English
    paragraphs it was measured above reciprocal ranks (R@1 83.5 against 76.2).
    """
    best = float(bm25.max(initial=0.0))
    scaled = bm25 / best if best > 0 else bm25
    return (weight * scaled + (1 - weight) * cosine).astype(np.float32)
