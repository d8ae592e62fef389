"""How long a search takes, one after another."""

from __future__ import annotations

import time
from collections.abc import Sequence

from vivace.engine import Collection
from vivace.tune import metrics
from vivace.types import Query

_TIMED = 500
"""Searches timed a figure; more of them change the median by less than the machine's noise."""


async def speed(
    docs: Collection, plain: Sequence[Query], embedded: Sequence[Query], k: int
) -> dict[str, float]:
    """Milliseconds of searches one after another, with the embedding and without it."""
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
