"""How sure is a mean recall? Intervals from the recalls of single questions.

Such recalls are bounded, skewed, and often nearly all 1: a plain normal interval then covers the
truth in half of the cases. What is used here, and what it was compared with, is in
docs/decisions/0022.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Recalls: TypeAlias = NDArray[np.float64]
"""(q,) of [0, 1], one a question."""

_Z = 1.959964
_UNSEEN = 0.3
"""The most that the question which was not asked is taken to find."""


@dataclass(frozen=True, slots=True)
class Recall:
    """A mean recall, its 95 % interval, and how many questions it rests on."""

    mean: float
    low: float
    high: float
    queries: int


def certain(queries: int) -> Recall:
    """What an exact index has by construction."""
    return Recall(1.0, 1.0, 1.0, queries)


def recall(recalls: Recalls, groups: Sequence[Hashable] | None = None) -> Recall:
    """The mean of recalls (q,) in [0, 1] with its 95 % interval; everything from 0 to 1 for none.

    Student's interval of the recalls and one more, of a question that was not asked and finds as
    little as the worst that was, and 0.3 at most: so rare misses are not taken for none. (Adding
    observations to mend an interval at the edge: Agresti and Coull, "Approximate is better than
    'exact' for interval estimation of binomial proportions", 1998.)

    `groups` (q,) names what does not vary on its own, as one question asked again and again; each
    counts as one observation of its size (Cameron and Miller, "A practitioner's guide to
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
    numbers: dict[Hashable, int] = {}
    of = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    sizes = np.bincount(of).astype(np.float64)
    return np.bincount(of, weights=recalls) / sizes, sizes
