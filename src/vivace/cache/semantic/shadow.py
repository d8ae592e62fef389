"""Does the bound hold on the questions that really come? Some hits are answered anew, to see.

The bookkeeping alone: whoever answers asks `take`, and tells `judged` whether the answer that was
made anew says what the kept one did.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from vivace.cache.semantic.calibration import (
    CONFIDENCE,
    SURE,
    holds,
    lower_bound,
    thresholds,
    upper_bound,
)
from vivace.types import Decision

SHARE: Final = 0.05
"""Of the hits that could be served: answered anew."""
_WINDOW: Final = 8_192
"""Requests after which what was seen counts half."""
_GIVE_UP: Final = 8_192
"""Requests after which no threshold is hoped for any more."""
_SAID: Final = 20
"""Answers compared, at the least, before the best hits are called wrong."""
_EVERY: Final = 64
"""Requests between two looks at the threshold while nothing is judged."""
_BELOW: Final = 0.02
"""The threshold in force: so far below it hits are looked for, to learn whether it may fall."""
_MOVED: Final = 0.02
"""A threshold that moved by less is not worth a decision."""


class Shadow:
    """The threshold in force for one language. Not thread-safe.

    Hits under the threshold are never served: their questions are answered anyway, and so are
    judged at no cost. Of those at or above it a share is answered anew too. At the start that is
    all of them: nothing is served before the requests seen here bound the wrong answers, which at
    1 % and without a wrong one takes 459 of them. Thresholds are tried from the highest down to
    the first whose bound does not hold.

    Both bounds have to hold at a threshold: of wrong answers among all requests as they were
    counted, and of the share of wrong ones among the hits judged, times the share of hits. The
    second is what judging a part of them takes; the share of hits is counted, not estimated.
    """

    def __init__(
        self,
        bound: float,
        start: float,
        *,
        name: str = "",
        share: float = SHARE,
        decide: Callable[[Decision], None] | None = None,
        seed: int = 0,
    ) -> None:
        """`start`: the lowest threshold that may come to be in force; see `calibration`."""
        self.bound = bound
        self.start = start
        self.disabled = ""
        """Why nothing is served any more; empty while something may be."""
        self._name = name
        self._share = share
        self._decide = decide
        self._random = random.Random(seed)
        self._levels = np.array(thresholds(start))
        self._hits = np.zeros(len(self._levels))
        self._judged = np.zeros(len(self._levels))
        self._wrong = np.zeros(len(self._levels))
        self._requests = 0.0
        self._seen = 0
        self._looked = 0
        self._threshold: float | None = None
        self._told: float | None = None

    @property
    def threshold(self) -> float | None:
        """The lowest cosine that is served; None while nothing is."""
        return None if self.disabled else self._threshold

    @property
    def floor(self) -> float:
        """What is worth looking for: a bit below the threshold, to learn whether it may fall."""
        threshold = self._threshold
        return self.start if threshold is None else max(self.start, threshold - _BELOW)

    def request(self) -> None:
        """A question came, hit or not."""
        self._requests += 1
        self._seen += 1
        if self._seen - self._looked >= _EVERY and not self.disabled:
            self._look()

    def take(self, score: float) -> bool:
        """Whether the hit of this cosine is served; otherwise answer anew, and tell `judged`."""
        level = self._level(score)
        if level is None or self.disabled:
            return False
        self._hits[level] += 1
        threshold = self._threshold
        return threshold is not None and score >= threshold and self._random.random() >= self._share

    def judged(self, score: float, right: bool) -> None:
        """What a question that was answered anew said of its hit."""
        level = self._level(score)
        if level is None or self.disabled:
            return
        self._judged[level] += 1
        self._wrong[level] += not right
        self._look()

    def statistics(self) -> dict[str, Any]:
        """How it stands; every value is a JSON value."""
        hits, judged, wrong = (float(a.sum()) for a in self._over(self._threshold))
        return {
            "threshold": self.threshold,
            "requests": round(self._requests),
            "hits": round(hits),
            "judged": round(judged),
            "wrong": round(wrong),
            "upper_bound": self._upper(hits, judged, wrong),
            "disabled": self.disabled,
        }

    def disable(self, reason: str) -> None:
        """Serve nothing any more."""
        if not self.disabled:
            self._tell("off", f"semantic answers{self._of()} switched themselves off: {reason}")
            self.disabled = reason

    # -- inside -----------------------------------------------------------------------------

    def _level(self, score: float) -> int | None:
        """The highest threshold that the score reaches."""
        found = int(np.searchsorted(-self._levels, -score))
        return found if found < len(self._levels) else None

    def _over(self, threshold: float | None) -> tuple[Any, Any, Any]:
        over = self._levels >= (self.start if threshold is None else threshold)
        return self._hits[over], self._judged[over], self._wrong[over]

    def _upper(self, hits: float, judged: float, wrong: float) -> float:
        whole = upper_bound(wrong, self._requests)
        if not hits or not self._requests:
            return whole
        return max(whole, upper_bound(wrong, judged) * hits / self._requests)

    def _look(self) -> None:
        self._looked = self._seen
        if self._requests >= _WINDOW:
            self._requests /= 2
            for counts in (self._hits, self._judged, self._wrong):
                counts /= 2
        hits, judged, wrong = (np.cumsum(a) for a in (self._hits, self._judged, self._wrong))
        found, served = None, 0.0
        for at, threshold in enumerate(self._levels):
            if not self._kept(hits[at], judged[at], wrong[at]):
                break
            found, served = float(threshold), float(hits[at])
        self._set(found)
        if served < 1:
            self._consider(found, hits, judged, wrong)

    def _kept(self, hits: float, judged: float, wrong: float) -> bool:
        if not holds(wrong, self._requests, self.bound):
            return False
        if hits <= 0:
            return True
        return holds(wrong, judged, self.bound * self._requests / hits)

    def _consider(self, found: float | None, hits: Any, judged: Any, wrong: Any) -> None:
        """Is there still hope that the nearest hits, at the least, are right?"""
        enough = int(np.searchsorted(judged, _SAID))
        if enough < len(judged):
            share = lower_bound(wrong[enough], judged[enough], SURE)
            if share * hits[enough] / self._requests > self.bound:
                self.disable(
                    f"of {judged[enough]:.0f} answers of the most alike questions that were "
                    f"made anew, {wrong[enough]:.0f} were others: more than {self.bound:.1%} of "
                    "all requests would be answered wrongly"
                )
                return
        if found is None and self._seen >= _GIVE_UP:
            self.disable(
                f"{self._seen:,} questions could not show that at most {self.bound:.1%} of them "
                "would be answered wrongly, at any similarity"
            )

    def _set(self, threshold: float | None) -> None:
        before, self._threshold = self._threshold, threshold
        told = self._told
        if (threshold is None) != (before is None) or (
            threshold is not None and told is not None and abs(threshold - told) >= _MOVED
        ):
            if threshold is None:
                reason = f"what was seen does not bound wrong answers by {self.bound:.1%} any more"
            else:
                reason = (
                    f"at a cosine of {threshold:.3f} and above, at most {self.bound:.1%} of all "
                    f"requests{self._of()} are answered wrongly, {SURE:.0%} sure"
                )
            self._tell(threshold, reason)

    def _tell(self, after: float | str | None, reason: str) -> None:
        before, self._told = self._told, after if isinstance(after, float) else None
        if self._decide is not None:
            evidence = {**self.statistics(), "confidence": CONFIDENCE, "language": self._name}
            self._decide(Decision("semantic", before, after, reason, evidence))

    def _of(self) -> str:
        return f" in {self._name!r}" if self._name else ""
