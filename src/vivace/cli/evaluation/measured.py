"""What a search finds for each judged question, and how good that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vivace.engine import Collection
from vivace.tune import metrics
from vivace.tune.labels import JudgedQuestion
from vivace.types import Hit, Query

AT = 10


@dataclass(frozen=True, slots=True)
class Measured:
    """One question: the documents found, best first, and its measures."""

    id: str
    ranked: tuple[str, ...]
    scores: tuple[float, ...]
    """Of each document's best chunk."""
    best: tuple[Hit, ...]
    """The first hits."""
    relevant: frozenset[str]
    values: Mapping[str, float]
    reranked: bool = False


async def measured(
    docs: Collection, judged: Sequence[JudgedQuestion], queries: Sequence[Query], k: int
) -> list[Measured]:
    """Each question in order, with `queries` carrying the vectors."""
    found = []
    for item, query in zip(judged, queries, strict=True):
        hits = await _hits(docs, query, hits_for(k))
        best: dict[str, float] = {}
        for hit in hits:
            best.setdefault(hit.chunk.document_id, hit.score)
        ranked = tuple(best)
        reranked = any(hit.stages.keys() & {"maxsim", "reranked"} for hit in hits)
        measures = _measures(ranked, item.relevant)
        found.append(
            Measured(
                item.id,
                ranked,
                tuple(best.values()),
                tuple(hits[:1]),
                item.relevant,
                measures,
                reranked,
            )
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
