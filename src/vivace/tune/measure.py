"""What does an index find, and what does it cost? Exact neighbours, recalls, times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vivace.index.matches import ROUNDING
from vivace.protocols import VectorIndex
from vivace.tune.metrics import Recalls
from vivace.types import Ids, Matches, Vectors

_EXACT_BATCH: Final = 256
_BLOCK: Final = 16
"""Questions that one index answers before the next index takes over."""
_LATENCY_QUESTIONS: Final = 128


def exact(
    index: VectorIndex, questions: Vectors, k: int, step: Callable[[int], None] = lambda done: None
) -> Matches:
    """The true k nearest of each question (q, dim), by brute force in batches."""
    parts = []
    for at in range(0, len(questions), _EXACT_BATCH):
        parts.append(index.exact(questions[at : at + _EXACT_BATCH], k))
        step(min(len(questions), at + _EXACT_BATCH))
    return Matches(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def recalls(found: Matches, true: Matches) -> Recalls:
    """Recall of each question: the share of its true neighbours that were found.

    A row that scores as well as the last true neighbour, up to rounding, counts as found: without
    that tolerance a family that rounds would miss its last neighbour at every other question.
    Recall is 1 where there is nothing to find.
    """
    wanted = np.count_nonzero(true.ids >= 0, axis=1)
    worst = np.where(true.ids >= 0, true.scores, np.inf).min(axis=1, keepdims=True)
    worst[wanted > 0] -= ROUNDING * np.maximum(1, np.abs(worst[wanted > 0]))
    good = np.count_nonzero((found.ids >= 0) & (found.scores >= worst), axis=1)
    share: Recalls = np.where(
        wanted > 0, np.minimum(good, wanted) / np.maximum(wanted, 1), 1.0
    ).astype(np.float64)
    return share


@dataclass(frozen=True, slots=True)
class Contender:
    """An index and the effort it is searched with."""

    index: VectorIndex
    effort: int


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds per question, asked one at a time on one thread.

    The lowest p50, p95 and mean CPU of several rounds: other work on the machine only ever adds.
    """

    p50_ms: float
    p95_ms: float
    cpu_ms: float


def times(
    contenders: Sequence[Contender],
    questions: Vectors,
    k: int,
    *,
    rounds: int = 3,
    step: Callable[[], None] = lambda: None,
) -> list[Times]:
    """What each contender takes for the whole `search`, serially on this thread.

    They alternate every few questions, in an order that is reversed every round (A/B/A), so that
    other load hits all alike. `step` is called between two of them.
    """
    asked = [question[None] for question in questions[:_LATENCY_QUESTIONS]]
    blocks = [asked[at : at + _BLOCK] for at in range(0, len(asked), _BLOCK)]
    walls = np.zeros((len(contenders), rounds, len(asked)))
    cpus = np.zeros((len(contenders), rounds))
    for contender in contenders:  # warm: the first searches page the index in
        _ask(contender, blocks[0], k)
    for turn in range(rounds):
        order = range(len(contenders))[:: 1 if turn % 2 == 0 else -1]
        for number, block in enumerate(blocks):
            for which in order:
                wall, cpu = _ask(contenders[which], block, k)
                walls[which, turn, number * _BLOCK : number * _BLOCK + len(block)] = wall
                cpus[which, turn] += cpu
                step()
    return [_times(wall * 1e3, cpu * 1e3 / len(asked)) for wall, cpu in zip(walls, cpus)]


def groups(true: Matches) -> list[bytes]:
    """A name for each question; questions with the same neighbours share it."""
    return [row.tobytes() for row in np.ascontiguousarray(true.ids)]


def of(matches: Matches, rows: Ids) -> Matches:
    """The matches of the questions at these rows."""
    return Matches(matches.ids[rows], matches.scores[rows])


def _ask(contender: Contender, block: Sequence[Vectors], k: int) -> tuple[list[float], float]:
    """Seconds of each question, and CPU seconds of all together."""
    search, effort, walls = contender.index.search, contender.effort, []
    began = time.thread_time()
    for question in block:
        at = time.perf_counter()
        search(question, k, effort=effort)
        walls.append(time.perf_counter() - at)
    return walls, time.thread_time() - began


def _times(walls: Recalls, cpus: Recalls) -> Times:
    p50, p95 = np.percentile(walls, [50, 95], axis=1).min(axis=1)
    return Times(float(p50), float(p95), float(cpus.min()))
