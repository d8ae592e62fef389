"""The best of a ranking scored again. Whatever a reranker does, the search goes on."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from vivace.errors import RerankError
from vivace.protocols import Reranker, ReranksSeveral
from vivace.retrieve.maxsim import maxsim
from vivace.run.breaker import Breaker, Tolerance
from vivace.types import Hit, Ids, Query, Scores, Signs, Vectors

NOT_RERANKED: Final = "not reranked: "
_NO_SIGNS: Final[Signs] = np.empty((0, 0), np.uint8)
_TOLERANCE: Final = Tolerance(in_row=3)
"""Each failure may be a search that waited all of `search.rerank_seconds` for nothing."""


class LeftAlone(RerankError):
    """The reranker was not asked: it has failed or been late too often of late."""


class Outside:
    """A reranker that is no part of the search, and left alone for a while after failures in a row.

    One that hangs would cost every search its whole `search.rerank_seconds`. So after the third
    failure or late answer nobody waits for it for a second, then one search tries it; each trial
    that fails doubles the pause, to half a minute at most. On one event loop.

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
        """Questions that it is asked for at once: one that computes here gains nothing by more."""

    async def scored(self, query: Query, hits: Sequence[Hit], seconds: float) -> Scores:
        """As the function `scored`.

        Raises:
            LeftAlone: at once, and nothing was asked.
            RerankError: it failed or was late, which counts against it.
        """
        now = self._clock()
        if not self._breaker.admits(now):
            left = max(0.0, self._breaker.until - now)
            raise LeftAlone(
                f"{self._reranker.name} is left alone for {left:.1f} s after failures; "
                f"the last: {self._why}",
                fix="See that the reranker is up, or set search.rerank",
            )
        one = self._breaker.begin()
        try:
            scores = await scored(self._reranker, query, hits, seconds)
        except RerankError as error:
            self._why = error.what
            self._breaker.failed(one, self._clock(), spare=False)
            raise
        except BaseException:  # whoever asked has gone, which says nothing about it
            self._breaker.dropped(one)
            raise
        self._breaker.succeeded(one, self._clock())
        return scores


def blend(fused: Scores, reranked: Scores, weight: float) -> Scores:
    """One score a candidate (n,) of all n ones' fused scores, best first, and the first ones' new.

    `(1-w) * fused/max + w * reranked/max` of the first ones, times the fused maximum: so a score
    keeps its meaning for who compares it with `min_score`. The others stay behind them in their
    order. Scores below 0 are counted from the lowest up.
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
    """Places (len(ids),), the first n sorted anew by score, equal ones by id; the rest as it is."""
    places = np.arange(len(ids))
    places[:n] = np.lexsort((ids[:n], -scores[:n]))
    return places


def by_tokens(question: Vectors, ids: Sequence[int], signs: dict[int, Signs]) -> Scores:
    """MaxSim of each chunk (len(ids),); 0 of one without token vectors.

    Raises:
        RerankError: a score is no number.
    """
    return sound(maxsim(question, [signs.get(id, _NO_SIGNS) for id in ids]), len(ids))


async def scored(reranker: Reranker, query: Query, hits: Sequence[Hit], seconds: float) -> Scores:
    """The reranker's score of each hit (n,), in so many seconds.

    One that is late is cancelled and not waited for: it may not even notice.

    Raises:
        RerankError: it failed, was late, or gave too few scores or some that are no numbers.
    """
    task = asyncio.ensure_future(reranker.score(query, hits))
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.add_done_callback(_looked_at)
            task.cancel()
    if not task.done():
        raise RerankError(
            f"{reranker.name} gave no scores within {1e3 * seconds:.3g} ms",
            fix="Lower search.rerank_depth, or raise search.rerank_seconds or the deadline",
        )
    try:
        scores = task.result()
    except RerankError:
        raise
    except asyncio.CancelledError as error:
        raise RerankError(f"{reranker.name} was cancelled", fix="Ask again") from error
    # a part from outside may raise anything; what it raised is told and counted
    except Exception as error:
        raise RerankError(f"{reranker.name}: {error!r}", fix="Mend the reranker") from error
    return sound(scores, len(hits), reranker.name)


def sound(scores: Scores, n: int, name: str = "maxsim") -> Scores:
    """The scores as they are, if there is one finite number for each.

    Raises:
        RerankError: there is not.
    """
    try:
        found = np.asarray(scores, np.float32)
    except (TypeError, ValueError) as error:
        raise RerankError(f"{name} gave something else than scores", fix="Mend it") from error
    if found.shape != (n,):
        raise RerankError(f"{name} gave scores of shape {found.shape} for {n} passages")
    if not np.isfinite(found).all():
        raise RerankError(f"{name} gave a score that is no number")
    return found


def _looked_at(task: asyncio.Future[Scores]) -> None:
    """asyncio would log that nobody saw the error of one that was given up."""
    if not task.cancelled():
        task.exception()
