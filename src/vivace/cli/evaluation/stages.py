"""What each stage of a search finds, and which stage loses an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from vivace.cli.evaluation.measures import AT, MeasuredQuestion, hits_for
from vivace.engine import Collection
from vivace.trace import Trace
from vivace.tune import metrics, replay
from vivace.tune.labels import JudgedQuestion, LabelledQuestion
from vivace.tune.quality import fusion_of
from vivace.types import Ids, Query

KEYWORD, DENSE, CANDIDATES = "keyword", "dense", "candidates"
FUSED, RERANKED = "fused", "reranked"
_SPANS: Final = {
    KEYWORD: ("keyword",),
    DENSE: ("dense",),
    RERANKED: ("rerank", "maxsim"),
}
"""The names under which each stage's time is traced."""
_TEXT: Final = 300
"""Most characters shown of a passage."""


@dataclass(frozen=True, slots=True)
class StagedQuestion:
    """The documents found for one question, in the order of each stage or of one side alone."""

    ranked: Mapping[str, tuple[str, ...]]
    chunks: Mapping[str, int]
    """The id of each document's best candidate."""


def staged(
    docs: Collection,
    judged: Sequence[JudgedQuestion],
    queries: Sequence[Query],
    found: Sequence[MeasuredQuestion],
    k: int,
) -> list[StagedQuestion]:
    """The stages of each question's search, in order; blocks. `k` sets how wide they are."""
    source, now = docs.snapshot(), docs.stages
    width = max(now.candidates, 2 * hits_for(k))
    result = []
    for item, query, final in zip(judged, queries, found, strict=True):
        question = LabelledQuestion(query.text, item.relevant, vector=query.vector)
        if not query.text.strip():
            result.append(StagedQuestion({KEYWORD: (), FUSED: ()}, {}))
            continue
        (pool,) = replay.gather(source, [question], width=width)
        chunks = source.reader.chunks(pool.ids.tolist())
        names = [chunks[n].document_id if n in chunks else "" for n in pool.ids.tolist()]

        def documents(places: Ids, names: Sequence[str] = names) -> tuple[str, ...]:
            return tuple(dict.fromkeys(names[place] for place in places.tolist()))

        how = fusion_of(now, question.language)
        order = replay.order(pool, how, width)
        ranked = {
            KEYWORD: documents(_by(pool.keyword_rank, width)),
            FUSED: documents(order),
        }
        if pool.cosine is not None:
            ranked[DENSE] = documents(_by(pool.dense_rank, width))
        if final.reranked:
            ranked[RERANKED] = final.ranked
        best: dict[str, int] = {}
        for place in order.tolist():
            best.setdefault(names[place], int(pool.ids[place]))
        result.append(StagedQuestion(ranked, best))
    return result


def _by(ranks: Ids, width: int) -> Ids:
    """The places whose rank is below the width, in the order of their ranks."""
    order = np.argsort(ranks, kind="stable")
    return np.asarray(order[ranks[order] < width], np.int64)


def figures(
    staged: Sequence[StagedQuestion], found: Sequence[MeasuredQuestion], trace: Trace
) -> dict[str, dict[str, float | None]]:
    """Recall@10 by stage, and its median milliseconds where the stage is timed by itself.

    `candidates` is the share of the relevant documents among all candidates of either side: no
    later stage can find more.
    """
    times = trace.quantiles(0.5)
    values: dict[str, list[float]] = {}
    for its, final in zip(staged, found, strict=True):
        relevant = final.relevant
        for name, ranked in its.ranked.items():
            values.setdefault(name, []).append(metrics.recall(ranked, relevant, AT))
        anything = tuple(its.chunks)
        values.setdefault(CANDIDATES, []).append(metrics.recall(anything, relevant, len(anything)))
    # a stage that has no part in a question, as the dense side in an unread one, is not averaged
    return {
        name: {"recall@10": round(float(np.mean(values[name])), 4), "p50_ms": _ms(times, name)}
        for name in (KEYWORD, DENSE, CANDIDATES, FUSED, RERANKED)
        if name in values
    }


def _ms(times: Mapping[str, Mapping[str, float]], stage: str) -> float | None:
    for name in _SPANS.get(stage, ()):
        if name in times:
            return round(times[name]["p50_ms"], 3)
    return None


async def failures(
    docs: Collection,
    judged: Sequence[JudgedQuestion],
    staged: Sequence[StagedQuestion],
    found: Sequence[MeasuredQuestion],
    most: int,
) -> list[dict[str, Any]]:
    """The worst questions, at most `most`, whose first document is not a relevant one."""
    wrong = [at for at, item in enumerate(found) if item.values["mrr@10"] < 1]
    wrong.sort(key=lambda at: found[at].values["mrr@10"])
    result = []
    for at in wrong[:most]:
        item, its, final = judged[at], staged[at], found[at]
        expected = _expected(its, item.relevant)
        ranks = {name: _rank(ranked, item.relevant) for name, ranked in its.ranked.items()}
        ranks["returned"] = _rank(final.ranked, item.relevant)
        result.append(
            {
                "query_id": item.id,
                "question": item.query.text,
                "expected": {
                    "document_id": expected,
                    "text": await _text(docs, expected, its.chunks.get(expected)),
                },
                "instead": _instead(final),
                "lost": lost(ranks),
                "why": _WHY[lost(ranks)],
                "ranks": ranks,
            }
        )
    return result


_WHY: Final = {
    "candidates": "neither side had it among its candidates",
    "sides": "both sides rank something else higher",
    "fusion": "one side had it higher: lost in fusion",
    "rerank": "fusion had it higher: lost in the rerank",
    "after": "fusion had it higher: lost in what follows it",
}


def lost(ranks: Mapping[str, int | None]) -> str:
    """The stage that lost a document, by its rank after each (from 1; None is not found)."""
    fused, final = ranks.get(FUSED), ranks.get("returned")
    if fused is None:
        return "candidates"
    if final is None or final > fused:
        return "rerank" if RERANKED in ranks else "after"
    sides = [rank for name in (KEYWORD, DENSE) if (rank := ranks.get(name)) is not None]
    return "fusion" if sides and min(sides) < final else "sides"


def _rank(ranked: Sequence[str], relevant: frozenset[str]) -> int | None:
    return next((rank for rank, one in enumerate(ranked, start=1) if one in relevant), None)


def _expected(its: StagedQuestion, relevant: frozenset[str]) -> str:
    """The relevant document that ranked best."""
    return next((one for one in its.ranked.get(FUSED, ()) if one in relevant), min(relevant))


async def _text(docs: Collection, document: str, chunk: int | None) -> str:
    chunks = {c.id: c for c in await docs.chunks(document)}
    if not chunks:
        return "(the collection has no such document)"
    shown = chunks[chunk] if chunk is not None and chunk in chunks else next(iter(chunks.values()))
    return _short(shown.text)


def _instead(final: MeasuredQuestion) -> dict[str, Any] | None:
    if not final.best:
        return None
    hit = final.best[0]
    return {
        "document_id": hit.chunk.document_id,
        "text": _short(hit.chunk.text),
        "stages": dict(hit.stages),
    }


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}..."
