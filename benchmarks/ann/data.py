"""What the contest is about: rows, questions, and their true neighbours, a third held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivace.tune import measure
from vivace.tune.metrics import Recall, mean_recall
from vivace.tune.workload import Questions, split
from vivace.types import Ids, Matches, Metric, Vectors

_BLOCK = 50_000
SEED = 0


@dataclass(frozen=True, slots=True)
class Contest:
    """`base` (n, dim), mapped, float16 or float32; questions float32."""

    base: NDArray[np.floating]
    metric: Metric
    k: int
    floor: float
    asked: Vectors
    """All questions, in the order given."""
    deciding: Questions
    held: Questions

    @property
    def rows(self) -> int:
        return len(self.base)

    @property
    def dim(self) -> int:
        return int(self.base.shape[1])

    def floats(self) -> Vectors:
        """All rows as float32, in memory."""
        return np.ascontiguousarray(self.base, np.float32)

    def blocks(self) -> Sequence[slice]:
        """Runs of rows that are small enough to convert one at a time."""
        return [slice(at, at + _BLOCK) for at in range(0, self.rows, _BLOCK)]


def contest(
    base: NDArray[np.floating],
    queries: NDArray[np.floating],
    neighbours: Ids | None,
    *,
    metric: Metric,
    k: int,
    floor: float,
) -> Contest:
    """The questions split as the tuner splits its own; neighbours are found where none are given.

    The truth is exact search in float32, not in what an index happens to store.
    """
    asked = np.ascontiguousarray(queries, np.float32)
    if metric == "cosine":
        # a new array: what was read from a file is mapped, and read-only
        asked = asked / np.maximum(np.linalg.norm(asked, axis=1, keepdims=True), 1e-12)
    true = exact(base, asked, k, metric) if neighbours is None else neighbours[:, :k]
    true = np.ascontiguousarray(true, np.int64)
    # of the truth only the ids are known, and only ids are compared
    known = Matches(true, np.zeros(true.shape, np.float32))
    deciding, held = split(Questions(asked, known, measure.groups(known)), SEED)
    return Contest(base, metric, k, floor, asked, deciding, held)


def recall(found: Ids, questions: Questions) -> Recall:
    """The share of true neighbours among the ids found (q, k), with its interval."""
    true = questions.true.ids
    shares = np.array(
        [len(set(a.tolist()) & set(b.tolist())) / len(b) for a, b in zip(found, true, strict=True)]
    )
    return mean_recall(shares, questions.groups)


def exact(base: NDArray[np.floating], asked: Vectors, k: int, metric: Metric) -> Ids:
    """(q, k) true neighbours in float32, block after block of the rows."""
    best = np.full((len(asked), k), -np.inf, np.float32)
    ids = np.full((len(asked), k), -1, np.int64)
    for at in range(0, len(base), _BLOCK):
        rows = np.ascontiguousarray(base[at : at + _BLOCK], np.float32)
        scores = asked @ rows.T
        if metric == "l2":
            scores = 2 * scores - np.einsum("ij,ij->i", rows, rows)
        merged = np.hstack([best, scores])
        names = np.hstack([ids, np.broadcast_to(np.arange(at, at + len(rows)), scores.shape)])
        order = np.argsort(-merged, axis=1, kind="stable")[:, :k]
        best, ids = np.take_along_axis(merged, order, 1), np.take_along_axis(names, order, 1)
    return ids


def read(path: Path) -> NDArray[np.floating]:
    rows: NDArray[np.floating] = np.load(path, mmap_mode="r", allow_pickle=False)
    return rows
