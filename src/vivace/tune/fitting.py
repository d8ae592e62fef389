"""Weights of features from judged questions, and whether they are worth having.

The weights are those of a linear pairwise model: the logistic loss of the differences between a
question's relevant and other candidates (Burges et al., "Learning to Rank using Gradient Descent",
2005; with one layer), a question's pairs together weighing one, by Newton's method. Whether it
helps is measured on questions that a fit had not seen, by cross-validation, as it would be served:
blended into the ranking there was.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from vivace.retrieve import rerank
from vivace.retrieve.fitted import NAMES, Features, FittedModel
from vivace.tune import metrics
from vivace.tune.bootstrap import difference
from vivace.types import Bitmap, Scores

FOLDS: Final = 5
FEWEST: Final = 50
"""Judged questions, of different groups, below which nothing is fitted: an interval of fewer is not
to be trusted."""
_RIDGE: Final = 1e-2
"""Of the squared weights of features brought to a spread of one, a question."""
_STEPS: Final = 30
_STILL: Final = 1e-8
_AT: Final = 10

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """One question's candidates, best first, and which of them are relevant."""

    features: Features
    """(n, len(NAMES))."""
    fused: Scores
    """(n,) descending: the ranking to be bettered."""
    relevant: Bitmap
    """(n,)."""
    known: int
    """Relevant ones in all, found or not."""
    group: Hashable = None
    """Questions of one group are never on both sides of a fold; None is a group of its own."""


def fit(
    judged: Sequence[Judged], collection: str, *, blend: float = 0.5, seed: int = 0
) -> FittedModel:
    """The model of all these questions, with the gain measured by cross-validation over them.

    Questions without a relevant chunk anywhere say nothing and are left out. With fewer than
    `FEWEST` groups left the model has no weights and is not enabled.

    Args:
        collection: uuid of the one that was searched; no other may use the model.
        blend: weight of the reranker's side that it will be served with.
    """
    asked = [one for one in judged if one.known]
    groups = _groups(asked)
    most = int(groups.max()) + 1 if asked else 0
    depth = max((len(one.fused) for one in asked), default=0)
    model = FittedModel(
        collection, (0.0,) * len(NAMES), blend, depth, len(asked), 0.0, 0.0, 0.0, enabled=False
    )
    if most < FEWEST:
        return model
    gain = difference(_gains(asked, groups, model, seed), groups.tolist(), seed=seed)
    return replace(
        model,
        weights=tuple(weigh(asked).tolist()),
        gain=gain.mean,
        low=gain.low,
        high=gain.high,
        enabled=gain.better,
    )


def gains(judged: Sequence[Judged], model: FittedModel) -> Weights:
    """(q,) What each question's nDCG@10 gains by the model, blended in as it would be served."""
    return np.array([_gain(one, model) for one in judged], np.float64)


def weigh(judged: Sequence[Judged]) -> Weights:
    """(features,) The weights of least loss; 0 of a feature that never differs."""
    differences, shares = _pairs(judged)
    spread = np.sqrt(shares @ differences**2 / max(shares.sum(), 1.0))
    varies = spread > 0
    scale = np.where(varies, 1 / np.where(varies, spread, 1), 0)
    rows = differences * scale
    weights = np.zeros(len(NAMES))
    questions = max(float(shares.sum()), 1.0)
    ridge = _RIDGE * questions * np.eye(len(NAMES))
    for _ in range(_STEPS):
        wrong = _sigmoid(-rows @ weights)
        gradient = ridge @ weights - rows.T @ (shares * wrong)
        curvature = ridge + (rows * (shares * wrong * (1 - wrong))[:, None]).T @ rows
        step = np.linalg.solve(curvature, gradient)
        # far from the minimum a whole step of Newton's may overshoot it
        step /= max(1.0, float(np.abs(step).max()))
        weights -= step
        if np.abs(step).max() < _STILL:
            break
    return weights * scale


def _pairs(judged: Sequence[Judged]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(pairs, features) a relevant candidate's features less another one's; (pairs,) its share."""
    rows: list[NDArray[np.float64]] = [np.zeros((0, len(NAMES)))]
    shares: list[NDArray[np.float64]] = [np.zeros(0)]
    for one in judged:
        found = one.features.astype(np.float64)
        better, worse = found[one.relevant], found[~one.relevant]
        if count := len(better) * len(worse):
            rows.append((better[:, None] - worse[None]).reshape(count, len(NAMES)))
            shares.append(np.full(count, 1 / count))
    return np.concatenate(rows), np.concatenate(shares)


def _gains(
    judged: Sequence[Judged], groups: NDArray[np.int64], model: FittedModel, seed: int
) -> Weights:
    """(q,) The same of the model with weights that were fitted without the question's group."""
    folds = np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups] % FOLDS
    found = np.zeros(len(judged))
    for fold in range(FOLDS):
        weights = weigh([one for one, at in zip(judged, folds, strict=True) if at != fold])
        unseen = np.flatnonzero(folds == fold).tolist()
        found[unseen] = gains(
            [judged[at] for at in unseen], replace(model, weights=tuple(weights.tolist()))
        )
    return found


def _gain(one: Judged, model: FittedModel) -> float:
    places = np.arange(len(one.fused))
    again = rerank.blend(one.fused, model.scores(one.features), model.blend)
    return _ndcg(one, rerank.order(places, again, len(places))) - _ndcg(one, places)


def _ndcg(one: Judged, places: NDArray[np.int64]) -> float:
    found = {str(place) for place in np.flatnonzero(one.relevant)}
    missed = {f"missed {n}" for n in range(one.known - len(found))}
    return metrics.ndcg([str(place) for place in places], found | missed, _AT)


def _groups(judged: Sequence[Judged]) -> NDArray[np.int64]:
    """(q,) numbers from 0 up."""
    numbers: dict[Hashable, int] = {}
    keys = [("", at) if one.group is None else one.group for at, one in enumerate(judged)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * x))
    return found
