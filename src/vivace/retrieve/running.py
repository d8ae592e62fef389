"""One question on its way through the stages, and what is measured on it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vivace.protocols import CandidateSource
from vivace.retrieve.asked import Asked
from vivace.retrieve.diversify import Distinct
from vivace.types import Bitmap, Hit, Ids, Matches, Query, Rerank, Scores, Stage, Vector

now: Final = time.monotonic


class Running:
    """A question understood, its vector as soon as there is one, and what happened on its way."""

    __slots__ = ("asked", "degraded", "query", "stages", "took", "until", "vector")

    def __init__(self, query: Query, asked: Asked, until: float | None) -> None:
        self.query = query
        self.asked = asked
        self.until = until
        """Of `time.monotonic()`; None is no deadline."""
        self.vector: Vector | None = None
        self.degraded: list[str] = []
        self.stages: dict[str, Stage] | None = {} if query.explain else None
        self.took: list[tuple[str, float]] = []
        """Stages and their seconds, still to be told to who keeps them."""

    def left(self, clock: float) -> float | None:
        """Seconds until the deadline."""
        return None if self.until is None else self.until - clock


@dataclass(frozen=True, slots=True)
class Keyword:
    """What the keyword side found, and the state it was found in."""

    source: CandidateSource
    allow: Bitmap | None
    matches: Matches


@dataclass(frozen=True, slots=True)
class Ranked:
    """Hits that are not final: a reranker is still to see the first ones."""

    hits: tuple[Hit, ...]
    source: CandidateSource
    rerank: Rerank


def fetched(
    source: CandidateSource,
    k: int,
    ids: Ids,
    scores: Scores,
    stages: Mapping[str, Scores],
    asked: Asked,
    *,
    distinct: bool,
) -> tuple[Hit, ...]:
    """The first k that still exist, hold nothing excluded and say something new.

    Args:
        ids: (n,) best first, as `scores` and every one of `stages` are.
        distinct: whether near-duplicates of better hits are left out.
    """
    hits: list[Hit] = []
    seen = Distinct() if distinct else None
    names, columns = tuple(stages), tuple(stages.values())
    evidence = 2 if names[:2] == ("bm25", "cosine") else 1
    score_again = "reranked" if "reranked" in stages else None
    excluded = bool(asked.excluded)
    at = 0
    while len(hits) < k and at < len(ids):
        here = slice(at, at + k - len(hits))
        wanted = ids[here].tolist()
        chunks = source.chunks(wanted)
        rows = zip(*[column[here].tolist() for column in columns], strict=True)
        for id, score, row in zip(wanted, scores[here].tolist(), rows, strict=True):
            # what was removed since the snapshot is passed over
            if (chunk := chunks.get(id)) is None:
                continue
            if excluded and asked.refuses(chunk.text):
                continue
            if seen is not None and not seen.new(chunk.text, *row[:evidence]):
                continue
            given = dict(zip(names, row, strict=True))
            if score_again is not None and given[score_again] != given[score_again]:
                del given[score_again]  # no number: it was too far down to be reranked
            hits.append(Hit(chunk, score, given))
        at += len(wanted)
    return tuple(hits)


def text_bytes(hits: Sequence[Hit]) -> int:
    """Of their texts, in UTF-8."""
    return sum(len(hit.chunk.text.encode("utf-8", "surrogatepass")) for hit in hits)
