"""Retrieval metrics at document level, binary relevance (as in trec_eval)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import log2


def recall(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """The share of the relevant documents that are among the first k."""
    return len(set(ranked[:k]) & set(relevant)) / len(relevant)


def reciprocal_rank(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """One over the rank of the first relevant document, 0 where none is among the first k."""
    for rank, id in enumerate(ranked[:k], start=1):
        if id in relevant:
            return 1.0 / rank
    return 0.0


def ndcg(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Discounted gain of the first k over an ideal ranking's (Järvelin & Kekäläinen, 2002)."""
    gained = sum(1 / log2(at + 2) for at, id in enumerate(ranked[:k]) if id in relevant)
    ideal = sum(1 / log2(at + 2) for at in range(min(k, len(relevant))))
    return gained / ideal


def percentile(values: Sequence[float], q: float) -> float:
    """The value at or under which the share q of values lies (nearest rank); 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(q * 1000) * len(ordered) // 1000) - 1)] if ordered else 0.0
