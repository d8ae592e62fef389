"""A reranker fitted to a collection's own labels, and whether it is worth using.

The weights are those of a linear pairwise model: the logistic loss of the differences between a
question's relevant and other candidates (Burges et al., "Learning to Rank using Gradient Descent",
2005; with one layer), minimised by Newton's method; the pairs of one question together weigh one.
Cross-validation measures whether it helps, on questions that the fit has not seen and as it would
be served: blended into the ranking before it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from vivace.collection.corpus import Corpus
from vivace.errors import BadSettings, CorruptIndex, StoreUnwritable
from vivace.protocols import CandidateSource
from vivace.retrieve import fitted, rerank
from vivace.retrieve.fitted import NAMES, Features, FittedModel, FittedReranker, features
from vivace.trace import Trace
from vivace.tune import replay
from vivace.tune.labels import LabelledQuestion
from vivace.tune.metrics import difference, ndcg_of, numbered
from vivace.tune.quality import fusion_of
from vivace.tune.replay import CandidatePool
from vivace.types import Bitmap, Decision, Scores, Stages

SETTING: Final = "fitted"
"""The value of `search.rerank` that uses the fitted reranker."""
FOLDS: Final = 5
FEWEST: Final = 50
"""Groups of judged questions below which nothing is fitted: an interval of fewer is unreliable."""
_RIDGE: Final = 1e-2
"""Penalty per question on the squared weights of features scaled to a spread of one."""
_STEPS: Final = 30
_STILL: Final = 1e-8
_AT: Final = 10

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class JudgedRanking:
    """One question's candidates, best first, and which of them are relevant."""

    features: Features
    """(n, len(NAMES))."""
    fused: Scores
    """(n,) descending: the ranking to improve."""
    relevant: Bitmap
    """(n,)."""
    known: int
    """Relevant candidates that exist, found or not."""
    group: Hashable = None
    """Questions of one group stay on the same side of a fold; None is a group of its own."""


def fit(
    judged: Sequence[JudgedRanking], collection: str, *, blend: float = 0.5, seed: int = 0
) -> FittedModel:
    """The model of all these questions, with its gain measured by cross-validation over them.

    Questions without a relevant chunk anywhere are left out. With fewer than `FEWEST` groups left
    the model has no weights and is not enabled.

    Args:
        collection: uuid of the collection that was searched; no other may use the model.
        blend: weight of the reranker's side when it is served.
    """
    asked = [one for one in judged if one.known]
    groups = numbered(
        [("", at) if one.group is None else one.group for at, one in enumerate(asked)]
    )
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


def gains(judged: Sequence[JudgedRanking], model: FittedModel) -> Weights:
    """(q,) gain of each question's nDCG@10 by the model, blended as it would be served."""
    return np.array([_gain(one, model) for one in judged], np.float64)


def weigh(judged: Sequence[JudgedRanking]) -> Weights:
    """(features,) the weights of least loss; 0 for a feature that never differs."""
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
        # far from the minimum a full Newton step may overshoot
        step /= max(1.0, float(np.abs(step).max()))
        weights -= step
        if np.abs(step).max() < _STILL:
            break
    return weights * scale


def _pairs(judged: Sequence[JudgedRanking]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(pairs, features) a relevant candidate's features minus another's; (pairs,) weights."""
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
    judged: Sequence[JudgedRanking], groups: NDArray[np.int64], model: FittedModel, seed: int
) -> Weights:
    """(q,) gains with weights that were fitted without the question's group."""
    folds = np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups] % FOLDS
    found = np.zeros(len(judged))
    for fold in range(FOLDS):
        weights = weigh([one for one, at in zip(judged, folds, strict=True) if at != fold])
        unseen = np.flatnonzero(folds == fold).tolist()
        found[unseen] = gains(
            [judged[at] for at in unseen], replace(model, weights=tuple(weights.tolist()))
        )
    return found


def _gain(one: JudgedRanking, model: FittedModel) -> float:
    places = np.arange(len(one.fused))
    blended = rerank.blend(one.fused, model.scores(one.features), model.blend)
    reranked = rerank.order(places, blended, len(places))
    before, after = one.relevant.tolist(), one.relevant[reranked].tolist()
    return ndcg_of(after, one.known, _AT) - ndcg_of(before, one.known, _AT)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * x))
    return found


# -- of one collection ------------------------------------------------------------------------


def fit_collection(
    corpus: Corpus,
    source: CandidateSource,
    questions: Sequence[LabelledQuestion],
    pools: Sequence[CandidatePool],
    stages: Stages,
) -> FittedModel:
    """The model of a collection's labelled questions, for rankings by these stages. Blocks."""
    rankings = [
        one
        for question, pool in zip(questions, pools, strict=True)
        if (one := _ranking(source, question, pool, stages)) is not None
    ]
    return fit(rankings, corpus.store.uuid, blend=stages.rerank.weight)


def _ranking(
    source: CandidateSource, question: LabelledQuestion, pool: CandidatePool, stages: Stages
) -> JudgedRanking | None:
    """A question's best candidates, each answer once at its best chunk; None without any."""
    places, fused = replay.fused(pool, fusion_of(stages, question.language), stages.candidates)
    chunks = source.reader.chunks(pool.ids[places].tolist())
    _, first = np.unique(pool.answer[places], return_index=True)
    there = [at for at in np.sort(first).tolist() if int(pool.ids[places[at]]) in chunks]
    if not (there := there[: stages.rerank.depth]):
        return None
    places = places[there]
    texts = [chunks[at].text for at in pool.ids[places].tolist()]
    nothing = np.zeros(len(places), np.float32)
    cosine = nothing if pool.cosine is None else pool.cosine[places]
    return JudgedRanking(
        features(question.text, texts, pool.bm25[places], cosine),
        fused[there],
        pool.relevant[places],
        pool.wanted,
        question.group or None,
    )


def decision(model: FittedModel, before: FittedModel | None) -> Decision:
    """The decision that records the model."""
    gain = f"{100 * model.gain:+.1f} points of nDCG@10 ({100 * model.low:.1f} to"
    reason = (
        f"On questions that a fit had not seen it gains {gain} {100 * model.high:.1f}),"
        f" so it is {'used' if model.enabled else 'not used'}."
    )
    if not any(model.weights):
        reason = f"{model.questions} judged questions are too few to fit a reranker to."
    return Decision(
        "reranker",
        None if before is None else _plain(before),
        _plain(model),
        reason,
        {"questions": model.questions, "gain": [model.gain, model.low, model.high]},
    )


def save(corpus: Corpus, model: FittedModel, decide: Callable[[Decision], None]) -> None:
    """Replace the reranker in the collection's folder, and record the decision. Blocks.

    Raises:
        StoreUnwritable: the folder cannot be written.
    """
    path = corpus.folder / fitted.FILE
    try:
        before = fitted.load(path, corpus.store.uuid)
    except (CorruptIndex, BadSettings):
        before = None
    try:
        fitted.save(model, path)
    except OSError as error:
        raise StoreUnwritable(
            f"{path}: {error.strerror}", fix="Make room, or its folder"
        ) from error
    decide(decision(model, before))


def load(corpus: Corpus, trace: Trace) -> FittedReranker | None:
    """The collection's fitted reranker; None without one that helps. Counts an unreadable one."""
    try:
        model = fitted.load(corpus.folder / fitted.FILE, corpus.store.uuid)
    except (CorruptIndex, BadSettings):
        trace.count("rerank.unreadable")
        return None
    return FittedReranker(model) if model is not None and model.enabled else None


def _plain(model: FittedModel) -> dict[str, object]:
    weights = dict(zip(model.names, model.weights, strict=True))
    return {"enabled": model.enabled, "blend": model.blend, "weights": weights}
