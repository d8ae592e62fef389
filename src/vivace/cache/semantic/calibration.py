"""From which similarity on may an answer be given again? By questions known to be the same.

What is bounded is the share of wrong answers among all requests, hits or not: what a user sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

import numpy as np

from vivace.cache.semantic.guard import Form, difference, form
from vivace.text.language import language
from vivace.types import Vectors

CONFIDENCE: Final = 0.95
"""Of a bound that is told."""
SURE: Final = 0.99
"""Of a bound that is acted on: it is looked at again and again."""
STEP: Final = 0.005
"""Between two thresholds that are tried."""
FLOOR: Final = 0.90
"""No threshold is below. What the guard lets through is rarely less alike (2 % of it, over qqp_en),
and to look for it costs time."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What pairs say of an embedding model and a language."""

    threshold: float | None
    """The lowest cosine at which the bound holds; None where it holds at none."""
    requests: int
    hits: int
    wrong: int
    upper: float
    """Of the share of wrong answers among requests, at that threshold (else at the highest)."""


def upper_bound(wrong: float, requests: float, confidence: float = CONFIDENCE) -> float:
    """The one-sided upper bound of a share of which `wrong` of `requests` were seen.

    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the
    binomial", 1934. Counts may be fractions, of evidence that has faded. 1 where nothing was seen.
    """
    if requests <= 0 or wrong >= requests:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if _beta(middle, wrong + 1, requests - wrong) < confidence:
            low = middle
        else:
            high = middle
    return high


def lower_bound(wrong: float, requests: float, confidence: float = CONFIDENCE) -> float:
    """As `upper_bound`, from below."""
    return 0.0 if wrong <= 0 else 1 - upper_bound(requests - wrong, requests, confidence)


def holds(wrong: float, requests: float, bound: float, confidence: float = SURE) -> bool:
    """Whether `upper_bound` is at most `bound`, in a fortieth of its time."""
    if bound >= 1:
        return True
    return 0 <= wrong < requests and _beta(bound, wrong + 1, requests - wrong) >= confidence


@cache
def shipped(of: str) -> tuple[tuple[str, ...], ...]:
    """Groups of questions that ask the same, in a language (a code of `text.language`).

    Written for this project, under its licence. Many groups differ from another one by a word. No
    group for a language but English and Chinese.
    """
    text = resources.files(__package__).joinpath("calibration.tsv").read_text("utf-8")
    groups = (tuple(line.split("\t")) for line in text.splitlines() if line)
    return tuple(group for group in groups if language(group[0]) == of)


def calibrate(groups: Sequence[Sequence[str]], vectors: Vectors, bound: float) -> Calibration:
    """The lowest threshold at which so many of these questions get no wrong answer.

    Each question is asked twice: while all others are kept, and while its own group is not, so that
    any hit is wrong. Thresholds are tried from the highest down, to the first whose bound does not
    hold: a sequence of tests in a fixed order costs no confidence (Angelopoulos et al., "Learn then
    test: calibrating predictive algorithms to achieve risk control", 2021). The requests are not
    independent, and somebody else's: this says where to start, `Shadow` whether to go on.

    Args:
        vectors: (n, dim) of unit length, in the order of the groups' texts.
    """
    forms = [form(text) for group in groups for text in group]
    of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    near = vectors @ vectors.T
    outcomes: list[tuple[float, bool]] = []
    for at, own in enumerate(of):
        scores = near[at].copy()
        scores[at] = -1
        _ask(at, scores, forms, of, outcomes)
        scores[of == own] = -1
        _ask(at, scores, forms, of, outcomes)
    requests = 2 * len(of)
    found: tuple[float, int, int] | None = None
    outcomes.sort(reverse=True)
    for threshold in thresholds(FLOOR):
        over = [right for score, right in outcomes if score >= threshold]
        wrong = over.count(False)
        if not holds(wrong, requests, bound, CONFIDENCE):
            break
        found = threshold, len(over), wrong
    if found is None:
        return Calibration(None, requests, 0, 0, upper_bound(0, requests))
    threshold, hits, wrong = found
    return Calibration(threshold, requests, hits, wrong, upper_bound(wrong, requests))


def thresholds(floor: float) -> list[float]:
    """Those that are tried, the highest first."""
    return [round(1 - STEP * at, 4) for at in range(1, 1 + math.floor((1 - floor) / STEP + 1e-6))]


def _ask(
    at: int,
    scores: Vectors,
    forms: Sequence[Form],
    of: np.ndarray[tuple[int], np.dtype[np.intp]],
    outcomes: list[tuple[float, bool]],
) -> None:
    best = int(scores.argmax())
    if scores[best] >= FLOOR and not difference(forms[best], forms[at]):
        outcomes.append((float(scores[best]), bool(of[best] == of[at])))


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction: Press et al.,
    "Numerical Recipes", 6.4, evaluated by Lentz's method."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 300):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _not_zero(1 + even * d)
        c = _not_zero(1 + even / c)
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _not_zero(1 + odd * d)
        c = _not_zero(1 + odd / c)
        value *= d * c
        if abs(d * c - 1) < 1e-12:
            break
    return front * value


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300
