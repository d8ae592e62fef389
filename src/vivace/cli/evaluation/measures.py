"""How good and how fast searches of judged questions are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from vivace.engine import Collection
from vivace.tune import metrics
from vivace.tune.labels import JudgedQuestion
from vivace.types import Hit, Query

AT: Final = 10
"""Rank at which recall, MRR and nDCG are cut."""
Piece: TypeAlias = tuple[str, int, int]
"""Document id, start, end."""
CONTEXT: Final = 4_000
"""Characters of context for span coverage."""
_HITS: Final = 50
"""Hits that fill the context."""
_TIMED: Final = 500
"""Searches timed a figure; more of them change the median by less than the machine's noise."""


@dataclass(frozen=True, slots=True)
class MeasuredQuestion:
    """One question: the documents found, best first, and its measures."""

    id: str
    ranked: tuple[str, ...]
    scores: tuple[float, ...]
    """Of each document's best chunk."""
    best: tuple[Hit, ...]
    """The first hit, if any."""
    relevant: frozenset[str]
    values: Mapping[str, float]
    reranked: bool = False


async def measured(
    docs: Collection, judged: Sequence[JudgedQuestion], k: int
) -> list[MeasuredQuestion]:
    """Search for each question, in order."""
    found = []
    for item in judged:
        hits = await _hits(docs, item.query, hits_for(k))
        best: dict[str, float] = {}
        for hit in hits:
            best.setdefault(hit.chunk.document_id, hit.score)
        ranked = tuple(best)
        reranked = any(hit.stages.keys() & {"maxsim", "reranked"} for hit in hits)
        values = _measures(ranked, item.relevant)
        scores = tuple(best.values())
        found.append(
            MeasuredQuestion(item.id, ranked, scores, hits[:1], item.relevant, values, reranked)
        )
    return found


def hits_for(k: int) -> int:
    """Hits asked for: several chunks of one document may come first, and k documents are wanted."""
    return 4 * max(k, AT)


async def _hits(docs: Collection, query: Query, most: int) -> tuple[Hit, ...]:
    """A blank question finds nothing, and counts as a miss."""
    if not query.text.strip():
        return ()
    return (await docs.search(Query(query.text, most, vector=query.vector))).hits


def _measures(ranked: Sequence[str], relevant: frozenset[str]) -> dict[str, float]:
    values = {f"recall@{at}": metrics.recall(ranked, relevant, at) for at in (1, 5, AT)}
    values["mrr@10"] = metrics.reciprocal_rank(ranked, relevant, AT)
    values["ndcg@10"] = metrics.ndcg(ranked, relevant, AT)
    return values


# -- time -----------------------------------------------------------------------------------


async def speed(
    docs: Collection, plain: Sequence[Query], embedded: Sequence[Query], k: int
) -> dict[str, float]:
    """Milliseconds of sequential searches, with embedding (`plain`) and without (`embedded`)."""
    whole = await _timed(docs, plain[:_TIMED], k)
    without = await _timed(docs, embedded[:_TIMED], k)
    return {
        "p50_ms": metrics.percentile(whole, 0.5),
        "p95_ms": metrics.percentile(whole, 0.95),
        "p50_ms_without_embedding": metrics.percentile(without, 0.5),
    }


async def _timed(docs: Collection, queries: Sequence[Query], k: int) -> list[float]:
    milliseconds = []
    for query in queries:
        if not query.text.strip():
            continue
        start = time.perf_counter()
        await docs.search(Query(query.text, k, vector=query.vector))
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return milliseconds


# -- coverage of the answers' own characters ------------------------------------------------


async def coverage(
    docs: Collection, judged: Sequence[JudgedQuestion], queries: Sequence[Query]
) -> dict[str, float]:
    """Mean share of the answer's characters in 4,000 characters of context; {} without spans.

    `span_coverage` fills the context with the hits as they are; `span_coverage_merged` only with
    the new part of each, as when overlapping chunks of one document become one passage. The last
    hit is cut where the context ends.
    """
    plain, merged = [], []
    for item, query in zip(judged, queries, strict=True):
        if not item.spans or not query.text.strip():
            continue
        hits = await _hits(docs, query, _HITS)
        plain.append(covered(item.spans, in_order(hits, CONTEXT)))
        merged.append(covered(item.spans, together(hits, CONTEXT)))
    if not plain:
        return {}
    return {
        f"span_coverage@{CONTEXT}": float(np.mean(plain)),
        f"span_coverage_merged@{CONTEXT}": float(np.mean(merged)),
    }


def covered(spans: Sequence[Piece], pieces: Sequence[Piece]) -> float:
    """The share of the spans' characters that some piece holds; overlapping spans count once."""
    wanted = {(doc, at) for doc, start, end in spans for at in range(start, end)}
    held = {
        place
        for doc, start, end in pieces
        for place in wanted
        if place[0] == doc and start <= place[1] < end
    }
    return len(held) / len(wanted) if wanted else 0.0


def in_order(hits: Sequence[Hit], budget: int) -> list[Piece]:
    """The first hits, as they are, up to a budget of characters."""
    pieces = []
    for hit in hits:
        chunk = hit.chunk
        end = min(chunk.end, chunk.start + budget)
        pieces.append((chunk.document_id, chunk.start, end))
        budget -= end - chunk.start
        if budget <= 0:
            break
    return pieces


def together(hits: Sequence[Hit], budget: int) -> list[Piece]:
    """The part of each hit that no earlier hit holds, up to a budget of characters."""
    held: dict[str, list[tuple[int, int]]] = {}
    pieces = []
    for hit in hits:
        document = hit.chunk.document_id
        for start, end in _new(held.get(document, []), hit.chunk.start, hit.chunk.end):
            end = min(end, start + budget)
            pieces.append((document, start, end))
            budget -= end - start
            if budget <= 0:
                return pieces
        held.setdefault(document, []).append((hit.chunk.start, hit.chunk.end))
    return pieces


def _new(held: Sequence[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """The parts of start to end that nothing held covers."""
    parts, at = [], start
    for other, stop in sorted(held):
        if stop <= at or other >= end:
            continue
        if other > at:
            parts.append((at, other))
        at = max(at, stop)
    return [*parts, (at, end)] if at < end else parts
