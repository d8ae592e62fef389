"""The rerank step: the best of a ranking are scored again, and the new scores blended in.

Implementations only give scores. The step owns everything else: how many passages fit into the time
left, where the implementation runs, what happens when it fails, blending, order and statistics.

- MaxSim over token signs runs on the search thread and needs no texts.
- A reranker with `score_inline` (the fitted one) runs on the search thread, over texts.
- Any other `Reranker` (a cross-encoder, a server) is awaited, behind a timeout and a breaker.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np

from vivace.errors import RerankError
from vivace.protocols import Reranker, ReranksSeveral
from vivace.retrieve.context import SearchContext, now
from vivace.retrieve.fusion import Ranking
from vivace.retrieve.maxsim import maxsim
from vivace.run.breaker import Breaker, Tolerance
from vivace.settings import Search
from vivace.types import Hit, Ids, Query, Scores, Signs

_NO_SIGNS: Final[Signs] = np.empty((0, 0), np.uint8)
_TOLERANCE: Final = Tolerance(in_row=3)
"""Each failure may be a search that waited all of `search.rerank_seconds` for nothing."""

Scorer: TypeAlias = Callable[[SearchContext, Ranking], tuple[Scores, int] | None]
"""Scores (n,) of a ranking's candidates and the bytes that were read for them, on the calling
thread; None where there is nothing to score by."""


@runtime_checkable
class ScoresInline(Protocol):
    """A reranker that is quick enough to run on the search thread."""

    def score_inline(self, question: str, hits: Sequence[Hit]) -> Scores:
        """One score a hit (n,) float32, higher is better, on any scale. Blocks."""
        ...


class RerankerUnavailable(RerankError):
    """The reranker was not called, because it failed or was late too often just before."""


class RerankStep:
    """Scores the best of a ranking again. A failure degrades the search and never fails it.

    Args:
        reranker: used in place of MaxSim; the caller closes it.
    """

    def __init__(self, settings: Search, reranker: Reranker | ScoresInline | None) -> None:
        self._seconds = settings.rerank_seconds
        self.guarded: GuardedReranker | None = None
        """A reranker to be awaited with `awaited`; None where `inline` does it."""
        self._scorer: Scorer | None = None
        self.reads_texts = self.reads_tokens = False
        """What has to be there before the step: the candidates' chunks, the question's tokens."""
        if settings.rerank == "off":
            return
        if isinstance(reranker, ScoresInline):
            self._scorer, self.reads_texts = _by_texts(reranker), True
        elif reranker is not None:
            self.guarded, self.reads_texts = GuardedReranker(reranker), True
        elif settings.rerank in ("auto", "maxsim"):
            self._scorer, self.reads_tokens = by_tokens, True

    def inline(self, context: SearchContext, ranking: Ranking) -> Ranking:
        """The ranking, reranked on this thread if that is where the reranker runs."""
        if self._scorer is None or (self.reads_tokens and context.tokens is None):
            return ranking
        start = now()
        depth = context.rerank_depth(start, len(ranking.ids))
        if not depth:
            return ranking
        try:
            found = self._scorer(context, ranking.first(depth))
            if found is None:
                return ranking
            scores, size = sound(found[0], depth), found[1]
        # an optional step fails no search, whatever it raised; the failure is counted and named
        except Exception as error:
            return _failed(context, ranking, error, start, depth)
        return _reranked(context, ranking, scores, start, size)

    async def awaited(self, context: SearchContext, ranking: Ranking) -> Ranking:
        """The ranking, reranked by the reranker that runs elsewhere; its chunks have been read."""
        if self.guarded is None:
            return ranking
        start, query = now(), context.query
        depth = context.rerank_depth(start, len(ranking.ids))
        if not depth:
            return ranking
        seconds, left = self._seconds, context.left(start)
        if left is not None:
            seconds = min(seconds, max(0.0, left - context.costs["fuse"]))
        if context.parsed.text != query.text:
            query = replace(query, text=context.parsed.text)
        try:
            scores = await self.guarded.scored(query, ranking.first(depth).hits(), seconds)
        except RerankerUnavailable as error:
            # it was not called, so there is no cost to learn
            context.trace.count("rerank.skipped")
            context.degraded.append(f"not reranked: {error.what}")
            return ranking
        except RerankError as error:
            return _failed(context, ranking, error, start, depth)
        return _reranked(context, ranking, scores, start)


def _failed(
    context: SearchContext, ranking: Ranking, error: Exception, start: float, depth: int
) -> Ranking:
    """The ranking as it was; the failure is counted and named on the result."""
    context.trace.count("rerank.failed")
    context.degraded.append(f"not reranked: {getattr(error, 'what', None) or error!r}")
    context.note("rerank", start, depth, each=depth)
    return ranking


def _reranked(
    context: SearchContext, ranking: Ranking, scores: Scores, start: float, size: int = 0
) -> Ranking:
    """The ranking with the new scores (depth,) of its first candidates blended in."""
    depth = len(scores)
    final = blend(ranking.scores, scores, context.plan.rerank.weight)
    places = order(ranking.ids, final, depth)
    reranked = np.full(len(final), np.nan, np.float32)
    reranked[:depth] = scores
    stages = {**ranking.stages, "fused": ranking.scores, "reranked": reranked}
    chunks = ranking.chunks
    if chunks is not None:
        chunks = [chunks[at] for at in places.tolist()]
    again = Ranking(ranking.ids, final, stages).take(places, chunks)
    context.note("rerank", start, depth, size, each=depth)
    return again


def by_tokens(context: SearchContext, top: Ranking) -> tuple[Scores, int] | None:
    """A `Scorer`: MaxSim of the question's tokens and each chunk's token signs, 0 of a chunk that
    has none; None where no chunk has any."""
    assert context.tokens is not None
    ids = top.ids.tolist()
    signs = context.source.reader.signs(ids)
    if not signs:
        return None
    scores = maxsim(context.tokens, [signs.get(chunk, _NO_SIGNS) for chunk in ids])
    return scores, sum(some.nbytes for some in signs.values())


def _by_texts(reranker: ScoresInline) -> Scorer:
    return lambda context, top: (reranker.score_inline(context.parsed.text, top.hits()), 0)


def blend(fused: Scores, reranked: Scores, weight: float) -> Scores:
    """One score a candidate (n,) from all fused scores, best first, and new ones of the first.

    `(1-w) * fused/max + w * reranked/max` of the first ones, times the fused maximum: so scores
    stay comparable with `min_score`. The others stay behind them in their order. Negative scores
    are counted from the lowest one up.
    """
    n = len(reranked)
    if not n:
        return fused
    lowest = min(0.0, float(fused.min()))
    top = fused[:n] - np.float32(lowest)
    best = float(top.max())
    raised = reranked - min(0.0, float(reranked.min()))
    highest = float(raised.max())
    if highest > 0:
        raised = raised * np.float32(best / highest)
    blended = np.float32(1 - weight) * top + np.float32(weight) * raised + np.float32(lowest)
    rest = np.minimum(fused[n:], blended.min())
    return np.concatenate([blended, rest]).astype(np.float32, copy=False)


def order(ids: Ids, scores: Scores, n: int) -> Ids:
    """Places (len(ids),): the first n by descending score, equal ones by id; the rest unchanged."""
    places = np.arange(len(ids))
    places[:n] = np.lexsort((ids[:n], -scores[:n]))
    return places


def sound(scores: Scores, n: int, name: str = "maxsim") -> Scores:
    """The scores, if there is one finite number for each of n passages.

    Raises:
        RerankError: there is not.
    """
    try:
        found = np.asarray(scores, np.float32)
    except (TypeError, ValueError) as error:
        raise RerankError(f"{name} gave something else than scores", fix="Correct it") from error
    if found.shape != (n,):
        raise RerankError(f"{name} gave scores of shape {found.shape} for {n} passages")
    if not np.isfinite(found).all():
        raise RerankError(f"{name} gave a score that is no number")
    return found


class GuardedReranker:
    """A `Reranker` behind a timeout and a circuit breaker. Used on one event loop.

    One that hangs would cost every search its whole `search.rerank_seconds`. So after the third
    failure or late answer in a row it is not called for a second, then one search tries it; each
    trial that fails doubles the pause, to half a minute at most.

    Args:
        clock: seconds, as `time.monotonic`.
        draw: spreads the pauses.
    """

    def __init__(
        self,
        reranker: Reranker,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: random.Random | None = None,
    ) -> None:
        self._reranker = reranker
        self._clock = clock
        self._breaker = Breaker(_TOLERANCE, draw or random.Random())
        self._why = ""
        self.at_once = reranker.at_once if isinstance(reranker, ReranksSeveral) else 1
        """Questions to score at once: one that computes in this process gains nothing by more."""

    async def scored(self, query: Query, hits: Sequence[Hit], seconds: float) -> Scores:
        """The reranker's score of each hit (n,), within so many seconds.

        Raises:
            RerankerUnavailable: at once, and the reranker was not called.
            RerankError: it failed, was late, or gave too few scores or some that are not finite;
                that counts against it.
        """
        clock = self._clock()
        if not self._breaker.admits(clock):
            left = max(0.0, self._breaker.until - clock)
            raise RerankerUnavailable(
                f"{self._reranker.name} is left alone for {left:.1f} s after failures; "
                f"the last: {self._why}",
                fix="See that the reranker is up, or set search.rerank",
            )
        one = self._breaker.begin()
        try:
            scores = await self._within(query, hits, seconds)
        except RerankError as error:
            self._why = error.what
            self._breaker.failed(one, self._clock(), spare=False)
            raise
        except BaseException:  # the caller was cancelled, which does not count against the reranker
            self._breaker.dropped(one)
            raise
        self._breaker.succeeded(one, self._clock())
        return scores

    async def _within(self, query: Query, hits: Sequence[Hit], seconds: float) -> Scores:
        """A late call is cancelled but not waited for: it may ignore the cancellation."""
        name = self._reranker.name
        task = asyncio.ensure_future(self._reranker.score(query, hits))
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                task.add_done_callback(ignore_error)
                task.cancel()
        if not task.done():
            raise RerankError(
                f"{name} gave no scores within {1e3 * seconds:.3g} ms",
                fix="Lower search.rerank_depth, or raise search.rerank_seconds or the deadline",
            )
        try:
            scores = task.result()
        except RerankError:
            raise
        except asyncio.CancelledError as error:
            raise RerankError(f"{name} was cancelled", fix="Ask again") from error
        # a plugged-in reranker may raise anything: the error is counted and named on the result
        except Exception as error:
            raise RerankError(f"{name}: {error!r}", fix="Correct the reranker") from error
        return sound(scores, len(hits), name)


def ignore_error(task: asyncio.Future[Any]) -> None:
    """Retrieve the error of a task that nobody awaits any more, or asyncio would log it."""
    if not task.cancelled():
        task.exception()
