"""A question from its text to its hits: every step but the embedding, in order.

    begin -> keyword, dense -> fuse, by exact scores -> rerank -> min_score -> fetch -> diversify

The texts are fetched before the reranking where the reranker reads them. The steps are functions
over arrays; the `SearchContext` carries their budget and notes. Only the learned costs are kept
from one search to the next.
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
from vivace.retrieve.fusion import Ranking
from vivace.retrieve.query import check, encodable, parse, unit
from vivace.retrieve.rerank import RerankStep, ScoresInline
from vivace.run import work
from vivace.settings import Search
from vivace.text.terms import terms
from vivace.trace import Trace
from vivace.types import (
    Bitmap,
    Chunk,
    Fusion,
    FusionMode,
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
_LOWEST: Final = float(np.finfo(np.float32).min)
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

    `begin` and `wants_tokens` take microseconds and run on the event loop. The other steps block:
    they run on a thread of the search pool, or on the one that has embedded the question.

    Args:
        watch: called with every dense answer.
        reranker: scores the best again, in place of MaxSim; the caller closes it.
        costs: what the stages took before; by default nothing has been learned yet.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        settings: Search,
        trace: Trace,
        *,
        metric: Metric = "cosine",
        watch: DenseWatch | None = None,
        reranker: Reranker | ScoresInline | None = None,
        costs: StageCosts | None = None,
    ) -> None:
        self._snapshots = snapshots
        self._settings = settings
        self._trace = trace
        self._costs = costs or StageCosts()
        self._metric = metric
        self._watch = watch
        self.rerank = RerankStep(settings, reranker)
        self.finish_blocks = settings.mmr > 0
        """Whether `finish` reads vectors also where the texts have been read."""
        mode: FusionMode = "max_norm" if settings.fusion == "auto" else settings.fusion
        self._fusion = {"": Fusion(mode, settings.keyword_weight)}
        rerank = Rerank(settings.rerank_depth, settings.rerank_weight)
        self._unplanned = Stages(
            settings.candidates, self._fusion, _NO_RERANK if settings.rerank == "off" else rerank
        )

    def begin(self, query: Query) -> SearchContext:
        """The question, checked and parsed, with the sooner of its deadlines.

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
        return context

    def wants_tokens(self, contexts: Sequence[SearchContext]) -> bool:
        """Whether the questions' token vectors are of use in the plan that is in force.

        Binds the questions to the newest state. Where that would block, the plan is not known yet,
        and the answer is yes.
        """
        if not self.rerank.reads_tokens:
            return False
        if not contexts[0].bound:
            if (source := self._snapshots.settled()) is None:
                return True
            self._bind(contexts, source)
        return contexts[0].plan.rerank.depth > 0

    def run(self, context: SearchContext) -> SearchResult | Ranking:
        """Every step that runs on a search thread: to the result, or to the ranking for a reranker
        that runs elsewhere, after which `finish` makes the result.

        Raises:
            BadFilter: an unknown key or operator.
            BadVectors: a vector of another dimension than the collection's.
        """
        row, keyword, near = context.row, context.keyword, context.near
        if keyword is None:
            keyword = self.keyword(context)
        if row is not None and near is None:
            near = self.dense(context, row)
        if row is not None and near is not None and self._watch is not None:
            self._watch(row, near, context.allow, context.source)
        ranking = self.fuse(context, keyword, near)
        if self.rerank.reads_texts:
            start = now()
            ranking = self.fetch(context, ranking)
            _note_fetch(context, start, ranking)
        if self.rerank.guarded is not None:
            return ranking
        return self.finish(context, self.rerank.inline(context, ranking))

    def finish(self, context: SearchContext, ranking: Ranking) -> SearchResult:
        """The result: the k best that score enough, still exist, and say something new."""
        least = context.query.min_score
        if least is not None:
            ranking = ranking.first(int(np.count_nonzero(ranking.scores >= least)))  # descending
        start, unread = now(), ranking.chunks is None
        if unread:
            ranking = self.fetch(context, ranking)
        ranking = self.diversify(context, ranking).first(context.query.k)
        hits = ranking.hits()
        if unread:
            _note_fetch(context, start, ranking)
        context.report()
        return SearchResult(hits, context.source.epoch, tuple(context.degraded), context.stages)

    # -- the steps --------------------------------------------------------------------------

    def _bind(self, contexts: Sequence[SearchContext], source: CandidateSource) -> None:
        plan = self._plan(source)
        for context in contexts:
            context.bind(source, plan)

    def _plan(self, source: CandidateSource) -> Stages:
        """The stages in force: the collection's plan, completed and overruled by the settings."""
        planned, settings = source.stages, self._settings
        if planned is None:
            return self._unplanned
        how = {**self._fusion, **planned.fusion} if settings.fusion == "auto" else self._fusion
        rerank = planned.rerank if settings.rerank != "off" else _NO_RERANK
        return Stages(planned.candidates, how, rerank)

    def width(self, context: SearchContext) -> int:
        """Candidates taken from each side."""
        return max(context.plan.candidates, 2 * context.query.k)

    def keyword(self, context: SearchContext) -> Matches:
        """The keyword side's candidates."""
        if not context.bound:
            self._bind([context], self._snapshots.snapshot())
        source, parsed = context.source, context.parsed
        context.allow = source.allowed(context.query)
        start, width = now(), self.width(context)
        words = terms(parsed.text)
        if not parsed.phrases:
            found = source.keyword(words, width, allow=context.allow)
        else:
            found = source.keyword(words, _PHRASE_FACTOR * width, allow=context.allow)
            found = _with_phrases(context, found, width)
        context.note("keyword", start, found.ids.shape[1])
        context.keyword = found
        return found

    def dense(self, context: SearchContext, row: Vectors) -> Matches | None:
        """The dense side's candidates, as far as the time allows; None where it allows none."""
        start, source = now(), context.source
        effort = context.dense_effort(start, source.approximate)
        if effort == "none":
            return None
        width, allow = self.width(context), context.allow
        if effort == "full":
            near, stage = source.dense(row, width, allow=allow), "dense"
        else:
            near = source.dense(row, width, allow=allow, hurried=True)
            stage = "dense hurried"
        found = int(np.count_nonzero(near.ids >= 0)) if context.query.explain else 0
        context.note(stage, start, found)
        return near

    def dense_of_many(self, contexts: Sequence[SearchContext], dim: int) -> None:
        """The dense candidates of several questions of one state, by one call of the index.

        Questions with filters, without a vector or with one of another dimension are left to
        `dense`, all of them where the call fails: each then has an error of its own.
        """
        bound = next((context.source for context in contexts if context.bound), None)
        self._bind(contexts, self._snapshots.snapshot() if bound is None else bound)
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
            found = plain[0].source.dense(rows, max(widths))
        except VivaceError:
            return
        self._trace.observe("dense of many", now() - start)
        for at, (context, width) in enumerate(zip(plain, widths, strict=True)):
            context.near = Matches(
                found.ids[at : at + 1, :width], found.scores[at : at + 1, :width]
            )

    def fuse(self, context: SearchContext, keyword: Matches, near: Matches | None) -> Ranking:
        """Both sides' candidates by their fused exact scores; equal ones by id."""
        start, row = now(), context.row
        found = fusion.candidates(keyword, near)
        scores, how = {"bm25": found.bm25}, Fusion("keyword")
        if row is not None:
            if found.dense < len(found.ids):
                start, lowest = now(), -1.0 if self._metric == "cosine" else _LOWEST
                count = fusion.score_exactly(found, context.source, row, lowest)
                start = context.note("rescore", start, count, 2 * count * row.shape[1])
            scores["cosine"] = found.cosine
            kinds = context.plan.fusion
            how = kinds.get(context.parsed.language) or kinds[""]
        fused = fusion.fuse(found.bm25, found.cosine, how)
        ranking = Ranking(found.ids, fused, scores).take(np.lexsort((found.ids, -fused)))
        context.note("fuse", start, len(found.ids))
        return ranking

    def fetch(self, context: SearchContext, ranking: Ranking) -> Ranking:
        """The first candidates that still exist, contain nothing excluded and are no near-duplicate
        of a better one, with their chunks: as many as the steps behind need."""
        parsed, wanted = context.parsed, context.query.k
        if self.rerank.reads_texts:
            wanted = max(wanted, context.plan.rerank.depth)
        if self._settings.mmr:
            wanted = max(wanted, _SPARE_FACTOR * context.query.k)
        seen = DistinctTexts() if self._settings.distinct else None
        evidence = [ranking.stages[side] for side in ("bm25", "cosine") if side in ranking.stages]
        chunks: list[Chunk] = []
        dropped: list[int] = []
        at = 0
        while len(chunks) < wanted and at < len(ranking.ids):
            part = slice(at, at + wanted - len(chunks))
            ids = ranking.ids[part].tolist()
            existing = context.source.reader.chunks(ids)
            rows = zip(*[column[part].tolist() for column in evidence], strict=True)
            for place, (chunk_id, row) in enumerate(zip(ids, rows, strict=True), at):
                chunk = existing.get(chunk_id)
                if (
                    chunk is None
                    or (parsed.excluded and parsed.excludes(chunk.text))
                    or (seen is not None and not seen.add(chunk.text, *row))
                ):
                    dropped.append(place)
                else:
                    chunks.append(chunk)
            at += len(ids)
        return ranking.take(np.delete(np.arange(at), dropped) if dropped else slice(at), chunks)

    def diversify(self, context: SearchContext, ranking: Ranking) -> Ranking:
        """The k best that are also unlike each other, as far as `search.mmr` wants that."""
        weight, chunks = self._settings.mmr, ranking.chunks
        if not weight or chunks is None or len(chunks) < 2:
            return ranking
        start = now()
        vectors = context.source.vectors(ranking.ids)
        chosen = marginal(ranking.scores, vectors, context.query.k, weight)
        context.note("diversify", start, len(chosen), 2 * vectors.size)
        return ranking.take(np.array(chosen, np.int64), [chunks[at] for at in chosen])


def _with_phrases(context: SearchContext, found: Matches, width: int) -> Matches:
    """The keyword candidates that contain every phrase; all of them where none does."""
    ids = found.ids[0].tolist()
    chunks, parsed = context.source.reader.chunks(ids), context.parsed
    keep = [chunk in chunks and parsed.has_phrases(chunks[chunk].text) for chunk in ids]
    if not any(keep):
        phrases = " and ".join(f'"{phrase}"' for phrase in parsed.phrases)
        context.degraded.append(f"no passage holds {phrases} word for word: searched without it")
        keep = [True] * len(ids)
    places = np.flatnonzero(keep)[:width]
    return Matches(found.ids[:, places], found.scores[:, places])


def _note_fetch(context: SearchContext, start: float, ranking: Ranking) -> None:
    size, chunks = 0, ranking.chunks
    if context.query.explain and chunks is not None:
        size = sum(len(chunk.text.encode("utf-8", "surrogatepass")) for chunk in chunks)
    context.note("fetch", start, len(ranking.ids), size)
