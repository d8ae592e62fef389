"""From a question to its ranked hits, on one thread: every stage but the embedding.

Each stage is a plain function over arrays; here they are put in their order, weighed against the
time that is left, and measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from vivace.protocols import CandidateSource
from vivace.retrieve import fusion, ladder, rerank
from vivace.retrieve.diversify import marginal
from vivace.retrieve.ladder import Costs
from vivace.retrieve.running import Keyword, Running, fetched, now, text_bytes
from vivace.settings import Search
from vivace.text.terms import terms
from vivace.trace import Trace
from vivace.types import (
    Bitmap,
    Fusion,
    Hit,
    Ids,
    Matches,
    Metric,
    Rerank,
    Scores,
    SearchResult,
    Stage,
    Stages,
    Vector,
    Vectors,
)

Watch: TypeAlias = Callable[[Vectors, Matches, Bitmap | None, CandidateSource], None]
"""Told of every dense answer: the question (1, dim), what was found, what was allowed, and where it
was looked for. It runs on the answer's path and must not wait or raise."""
_WORST: Final = float(np.finfo(np.float32).min)
_QUOTING: Final = 2
"""Times as many candidates of the keyword side for a question with phrases, which drop some."""
_SPARE: Final = 2
"""Times as many hits as are asked for, from which the unlike ones are chosen."""
_NO_RERANK: Final = Rerank(0)


class Pooling:
    """The stages of one collection. Blocks: call it on the search pool or an embedding thread.

    Args:
        outside: whether a reranker outside of this thread is to see the best.
    """

    def __init__(
        self,
        source: Callable[[], CandidateSource],
        settings: Search,
        trace: Trace,
        costs: Costs,
        *,
        metric: Metric,
        watch: Watch | None,
        outside: bool,
    ) -> None:
        self._source = source
        self._settings = settings
        self._trace = trace
        self._metric = metric
        self._watch = watch
        self._outside = outside
        self._within = not outside and settings.rerank in ("auto", "maxsim")
        self._plain = Fusion(weight=settings.keyword_weight)
        self._chosen = (
            None if settings.fusion == "auto" else Fusion(settings.fusion, settings.keyword_weight)
        )
        self._as_set = Stages(
            settings.candidates,
            rerank=_NO_RERANK
            if settings.rerank == "off"
            else Rerank(settings.rerank_depth, settings.rerank_weight),
        )
        self.costs = costs
        self.reranks = True
        """Whether the last search was to be reranked: a plan may have no depth for it."""

    def took(self, search: Running, stage: str, start: float, width: int, size: int = 0) -> float:
        """Remember what a stage that began at `start` took; returns the time now."""
        end = now()
        self._trace.observe(stage, end - start)
        self.costs.observe(stage, end - start)
        if search.stages is not None:
            search.stages[stage] = Stage(width, 1e3 * (end - start), size)
        return end

    def _noted(self, search: Running, stage: str, start: float, width: int, size: int = 0) -> float:
        """As `took`, but told with the search's other stages at its end: five times the lock and
        the caches that a scan has emptied cost a tenth of a search."""
        end = now()
        search.took.append((stage, end - start))
        if search.stages is not None:
            search.stages[stage] = Stage(width, 1e3 * (end - start), size)
        return end

    def _tell(self, search: Running) -> None:
        """What was noted, to the trace and the costs."""
        self._trace.observe_all(search.took)
        for stage, seconds in search.took:
            self.costs.observe(stage, seconds)
        search.took.clear()

    def stages_of(self, source: CandidateSource) -> Stages:
        """The plan's, where it has some; else the settings'."""
        planned = source.stages
        if planned is None:
            return self._as_set
        if self._settings.rerank == "off" and planned.rerank.depth:
            return Stages(planned.candidates, planned.fusion, _NO_RERANK)
        return planned

    def width(self, search: Running, source: CandidateSource) -> int:
        """Candidates taken from each side."""
        return max(self.stages_of(source).candidates, 2 * search.query.k)

    def keyword(self, search: Running, source: CandidateSource | None = None) -> Keyword:
        """The keyword side's candidates, in the newest state unless one is given.

        Raises:
            BadFilter: an unknown key or operator.
        """
        source = source or self._source()
        allow = source.allowed(search.query)
        start = now()
        width, asked = self.width(search, source), search.asked
        words = terms(asked.text)
        if not asked.phrases:
            found = source.keyword(words, width, allow=allow)
        else:
            found = source.keyword(words, _QUOTING * width, allow=allow)
            found = _quoting(source, search, found, width)
        self._noted(search, "keyword", start, found.ids.shape[1])
        return Keyword(source, allow, found)

    def ranked(
        self,
        search: Running,
        keyword: Keyword,
        vector: Vector | None,
        tokens: Vectors | None = None,
        near: Matches | None = None,
    ) -> tuple[SearchResult, Rerank]:
        """The hits, and how a reranker outside is to see them: more than k where there is one.

        `near` is the dense side's answer, where it was found with others'.
        """
        source, stages = keyword.source, self.stages_of(keyword.source)
        self.reranks = stages.rerank.depth > 0
        row: Vectors | None = None
        if vector is not None:
            row = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
            if near is None:
                near = self._near(search, keyword, row)
            if near is not None and self._watch is not None:
                self._watch(row, near, keyword.allow, source)
        start = now()
        found = fusion.candidates(keyword.matches, near)
        ids, scores = found.ids, {"bm25": found.bm25}
        if row is None:
            fused = fusion.fuse(found.bm25, np.zeros_like(found.bm25), Fusion("keyword"))
        else:
            if found.dense < len(ids):
                self._rescore(search, source, row, found)
                start = now()
            scores["cosine"] = found.cosine
            fused = fusion.fuse(found.bm25, found.cosine, self._how(search, stages))
        order = np.lexsort((ids, -fused))
        start = self._noted(search, "fuse", start, len(ids))
        final = fused[order]
        ids = ids[order]
        scores = {name: column[order] for name, column in scores.items()}
        if tokens is not None and self._within and len(ids):
            ids, final, scores = self._reranked(search, source, stages, tokens, ids, final, scores)
            start = now()
        if search.query.min_score is not None and not self._outside:
            keep = int(np.count_nonzero(final >= search.query.min_score))
            ids, final = ids[:keep], final[:keep]  # descending
            scores = {name: column[:keep] for name, column in scores.items()}
        hits = self._hits(search, source, stages, ids, final, scores)
        size = text_bytes(hits) if search.stages is not None else 0
        self._noted(search, "fetch", start, len(hits), size)
        self._tell(search)
        result = SearchResult(hits, source.epoch, tuple(search.degraded), search.stages or {})
        return result, stages.rerank

    def _near(self, search: Running, keyword: Keyword, row: Vectors) -> Matches | None:
        """The dense side's candidates, as far as the time allows; None where there is none."""
        source, costs = keyword.source, self.costs
        start = now()
        width, left = self.width(search, source), search.left(start)
        stage = "dense"
        if left is not None and left < costs["dense"] + costs.finish:
            hurried = source.approximate and left >= costs["dense hurried"] + costs.finish
            costs.relax("dense")
            if not hurried:
                costs.relax("dense hurried")
                search.degraded.append(ladder.NO_TIME_FOR_DENSE)
                return None
            search.degraded.append(ladder.LESS_EFFORT)
            stage = "dense hurried"
            near = source.dense(row, width, allow=keyword.allow, hurried=True)
        else:
            near = source.dense(row, width, allow=keyword.allow)
        width = 0 if search.stages is None else int(np.count_nonzero(near.ids >= 0))
        self._noted(search, stage, start, width)
        return near

    def _rescore(
        self, search: Running, source: CandidateSource, row: Vectors, found: fusion.Candidates
    ) -> None:
        """Exact for all candidates, also those that only the keyword side proposed."""
        start = now()
        others = found.ids[found.dense :]
        near_these = source.similarity(row, others)
        # one that was removed meanwhile has no score, and no score is no number to blend
        worst = -1.0 if self._metric == "cosine" else _WORST
        found.cosine[found.dense :] = np.maximum(near_these, worst)
        self._noted(search, "rescore", start, len(others), 2 * len(others) * row.shape[1])

    def _how(self, search: Running, stages: Stages) -> Fusion:
        if self._chosen is not None:
            return self._chosen
        if not stages.fusion:
            return self._plain
        chosen = stages.fusion.get(search.asked.language) or stages.fusion.get("")
        return chosen or self._plain

    def _reranked(
        self,
        search: Running,
        source: CandidateSource,
        stages: Stages,
        tokens: Vectors,
        ids: Ids,
        fused: Scores,
        scores: dict[str, Scores],
    ) -> tuple[Ids, Scores, dict[str, Scores]]:
        """By MaxSim, where the chunks have token vectors; never fails."""
        start = now()
        wanted = min(stages.rerank.depth, len(ids))
        depth = ladder.depth(self.costs, search.left(start), wanted)
        if depth < wanted:
            search.degraded.append(ladder.told_of_depth(depth, wanted))
        if not depth:
            return ids, fused, scores
        try:
            top = ids[:depth].tolist()
            signs = source.signs(top)
            if not signs:
                return ids, fused, scores
            new = rerank.by_tokens(tokens, top, signs)
        # what is optional fails no search, whatever it is that failed; it is counted and told
        except Exception as error:
            self.failed(search, error)
            return ids, fused, scores
        final = rerank.blend(fused, new, stages.rerank.weight)
        order = rerank.order(ids, final, depth)
        names = {**scores, "fused": fused}
        scores = {name: column[order] for name, column in names.items()}
        scores["reranked"] = np.full(len(ids), np.nan, np.float32)
        scores["reranked"][:depth] = new[order[:depth]]
        end = now()
        self._trace.observe("rerank", end - start)
        self.costs.observe("rerank", (end - start) / depth)
        if search.stages is not None:
            size = sum(some.nbytes for some in signs.values())
            search.stages["rerank"] = Stage(depth, 1e3 * (end - start), size)
        return ids[order], final[order], scores

    def failed(self, search: Running, error: Exception) -> None:
        """A reranker did: counted, and named on the result."""
        self._trace.count("rerank.failed")
        search.degraded.append(f"{rerank.NOT_RERANKED}{getattr(error, 'what', None) or error!r}")

    def _hits(
        self,
        search: Running,
        source: CandidateSource,
        stages: Stages,
        ids: Ids,
        final: Scores,
        scores: dict[str, Scores],
    ) -> tuple[Hit, ...]:
        settings, k = self._settings, search.query.k
        wanted = max(k, stages.rerank.depth) if self._outside else k
        if settings.mmr:
            wanted = max(wanted, _SPARE * k)
        hits = fetched(source, wanted, ids, final, scores, search.asked, distinct=settings.distinct)
        return hits if self._outside else self.diverse(search, source, hits)

    def diverse(
        self, search: Running, source: CandidateSource, hits: tuple[Hit, ...]
    ) -> tuple[Hit, ...]:
        """The k that are best and unlike each other, as far as `search.mmr` wants that."""
        k, weight = search.query.k, self._settings.mmr
        if not weight or len(hits) < 2:
            return hits[:k]
        start = now()
        vectors = source.vectors(np.array([hit.chunk.id for hit in hits], np.int64))
        scores = np.array([hit.score for hit in hits], np.float32)
        chosen = tuple(hits[at] for at in marginal(scores, vectors, k, weight))
        self.took(search, "diversify", start, len(chosen), 2 * vectors.size)
        return chosen


def _quoting(source: CandidateSource, search: Running, found: Matches, width: int) -> Matches:
    """The keyword side's candidates in which every phrase stands; all where it stands in none."""
    ids = found.ids[0].tolist()
    chunks = source.chunks(ids)
    quotes = search.asked.quotes
    keep = [id in chunks and quotes(chunks[id].text) for id in ids]
    if not any(keep):
        phrases = " and ".join(f'"{phrase}"' for phrase in search.asked.phrases)
        search.degraded.append(f"no passage holds {phrases} word for word: searched without it")
        keep = [True] * len(ids)
    places = np.flatnonzero(keep)[:width]
    return Matches(found.ids[:, places], found.scores[:, places])
