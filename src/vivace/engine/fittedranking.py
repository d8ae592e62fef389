"""A reranker fitted to a collection's own labels, of what tuning gathered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vivace.collection.corpus import Corpus
from vivace.errors import BadSettings, CorruptIndex, StoreUnwritable
from vivace.protocols import CandidateSource
from vivace.retrieve import fitted
from vivace.retrieve.fitted import FittedModel, FittedReranker, features
from vivace.trace import Trace
from vivace.tune import fitting, replay
from vivace.tune.fitting import Judged
from vivace.tune.quality import fusion_of
from vivace.tune.replay import Labelled, Pool
from vivace.types import Decision, Stages

NAME = "fitted"
"""As `search.rerank` names it."""


def fit(
    corpus: Corpus,
    source: CandidateSource,
    questions: Sequence[Labelled],
    pools: Sequence[Pool],
    stages: Stages,
) -> FittedModel:
    """The model of these questions, for rankings made by these stages. Blocks."""
    judged = [
        one
        for question, pool in zip(questions, pools, strict=True)
        if (one := _judged(source, question, pool, stages)) is not None
    ]
    return fitting.fit(judged, corpus.store.uuid, blend=stages.rerank.weight)


def _judged(
    source: CandidateSource, question: Labelled, pool: Pool, stages: Stages
) -> Judged | None:
    """A question's best candidates, each answer once, at its best chunk; None without any."""
    places, fused = replay.fused(pool, fusion_of(stages, question.language), stages.candidates)
    chunks = source.chunks(pool.ids[places].tolist())
    _, first = np.unique(pool.answer[places], return_index=True)
    there = [at for at in np.sort(first).tolist() if int(pool.ids[places[at]]) in chunks]
    if not (there := there[: stages.rerank.depth]):
        return None
    places = places[there]
    texts = [chunks[int(id)].text for id in pool.ids[places]]
    nothing = np.zeros(len(places), np.float32)
    cosine = nothing if pool.cosine is None else pool.cosine[places]
    return Judged(
        features(question.text, texts, pool.bm25[places], cosine),
        fused[there],
        pool.relevant[places],
        pool.wanted,
        question.group or None,
    )


def decision(model: FittedModel, before: FittedModel | None) -> Decision:
    """What `vivace why` tells of it."""
    gain = f"{100 * model.gain:+.1f} points of nDCG@10 ({100 * model.low:.1f} to"
    reason = (
        f"On questions that a fit had not seen it gains {gain} {100 * model.high:.1f}),"
        f" so it is {'used' if model.enabled else 'not used'}."
    )
    if not any(model.weights):
        reason = f"{model.questions} judged questions are too few to fit a reranker to."
    return Decision(
        "reranker",
        None if before is None else _told(before),
        _told(model),
        reason,
        {"questions": model.questions, "gain": [model.gain, model.low, model.high]},
    )


def keep(corpus: Corpus, model: FittedModel, decide: Callable[[Decision], None]) -> None:
    """Write it into the collection's folder, in place of the one before. Blocks.

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
    """The collection's own, where one was fitted that helps; what cannot be read is counted."""
    try:
        model = fitted.load(corpus.folder / fitted.FILE, corpus.store.uuid)
    except (CorruptIndex, BadSettings):
        trace.count("rerank.unreadable")
        return None
    return FittedReranker(model) if model is not None and model.enabled else None


def _told(model: FittedModel) -> dict[str, object]:
    weights = dict(zip(model.names, model.weights, strict=True))
    return {"enabled": model.enabled, "blend": model.blend, "weights": weights}
