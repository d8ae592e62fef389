"""One pool of candidates per question, gathered once; the later stages are replayed in memory.

A pool keeps a question's candidates of either side, to the greatest width, and every score a later
stage needs. A fusion, a narrower width or a rerank is then judged in about ten microseconds per
question, and all of them on the same candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivace.protocols import CandidateSource
from vivace.retrieve import fusion
from vivace.retrieve.rerank import blend
from vivace.text.terms import terms
from vivace.tune.labels import LabelledQuestion
from vivace.tune.metrics import ndcg_of
from vivace.types import Fusion, Ids, Rerank, Scores, Vectors

WIDTH: Final = 100
"""Candidates kept of each side."""
AT: Final = 10
"""The k of nDCG@k."""
Gains: TypeAlias = NDArray[np.float64]
"""(q,) nDCG@10 in [0, 1], one per question."""
RerankScores: TypeAlias = Callable[[int, Ids], Scores]
"""A reranker's scores (n,) of the chunks with these ids (n,), for the question of that number."""
_NEVER: Final = np.iinfo(np.int64).max
_OFF: Final = Rerank(0)


@dataclass(frozen=True, slots=True)
class CandidatePool:
    """One question's candidates, aligned by place."""

    ids: Ids
    bm25: Scores
    cosine: Scores | None
    """Exact; None where the question has no vector."""
    keyword_rank: Ids
    """From 0; a number beyond every width where the keyword side has not proposed the candidate."""
    dense_rank: Ids
    answer: Ids
    """The number of the answer that each candidate belongs to: several chunks of one document are
    one answer."""
    relevant: NDArray[np.bool_]
    wanted: int
    """Relevant documents or chunks that exist, found or not."""
    reranked: Scores | None = None


def gather(
    source: CandidateSource,
    questions: Sequence[LabelledQuestion],
    *,
    width: int = WIDTH,
    rerank_scores: RerankScores | None = None,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> list[CandidatePool]:
    """The pool of each question, in order. Blocks for some milliseconds per question.

    Raises:
        BadVectors: a vector of another dimension than the collection's.
    """
    found = []
    for number, question in enumerate(questions):
        step(number, len(questions))
        found.append(_pool(source, number, question, width, rerank_scores))
    return found


def _pool(
    source: CandidateSource,
    number: int,
    question: LabelledQuestion,
    width: int,
    rerank_scores: RerankScores | None,
) -> CandidatePool:
    row = None
    near = None
    if question.vector is not None:
        row = np.ascontiguousarray(question.vector, np.float32).reshape(1, -1)
        near = source.exact(row, width)
    # deeper than the width: a chunk that is judged without a part of its text falls back
    keyword = source.keyword(terms(question.text), width + len(question.remainders))
    both = fusion.candidates(keyword, near)
    ids, bm25, cosine = both.ids, both.bm25, None
    if row is not None:
        fusion.score_exactly(both, source, row)
        cosine = both.cosine
    in_dense = np.arange(len(ids)) < both.dense
    for chunk_id, other in question.remainders.items():
        for at in np.flatnonzero(ids == chunk_id):
            bm25[at] *= np.float32(other.share)
            if row is not None and cosine is not None and other.vector is not None:
                cosine[at] = np.float32(row[0] @ other.vector)
    chunks = source.reader.chunks(ids.tolist())
    of_document = bool(question.documents)
    places: dict[str | int, int] = {}
    answer, relevant = [], []
    for chunk_id in ids.tolist():
        labelled = chunk_id in question.chunks
        name = chunks[chunk_id].document_id if of_document and chunk_id in chunks else chunk_id
        found = labelled or name in question.documents
        # the chunks of the answer overlap and count as one answer: whichever comes first
        answer.append(places.setdefault(-1 if labelled else name, len(places)))
        relevant.append(found)
    return CandidatePool(
        ids,
        bm25,
        cosine,
        ranks(bm25, bm25 > 0, ids),
        ranks(bm25 if cosine is None else cosine, in_dense, ids),
        np.array(answer, np.int64),
        np.array(relevant, np.bool_),
        len(question.documents) or min(1, len(question.chunks)),
        None if rerank_scores is None or row is None else rerank_scores(number, ids),
    )


def ranks(scores: Scores, proposed: NDArray[np.bool_], ids: Ids) -> Ids:
    """(n,) ranks from 0 of the proposed candidates, best first; `_NEVER` for the others."""
    found = np.full(len(scores), _NEVER, np.int64)
    places = np.flatnonzero(proposed)
    found[places[np.lexsort((ids[places], -scores[places]))]] = np.arange(len(places))
    return found


def fused(pool: CandidatePool, how: Fusion, width: int = 50) -> tuple[Ids, Scores]:
    """Places of the pool's candidates in fused order, best first, and their scores.

    As in a search, the keyword side alone ranks a question without a vector.
    """
    kept = np.flatnonzero(np.minimum(pool.keyword_rank, pool.dense_rank) < width)
    bm25 = np.where(pool.keyword_rank[kept] < width, pool.bm25[kept], np.float32(0))
    if pool.cosine is None:
        scores = fusion.fuse(bm25, np.zeros_like(bm25), Fusion("keyword"))
    else:
        scores = fusion.fuse(bm25, pool.cosine[kept], how)
    ranked = np.lexsort((pool.ids[kept], -scores))
    return np.asarray(kept[ranked], np.int64), scores[ranked]


def order(pool: CandidatePool, how: Fusion, width: int = 50, rerank: Rerank = _OFF) -> Ids:
    """Places of the pool's candidates as a search would rank them, best first."""
    ranked, scores = fused(pool, how, width)
    if rerank.depth and pool.reranked is not None:
        first = ranked[: rerank.depth]
        blended = blend(scores[: rerank.depth], pool.reranked[first], rerank.weight)
        again = np.lexsort((pool.ids[first], -blended))
        ranked = np.concatenate([first[again], ranked[rerank.depth :]])
    return ranked


def gain(pool: CandidatePool, ranked: Ids) -> float:
    """nDCG@10 of a ranking of the pool's places; an answer found in several chunks counts once."""
    if not pool.wanted:
        return 0.0
    hits: dict[int, bool] = {}
    for place in ranked.tolist():
        hits.setdefault(int(pool.answer[place]), bool(pool.relevant[place]))
        if len(hits) == AT:
            break
    return ndcg_of(list(hits.values()), pool.wanted, AT)


def replay(
    pools: Sequence[CandidatePool], how: Fusion, *, width: int = 50, rerank: Rerank = _OFF
) -> Gains:
    """nDCG@10 (q,) of each question under these stages."""
    return np.array([gain(pool, order(pool, how, width, rerank)) for pool in pools], np.float64)


def milliseconds(
    source: CandidateSource,
    questions: Sequence[LabelledQuestion],
    widths: Sequence[int],
    *,
    rounds: int = 3,
) -> dict[int, float]:
    """Median milliseconds of candidates and fusion by width, one search after another.

    The widths alternate, and the lowest of the rounds counts: other work only ever adds.
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


def _searched(source: CandidateSource, question: LabelledQuestion, width: int) -> None:
    row: Vectors | None = None
    near = None
    if question.vector is not None:
        row = np.ascontiguousarray(question.vector, np.float32).reshape(1, -1)
        near = source.dense(row, width)
    both = fusion.candidates(source.keyword(terms(question.text), width), near)
    if row is not None:
        fusion.score_exactly(both, source, row)
        fusion.fuse(both.bm25, both.cosine, Fusion())
