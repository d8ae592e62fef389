"""One pool of candidates a question, gathered once; whatever follows it is replayed in memory.

A question's candidates of either side, to the greatest width, and every score a later stage needs
are kept. A fusion, a narrower width or a rerank is then judged in some ten microseconds a question,
and all of them on the very same candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivace.protocols import CandidateSource
from vivace.retrieve import fusion
from vivace.retrieve.rerank import blend
from vivace.text.language import language
from vivace.text.terms import terms
from vivace.types import Fusion, Ids, Rerank, Scores, Vector, Vectors

WIDTH: Final = 100
"""Candidates kept of either side."""
AT: Final = 10
"""The k of nDCG@k."""
Gains: TypeAlias = NDArray[np.float64]
"""(q,) nDCG@10 of [0, 1], one a question."""
Again: TypeAlias = Callable[[int, Ids], Scores]
"""Scores (n,) of the second look at the chunks, for the question of that number; a reranker's."""
_NEVER: Final = np.iinfo(np.int64).max
_OFF: Final = Rerank(0)


@dataclass(frozen=True, slots=True)
class Instead:
    """What a chunk is judged by in place of its text, for one question that was made from it."""

    share: float
    """Of the chunk's own keyword score, what the remaining text has."""
    vector: Vector | None
    """(dim,) of the remaining text; None keeps the chunk's own."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question and what answers it: documents by id, or chunks by id."""

    text: str
    documents: frozenset[str] = frozenset()
    chunks: frozenset[int] = frozenset()
    vector: Vector | None = None
    """(dim,); None where the dense side cannot read the question."""
    instead: Mapping[int, Instead] = field(default_factory=dict)
    group: str = ""
    """Questions that vary together, as those made from one document, share it."""

    @property
    def language(self) -> str:
        return language(self.text)


@dataclass(frozen=True, slots=True)
class Pool:
    """One question's candidates, aligned by place."""

    ids: Ids
    bm25: Scores
    cosine: Scores | None
    """Exact for all of them; None where the question has no vector."""
    keyword_rank: Ids
    """From 0; a number beyond every width where that side has not proposed it."""
    dense_rank: Ids
    answer: Ids
    """What each candidate is counted as, numbered: a document may be there in several chunks."""
    relevant: NDArray[np.bool_]
    wanted: int
    """Relevant documents or chunks there are, found or not."""
    again: Scores | None = None


def gather(
    source: CandidateSource,
    questions: Sequence[Labelled],
    *,
    width: int = WIDTH,
    again: Again | None = None,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Pool]:
    """A pool of each question, in order. Blocks: some milliseconds a question.

    Raises:
        BadVectors: a vector of another dimension than the collection's.
    """
    found = []
    for number, question in enumerate(questions):
        step(number, len(questions))
        found.append(_pool(source, number, question, width, again))
    return found


def _pool(
    source: CandidateSource, number: int, question: Labelled, width: int, again: Again | None
) -> Pool:
    row = None
    near = None
    if question.vector is not None:
        row = np.ascontiguousarray(question.vector, np.float32).reshape(1, -1)
        near = source.exact(row, width)
    # deeper than it counts: a chunk that is judged without a part of its text falls back
    keyword = source.keyword(terms(question.text), width + len(question.instead))
    both = fusion.candidates(keyword, near)
    ids, bm25 = both.ids, both.bm25.copy()
    cosine = None
    if row is not None:
        cosine = both.cosine.copy()
        if both.dense < len(ids):
            cosine[both.dense :] = np.maximum(source.similarity(row, ids[both.dense :]), -1.0)
    in_dense = np.arange(len(ids)) < both.dense
    for id, other in question.instead.items():
        for at in np.flatnonzero(ids == id):
            bm25[at] *= np.float32(other.share)
            if row is not None and cosine is not None and other.vector is not None:
                cosine[at] = np.float32(row[0] @ other.vector)
    chunks = source.chunks(ids.tolist())
    of_document = bool(question.documents)
    places: dict[str | int, int] = {}
    answer, relevant = [], []
    for id in ids.tolist():
        name = chunks[id].document_id if of_document and id in chunks else id
        found = name in question.documents or id in question.chunks
        # chunks that answer together, as they overlap, are one answer: whichever comes first
        answer.append(places.setdefault(-1 if id in question.chunks else name, len(places)))
        relevant.append(found)
    return Pool(
        ids,
        bm25,
        cosine,
        _ranks(bm25, bm25 > 0, ids),
        _ranks(bm25 if cosine is None else cosine, in_dense, ids),
        np.array(answer, np.int64),
        np.array(relevant, np.bool_),
        len(question.documents) or min(1, len(question.chunks)),
        None if again is None or row is None else again(number, ids),
    )


def _ranks(scores: Scores, proposed: NDArray[np.bool_], ids: Ids) -> Ids:
    ranks = np.full(len(scores), _NEVER, np.int64)
    places = np.flatnonzero(proposed)
    ranks[places[np.lexsort((ids[places], -scores[places]))]] = np.arange(len(places))
    return ranks


def fused(pool: Pool, how: Fusion, width: int = 50) -> tuple[Ids, Scores]:
    """Places of the pool's candidates as they are fused, best first, and their scores.

    A question without a vector is ranked by the keyword side whatever the fusion says, as a search
    does it.
    """
    kept = np.flatnonzero(np.minimum(pool.keyword_rank, pool.dense_rank) < width)
    bm25 = np.where(pool.keyword_rank[kept] < width, pool.bm25[kept], np.float32(0))
    if pool.cosine is None:
        scores = fusion.fuse(bm25, np.zeros_like(bm25), Fusion("keyword"))
    else:
        scores = fusion.fuse(bm25, pool.cosine[kept], how)
    ranked = np.lexsort((pool.ids[kept], -scores))
    return np.asarray(kept[ranked], np.int64), scores[ranked]


def order(pool: Pool, how: Fusion, width: int = 50, rerank: Rerank = _OFF) -> Ids:
    """Places of the pool's candidates as a search would rank them, best first."""
    ranked, scores = fused(pool, how, width)
    if rerank.depth and pool.again is not None:
        first = ranked[: rerank.depth]
        blended = blend(scores[: rerank.depth], pool.again[first], rerank.weight)
        again = np.lexsort((pool.ids[first], -blended))
        ranked = np.concatenate([first[again], ranked[rerank.depth :]])
    return ranked


def gain(pool: Pool, ranked: Ids) -> float:
    """nDCG@10 of a ranking of the pool's places: an answer found in several chunks counts once."""
    if not pool.wanted:
        return 0.0
    seen: set[int] = set()
    gained = 0.0
    for place in ranked.tolist():
        answer = int(pool.answer[place])
        if answer in seen:
            continue
        if pool.relevant[place]:
            gained += 1 / log2(len(seen) + 2)
        seen.add(answer)
        if len(seen) == AT:
            break
    return gained / sum(1 / log2(at + 2) for at in range(min(AT, pool.wanted)))


def replay(pools: Sequence[Pool], how: Fusion, *, width: int = 50, rerank: Rerank = _OFF) -> Gains:
    """nDCG@10 (q,) of each question under these stages."""
    return np.array([gain(pool, order(pool, how, width, rerank)) for pool in pools], np.float64)


def milliseconds(
    source: CandidateSource,
    questions: Sequence[Labelled],
    widths: Sequence[int],
    *,
    rounds: int = 3,
) -> dict[int, float]:
    """Median milliseconds of candidates and fusion by width, one search after another.

    The widths take turns, and of the rounds the lowest counts: other work only ever adds.
    """
    best = {width: float("inf") for width in widths}
    for _ in range(rounds):
        taken: dict[int, list[float]] = {width: [] for width in widths}
        for question in questions:
            for width in widths:
                began = time.perf_counter()
                _searched(source, question, width)
                taken[width].append(time.perf_counter() - began)
        for width, seconds in taken.items():
            best[width] = min(best[width], float(np.median(seconds or [0.0])) * 1e3)
    return best


def _searched(source: CandidateSource, question: Labelled, width: int) -> None:
    row: Vectors | None = None
    near = None
    if question.vector is not None:
        row = np.ascontiguousarray(question.vector, np.float32).reshape(1, -1)
        near = source.dense(row, width)
    both = fusion.candidates(source.keyword(terms(question.text), width), near)
    if row is not None:
        if both.dense < len(both.ids):
            both.cosine[both.dense :] = source.similarity(row, both.ids[both.dense :])
        fusion.fuse(both.bm25, both.cosine, Fusion())
