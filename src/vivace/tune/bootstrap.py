"""Is one ranking better than another? Differences on the same questions, with their intervals.

The paired bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; for retrieval
Sakai, "Evaluating evaluation metrics based on the bootstrap", 2006): questions are drawn again with
replacement, those of one group together, as questions made from one document vary together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_DRAWS: Final = 2_000
_LEVEL: Final = 0.95
_NOTHING: Final = 1e-9
"""A spread below which differences are rounding."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        return self.low > 0

    @property
    def worse(self) -> bool:
        return self.high < 0


def difference(
    differences: NDArray[np.float64], groups: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Difference:
    """The mean of differences (q,), one a question, with its percentile interval."""
    if not len(differences):
        return Difference(0.0, 0.0, 0.0)
    means = _drawn(differences[:, None], groups, seed)[:, 0]
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Difference(float(differences.mean()), float(low), float(high))


def simultaneous(
    differences: NDArray[np.float64], groups: Sequence[Hashable] | None = None, *, seed: int = 0
) -> list[Difference]:
    """Of each column of differences (q, m) the mean, with intervals that hold for all m at once.

    The width is the 95 % point of the greatest of the m deviations in units of their spread, among
    the bootstrap's draws (Romano and Wolf, "Exact and approximate stepdown methods for multiple
    hypothesis testing", 2005): trying many does not make one of them look better than it is, and
    that they vary together is not paid for, as it would be in Bonferroni's correction.
    """
    if not differences.size:
        return [Difference(0.0, 0.0, 0.0)] * differences.shape[1]
    means = _drawn(differences, groups, seed)
    middle, spread = differences.mean(axis=0), means.std(axis=0)
    varies = spread > _NOTHING
    width = 0.0
    if varies.any():
        deviations = np.abs(means[:, varies] - means[:, varies].mean(axis=0)) / spread[varies]
        width = float(np.quantile(deviations.max(axis=1), _LEVEL))
    half = width * np.where(varies, spread, 0.0)
    return [
        Difference(float(mean), float(mean - by), float(mean + by))
        for mean, by in zip(middle, half, strict=True)
    ]


def _drawn(
    differences: NDArray[np.float64], groups: Sequence[Hashable] | None, seed: int
) -> NDArray[np.float64]:
    """(draws, m) means of questions drawn again."""
    count = len(differences)
    numbers: dict[Hashable, int] = {}
    names = range(count) if groups is None else groups
    of = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    sums = np.zeros((len(numbers), differences.shape[1]))
    np.add.at(sums, of, differences)
    sizes = np.bincount(of).astype(np.float64)
    rng = np.random.default_rng(seed)
    even = np.full(len(numbers), 1 / len(numbers))
    times = rng.multinomial(len(numbers), even, size=_DRAWS).astype(np.float64)
    means: NDArray[np.float64] = (times @ sums) / (times @ sizes)[:, None]
    return means
