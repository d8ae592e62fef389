"""How good is a ranking, and how sure is the figure? Metrics of retrieval with their intervals.

Recalls of single questions are bounded, skewed, and often nearly all 1: a plain normal interval
then covers the truth in half of the cases. docs/decisions/0022 compares what is used here with the
alternatives.

Two rankings are compared by the paired bootstrap (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993; for retrieval Sakai, "Evaluating evaluation metrics based on the bootstrap",
2006): questions are resampled with replacement, those of one group together, because questions made
from one document vary together.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from math import log2, sqrt
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Recalls: TypeAlias = NDArray[np.float64]
"""(q,) in [0, 1], one per question."""

_Z: Final = 1.959964
_UNSEEN: Final = 0.3
"""The highest recall assumed for the unseen question that `mean_recall` adds."""
_DRAWS: Final = 2_000
_LEVEL: Final = 0.95
_NOTHING: Final = 1e-9
"""A spread below which differences are rounding."""


# -- at document level, binary relevance (as in trec_eval) ------------------------------------


def recall(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """The share of the relevant documents that are among the first k."""
    return len(set(ranked[:k]) & set(relevant)) / len(relevant)


def reciprocal_rank(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """One over the rank of the first relevant document, 0 where none is among the first k."""
    for rank, name in enumerate(ranked[:k], start=1):
        if name in relevant:
            return 1.0 / rank
    return 0.0


def ndcg(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Discounted gain of the first k over an ideal ranking's (Järvelin & Kekäläinen, 2002)."""
    return ndcg_of([name in relevant for name in ranked[:k]], len(relevant), k)


def ndcg_of(hits: Sequence[bool], known: int, k: int) -> float:
    """`ndcg` of a ranking whose places `hits` are relevant, where `known` relevant ones exist."""
    gained = sum(1 / log2(at + 2) for at, hit in enumerate(hits[:k]) if hit)
    return gained / sum(1 / log2(at + 2) for at in range(min(k, known)))


def percentile(values: Sequence[float], q: float) -> float:
    """The value at or under which the share q of values lies (nearest rank); 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(q * 1000) * len(ordered) // 1000) - 1)] if ordered else 0.0


# -- a mean recall and its interval -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recall:
    """A mean recall, its 95 % interval, and how many questions it rests on."""

    mean: float
    low: float
    high: float
    queries: int


def exact_recall(queries: int) -> Recall:
    """The recall of an index that is exact by construction."""
    return Recall(1.0, 1.0, 1.0, queries)


def mean_recall(recalls: Recalls, groups: Sequence[Hashable] | None = None) -> Recall:
    """The mean of recalls (q,) in [0, 1] with its 95 % interval; everything from 0 to 1 for none.

    Student's interval over the recalls and one unseen question more, which is assumed to find as
    little as the worst question seen, and 0.3 at most: otherwise rare misses would count as none.
    (Adding observations to correct an interval near the edge: Agresti and Coull, "Approximate is
    better than 'exact' for interval estimation of binomial proportions", 1998.)

    `groups` (q,) names questions that vary together, such as repetitions of one question; each
    group counts as one observation of its size (Cameron and Miller, "A practitioner's guide to
    cluster-robust inference", 2015).
    """
    if not len(recalls):
        return Recall(0.0, 0.0, 1.0, 0)
    means, sizes = _grouped(recalls, groups)
    unseen = min(_UNSEEN, float(recalls.min()))
    means, sizes = np.append(means, unseen), np.append(sizes, sizes.mean())
    shares = sizes / sizes.sum()
    middle = float(shares @ means)
    count = len(means)
    spread = sqrt(count / (count - 1) * float(shares**2 @ (means - middle) ** 2))
    half = student(1 / float(shares @ shares) - 1) * spread
    return Recall(
        float(recalls.mean()), max(0.0, middle - half), min(1.0, middle + half), len(recalls)
    )


def student(degrees: float) -> float:
    """The 97.5 % point of Student's t, within a percent from 3 degrees of freedom on.

    The expansion of Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    d, z = max(1.0, degrees), _Z
    return (
        z
        + (z**3 + z) / (4 * d)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * d**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * d**3)
    )


def _grouped(
    recalls: Recalls, groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean recall and size of each group."""
    if groups is None:
        return recalls, np.ones(len(recalls))
    of = numbered(groups)
    sizes = np.bincount(of).astype(np.float64)
    return np.bincount(of, weights=recalls) / sizes, sizes


def numbered(groups: Sequence[Hashable]) -> NDArray[np.int64]:
    """(q,) the groups as numbers from 0 up, in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)


# -- differences on the same questions --------------------------------------------------------


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
    """The mean of differences (q,), one per question, with its percentile interval."""
    if not len(differences):
        return Difference(0.0, 0.0, 0.0)
    means = _resampled(differences[:, None], groups, seed)[:, 0]
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Difference(float(differences.mean()), float(low), float(high))


def simultaneous(
    differences: NDArray[np.float64], groups: Sequence[Hashable] | None = None, *, seed: int = 0
) -> list[Difference]:
    """The mean of each column of differences (q, m), with intervals that hold for all m at once.

    The width is the 95 % point of the greatest of the m deviations in units of their spread, over
    the bootstrap's draws (Romano and Wolf, "Exact and approximate stepdown methods for multiple
    hypothesis testing", 2005): trying many alternatives makes none of them look better than it is,
    and unlike Bonferroni's correction it does not charge for alternatives that vary together.
    """
    if not differences.size:
        return [Difference(0.0, 0.0, 0.0)] * differences.shape[1]
    means = _resampled(differences, groups, seed)
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


def _resampled(
    differences: NDArray[np.float64], groups: Sequence[Hashable] | None, seed: int
) -> NDArray[np.float64]:
    """(draws, m) the columns' means over resampled groups of questions."""
    of = numbered(range(len(differences)) if groups is None else groups)
    count = int(of.max()) + 1
    sums = np.zeros((count, differences.shape[1]))
    np.add.at(sums, of, differences)
    sizes = np.bincount(of).astype(np.float64)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1 / count), size=_DRAWS).astype(np.float64)
    means: NDArray[np.float64] = (times @ sums) / (times @ sizes)[:, None]
    return means
