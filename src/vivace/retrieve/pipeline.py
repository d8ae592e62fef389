"""A question from its text to its hits: every step but the embedding, in order.

    begin -> keyword candidates -> dense candidates -> exact scores -> fuse -> rerank -> finish

`finish` drops what scores too low, reads the texts, leaves out what says nothing new, and makes the
hits. A reranker that reads texts has them read before it. The steps are functions over arrays; the
`SearchContext` carries their budget and their notes. Nothing is kept from one search to the next
but the learned costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

import numpy as np

from vivace.errors import VivaceError
from vivace.protocols import CandidateSource, Reranker
from vivace.retrieve import fusion
from vivace.retrieve.context import SearchContext, StageCosts, now
from vivace.retrieve.diversify import DistinctTexts, marginal
from vivace.retrieve.fusion import Candidates, Ranking
from vivace.retrieve.query import check, encodable, parse, unit
from vivace.retrieve.rerank import RerankStep
from vivace.run import work
from vivace.settings import Search
from vivace.text.terms import terms
from vivace.trace import Trace
from vivace.types import (
    Bitmap,
    Chunk,
    Fusion,
    Matches,
    Metric,
    Query,
    Rerank,
    SearchResult,
    Stages,
    Vectors,
)

DenseWatch: TypeAlias = Callable[[Vectors, Matches, Bitmap | None, CandidateSource], None]
"""Called with every dense answer: the question (1, dim), what was found, what was allowed, and the
state that was searched. It runs on the answer's path and must not wait or raise."""
_WORST: Final = float(np.finfo(np.float32).min)
_PHRASE_FACTOR: Final = 2
"""Times as many keyword candidates for a question with phrases, which drop some."""
_SPARE_FACTOR: Final = 2
"""Times as many hits as are wanted, for `marginal` to choose from."""
_NO_RERANK: Final = Rerank(0)


class Snapshots(Protocol):
    """Where the state to be searched comes from: a collection's corpus."""

    def snapshot(self) -> CandidateSource:
        """The newest state, also of what other processes have committed. May block."""
        ...

    def settled(self) -> CandidateSource | None:
        """What `snapshot` returns, in microseconds; None where it would have to catch up."""
        ...


class SearchPipeline:
    """The steps of one collection's searches.

    `begin` takes microseconds and runs on the event loop. The other steps block: they run on a
    thread of the search pool, or on the one that has embedded the question.

    Args:
        watch: called with every dense answer.
        reranker: scores the best again, in place of MaxSim; whoever made it closes it.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        settings: Search,
        trace: Trace,
        costs: StageCosts,
        *,
        metric: Metric,
        watch: DenseWatch | None,
        reranker: Reranker | None,
    ) -> None:
        self._snapshots = snapshots
        self._settings = settings
        self._trace = trace
        self._costs = costs
        self._metric = metric
        self._watch = watch
        self.rerank = RerankStep(settings, reranker)
        self._fusion = {"": Fusion(weight=settings.keyword_weight)}
        if settings.fusion != "auto":
            self._fusion = {"": Fusion(settings.fusion, settings.keyword_weight)}
        rerank = Rerank(settings.rerank_depth, settings.rerank_weight)
        if settings.rerank == "off":
            rerank = _NO_RERANK
        self._unplanned = Stages(settings.candidates, self._fusion, rerank)

    # -- parse ------------------------------------------------------------------------------

    def settled(self) -> CandidateSource | None:
        """The state to be searched, where it is known without blocking."""
        return self._snapshots.settled()

    def begin(self, query: Query, source: CandidateSource | None) -> SearchContext:
        """The question, checked and parsed, with the sooner of its deadlines.

        Args:
            source: the state to be searched; None takes the newest when the search reaches it.

        Raises:
            BadQuery: as `query.check`.
            DeadlineExceeded, Overloaded: as `SearchContext.require_time`.
        """
        check(query, self._settings.max_question_chars)
        query = encodable(query)
        until = work.current().deadline
        if query.deadline is not None:
            own = now() + query.deadline
            until = own if until is None else min(own, until)
        context = SearchContext(query, parse(query.text), until, self._costs, self._trace)
        context.require_time()
        if query.vector is not None:
            cosine = self._metric == "cosine"
            context.embedded(unit(query.vector) if cosine else query.vector)
        if source is not None:
            self.bind(context, source)
        return context

    def bind(
        self, context: SearchContext, source: CandidateSource | None = None
    ) -> CandidateSource:
        """The state to be searched, by default the newest, and its plan: the same from now on."""
        if context.source is None:
            context.source = self._snapshots.snapshot() if source is None else source
            context.plan = self._plan(context.source)
        return context.source

    def _plan(self, source: CandidateSource) -> Stages:
        """The stages in force: the collection's plan, completed and overruled by the settings."""
        planned, settings = source.stages, self._settings
        if planned is None:
            return self._unplanned
        how = {**self._fusion, **planned.fusion} if settings.fusion == "auto" else self._fusion
        rerank = planned.rerank if settings.rerank != "off" else _NO_RERANK
        return Stages(planned.candidates, how, rerank)

    def wants_tokens(self, context: SearchContext) -> bool:
        """Whether the question's token vectors are of use: as far as the plan is known by now."""
        plan = context.plan
        return self.rerank.reads_tokens and (plan is None or plan.rerank.depth > 0)

    # -- candidates -------------------------------------------------------------------------

    def width(self, context: SearchContext) -> int:
        """Candidates taken from each side."""
        assert context.plan is not None
        return max(context.plan.candidates, 2 * context.query.k)

    def keyword(self, context: SearchContext) -> Matches:
        """The keyword side's candidates.

        Raises:
            BadFilter: an unknown key or operator.
        """
        source, parsed = self.bind(context), context.parsed
        context.allow = source.allowed(context.query)
        start, width = now(), self.width(context)
        words = terms(parsed.text)
        if not parsed.phrases:
            found = source.keyword(words, width, allow=context.allow)
        else:
            found = source.keyword(words, _PHRASE_FACTOR * width, allow=context.allow)
            found = _with_phrases(context, source, found, width)
        context.note("keyword", start, found.ids.shape[1])
        context.keyword = found
        return found

    def dense(
        self, context: SearchContext, source: CandidateSource, row: Vectors
    ) -> Matches | None:
        """The dense side's candidates, as far as the time allows; None where it allows none."""
        start = now()
        effort = context.dense_effort(start, source.approximate)
        if effort == "none":
            return None
        width, allow = self.width(context), context.allow
        if effort == "full":
            near, stage = source.dense(row, width, allow=allow), "dense"
        else:
            near = source.dense(row, width, allow=allow, hurried=True)
            stage = "dense hurried"
        found = 0 if context.stages is None else int(np.count_nonzero(near.ids >= 0))
        context.note(stage, start, found)
        return near

    def dense_of_many(self, contexts: Sequence[SearchContext], dim: int) -> None:
        """The dense candidates of several questions of one state, by one call of the index.

        Questions with filters, without a vector or with one of another dimension are left to
        `dense`, all of them where the call fails: each then has an error of its own.
        """
        plain = [
            context
            for context in contexts
            if context.row is not None and not context.query.filters and context.row.shape[1] == dim
        ]
        if len(plain) < 2:
            return
        rows = np.concatenate([context.row for context in plain if context.row is not None])
        widths = [self.width(context) for context in plain]
        start = now()
        try:
            found = self.bind(plain[0]).dense(rows, max(widths))
        except VivaceError:
            return
        self._trace.observe("dense of many", now() - start)
        for at, (context, width) in enumerate(zip(plain, widths, strict=True)):
            context.near = Matches(
                found.ids[at : at + 1, :width], found.scores[at : at + 1, :width]
            )

    # -- scores and order -------------------------------------------------------------------

    def rank(self, context: SearchContext) -> Ranking:
        """Everything up to the ranking: of a reranker to be awaited, the one it is to see.

        Raises:
            BadFilter: as `keyword`.
            BadVectors: a vector of another dimension than the collection's.
        """
        source, row = self.bind(context), context.row
        keyword = self.keyword(context) if context.keyword is None else context.keyword
        near = context.near
        if row is not None:
            if near is None:
                near = self.dense(context, source, row)
            if near is not None and self._watch is not None:
                self._watch(row, near, context.allow, source)
        start = now()
        found = fusion.candidates(keyword, near)
        if row is not None and found.dense < len(found.ids):
            start = self.score(context, source, row, found)
        ranking = self.fuse(context, found, start)
        if self.rerank.reads_texts:
            start = now()
            ranking = self.fetch(context, ranking)
            _note_fetch(context, start, ranking.chunks or ())
        return self.rerank.inline(context, ranking)

    def score(
        self, context: SearchContext, source: CandidateSource, row: Vectors, found: Candidates
    ) -> float:
        """Exact dense scores for those candidates that only the keyword side proposed."""
        start, others = now(), found.ids[found.dense :]
        exact = source.similarity(row, others)
        # a chunk that was removed meanwhile has the score -inf, which cannot be blended
        worst = -1.0 if self._metric == "cosine" else _WORST
        found.cosine[found.dense :] = np.maximum(exact, worst)
        return context.note("rescore", start, len(others), 2 * len(others) * row.shape[1])

    def fuse(self, context: SearchContext, found: Candidates, start: float) -> Ranking:
        """The candidates by their fused scores; equal ones by id."""
        assert context.plan is not None
        scores = {"bm25": found.bm25}
        if context.row is None:
            fused = fusion.fuse(found.bm25, np.zeros_like(found.bm25), Fusion("keyword"))
        else:
            scores["cosine"] = found.cosine
            kinds = context.plan.fusion
            how = kinds.get(context.parsed.language) or kinds[""]
            fused = fusion.fuse(found.bm25, found.cosine, how)
        ranking = Ranking(found.ids, fused, scores).take(np.lexsort((found.ids, -fused)))
        context.note("fuse", start, len(found.ids))
        return ranking

    # -- hits -------------------------------------------------------------------------------

    def finish(self, context: SearchContext, ranking: Ranking) -> SearchResult:
        """The result: the k best that score enough, exist, and say something new."""
        assert context.source is not None
        least = context.query.min_score
        if least is not None:
            ranking = ranking.first(int(np.count_nonzero(ranking.scores >= least)))  # descending
        start, unread = now(), ranking.chunks is None
        if unread:
            ranking = self.fetch(context, ranking)
        hits = self.diversify(context, ranking).first(context.query.k).hits()
        if unread:
            _note_fetch(context, start, [hit.chunk for hit in hits])
        context.report()
        degraded, stages = tuple(context.degraded), context.stages or {}
        return SearchResult(hits, context.source.epoch, degraded, stages)

    def fetch(self, context: SearchContext, ranking: Ranking) -> Ranking:
        """The first candidates that still exist, contain nothing excluded and are no near-duplicate
        of a better one, with their chunks: as many as the steps behind need."""
        assert context.plan is not None
        source, parsed, wanted = self.bind(context), context.parsed, context.query.k
        if self.rerank.reads_texts:
            wanted = max(wanted, context.plan.rerank.depth)
        if self._settings.mmr:
            wanted = max(wanted, _SPARE_FACTOR * context.query.k)
        seen = DistinctTexts() if self._settings.distinct else None
        evidence = [ranking.stages[side] for side in ("bm25", "cosine") if side in ranking.stages]
        places: list[int] = []
        chunks: list[Chunk] = []
        at = 0
        while len(places) < wanted and at < len(ranking.ids):
            part = slice(at, at + wanted - len(places))
            ids = ranking.ids[part].tolist()
            existing = source.chunks(ids)
            rows = zip(*[column[part].tolist() for column in evidence], strict=True)
            for place, (chunk_id, row) in enumerate(zip(ids, rows, strict=True), at):
                chunk = existing.get(chunk_id)
                if chunk is None or (parsed.excluded and parsed.excludes(chunk.text)):
                    continue
                if seen is not None and not seen.add(chunk.text, *row):
                    continue
                places.append(place)
                chunks.append(chunk)
            at += len(ids)
        if at == len(places):
            return ranking.take(slice(at), chunks)  # a view: nothing was passed over
        return ranking.take(np.array(places, np.int64), chunks)

    def diversify(self, context: SearchContext, ranking: Ranking) -> Ranking:
        """The k best that are also unlike each other, as far as `search.mmr` wants that."""
        weight, chunks = self._settings.mmr, ranking.chunks
        if not weight or chunks is None or len(chunks) < 2:
            return ranking
        start = now()
        vectors = self.bind(context).vectors(ranking.ids)
        chosen = marginal(ranking.scores, vectors, context.query.k, weight)
        context.note("diversify", start, len(chosen), 2 * vectors.size)
        return ranking.take(np.array(chosen, np.int64), [chunks[at] for at in chosen])


def _with_phrases(
    context: SearchContext, source: CandidateSource, found: Matches, width: int
) -> Matches:
    """The keyword candidates that contain every phrase; all of them where none does."""
    ids = found.ids[0].tolist()
    chunks, parsed = source.chunks(ids), context.parsed
    keep = [chunk in chunks and parsed.has_phrases(chunks[chunk].text) for chunk in ids]
    if not any(keep):
        phrases = " and ".join(f'"{phrase}"' for phrase in parsed.phrases)
        context.degraded.append(f"no passage holds {phrases} word for word: searched without it")
        keep = [True] * len(ids)
    places = np.flatnonzero(keep)[:width]
    return Matches(found.ids[:, places], found.scores[:, places])


def _note_fetch(context: SearchContext, start: float, chunks: Sequence[Chunk]) -> None:
    size = 0
    if context.stages is not None:
        size = sum(len(chunk.text.encode("utf-8", "surrogatepass")) for chunk in chunks)
    context.note("fetch", start, len(chunks), size)
