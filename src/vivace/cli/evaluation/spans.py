"""How much of the answers' own characters a context holds: the quality of chunks and passages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np

from vivace.engine import Collection
from vivace.tune.labels import JudgedQuestion
from vivace.types import Hit, Query

Piece: TypeAlias = tuple[str, int, int]
"""Document id, start, end."""

CONTEXT: Final = 4_000
"""Characters."""
_HITS: Final = 50


async def coverage(
    docs: Collection, judged: Sequence[JudgedQuestion], queries: Sequence[Query]
) -> dict[str, float]:
    """Mean share of the answer's characters in 4,000 characters of context; {} without spans.

    `span_coverage` takes the hits one after another as they are; `span_coverage_merged` what is new
    of each, as when chunks of one document that overlap or touch become one passage. The last is
    cut where the context ends.
    """
    plain, merged = [], []
    for item, query in zip(judged, queries, strict=True):
        if not item.spans or not query.text.strip():
            continue
        hits = (await docs.search(Query(query.text, _HITS, vector=query.vector))).hits
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
    """The first hits, as they are, as far as the budget of characters goes."""
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
    """Of each hit what no hit before it has, as far as the budget of characters goes."""
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
