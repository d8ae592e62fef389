"""The same rule for all: least CPU of what surely keeps the floor; scored on the held-out third."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ann.contestants import Built, Search
from benchmarks.ann.data import Contest, recall
from vivace.index import native
from vivace.tune import choice
from vivace.tune.metrics import Recall
from vivace.types import Objective, Plan, Trial, Vectors

_SWEEP_ROUNDS = 3
_SWEEP_QUESTIONS = 128
_ROUNDS = 9
_BLOCK = 16
_TURN = 0.05
"""Seconds about which a contestant's turn may take; of slow ones it is fewer questions."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A contestant as it will be scored."""

    built: Built
    setting: str
    search: Search
    recall: Recall
    """On the held-out third."""


def entrant(contest: Contest, built: Built, *, swept: bool) -> Entrant:
    """The setting that the tuner's rule takes, on the deciding questions.

    As the tuner does, the next best is taken where the held-out third shows the floor missed. Where
    nothing keeps the floor it is the setting that finds most. Ours come with one setting.
    """
    names = list(built.settings)
    order = _ranked(contest, built) if swept else names
    chosen: tuple[str, Recall] | None = None
    for name in order:
        held = _recall(contest, built.settings[name])
        if chosen is None or held.mean >= contest.floor:
            chosen = name, held
        if held.mean >= contest.floor:
            break
    assert chosen is not None
    return Entrant(built, chosen[0], built.settings[chosen[0]], chosen[1])


def scored(contest: Contest, entrants: Sequence[Entrant]) -> list[dict[str, Any]]:
    """What each takes on the held-out third, one question a call, taking turns.

    Medians of the rounds; the order turns round every round, so that noise hits all alike.
    """
    asked = [question[None] for question in contest.held.vectors]
    walls = np.full((len(entrants), _ROUNDS, len(asked)), np.nan)
    cpus = np.zeros((len(entrants), _ROUNDS))
    most = [_most(entrant, asked) for entrant in entrants]
    for turn in range(_ROUNDS):
        order = range(len(entrants)) if turn % 2 == 0 else range(len(entrants) - 1, -1, -1)
        for at in range(0, len(asked), _BLOCK):
            for which in order:
                block = asked[at : min(at + _BLOCK, most[which])]
                wall, cpu = _timed(entrants[which].search, block)
                walls[which, turn, at : at + len(block)] = wall
                cpus[which, turn] += cpu
    return [
        _figures(contest, entrant, wall, cpu, min(count, len(asked)))
        for entrant, wall, cpu, count in zip(entrants, walls, cpus, most, strict=True)
    ]


def _ranked(contest: Contest, built: Built) -> list[str]:
    """Settings that surely keep the floor, best first; without any, what finds most."""
    objective = Objective(recall=contest.floor, k=contest.k)
    recalls = {name: _decided(contest, search) for name, search in built.settings.items()}
    fit = [name for name, seen in recalls.items() if seen.low >= contest.floor]
    if not fit:
        return [max(recalls, key=lambda name: recalls[name].mean)]
    cpus = _swept({name: built.settings[name] for name in fit}, contest.deciding.vectors)
    trials = [
        Trial(
            Plan(name),
            recalls[name].mean,
            recalls[name].low,
            recalls[name].high,
            cpus[name],
            cpus[name],
            cpus[name],
            built.footprint,
            built.build_seconds,
            recalls[name].queries,
        )
        for name in fit
    ]
    return [trial.plan.family for trial in choice.ranked(trials, objective)]


def _decided(contest: Contest, search: Search) -> Recall:
    native.one_thread()
    return recall(search(contest.deciding.vectors), contest.deciding)


def _recall(contest: Contest, search: Search) -> Recall:
    """As it will be timed: one question a call."""
    native.one_thread()
    found = np.vstack([search(question[None]) for question in contest.held.vectors])
    return recall(found, contest.held)


def _swept(settings: dict[str, Search], questions: Vectors) -> dict[str, float]:
    """CPU milliseconds a question of each, the least of some rounds in which they take turns."""
    asked = [question[None] for question in questions[:_SWEEP_QUESTIONS]]
    rounds: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(_SWEEP_ROUNDS):
        for name, search in settings.items():
            few = asked[: _affordable(search, asked)]
            rounds[name].append(1e3 * _timed(search, few)[1] / len(few))
    return {name: min(found) for name, found in rounds.items()}


def _most(entrant: Entrant, asked: Sequence[Vectors]) -> int:
    """Questions a round, so that what takes long does not hold up the others for minutes."""
    return max(_BLOCK, 4 * _affordable(entrant.search, asked))


def _affordable(search: Search, asked: Sequence[Vectors]) -> int:
    walls, _ = _timed(search, asked[:3])
    return min(len(asked), max(8, int(_BLOCK * _TURN / max(1e-9, float(np.median(walls))))))


def _timed(search: Search, asked: Iterable[Vectors]) -> tuple[list[float], float]:
    """Seconds of each question, and CPU seconds of all, on this thread."""
    native.one_thread()
    walls = []
    began = time.process_time()
    for question in asked:
        at = time.perf_counter()
        search(question)
        walls.append(time.perf_counter() - at)
    return walls, time.process_time() - began


def _figures(
    contest: Contest,
    entrant: Entrant,
    walls: NDArray[np.float64],
    cpus: NDArray[np.float64],
    asked: int,
) -> dict[str, Any]:
    milliseconds = 1e3 * walls[:, :asked]
    p50, p95 = np.median(np.percentile(milliseconds, [50, 95], axis=1), axis=1)
    mean = float(np.median(milliseconds.mean(axis=1)))
    seen, footprint = entrant.recall, entrant.built.footprint
    return {
        "name": entrant.built.name,
        "recall": round(seen.mean, 4),
        "p50_ms": round(float(p50), 4),
        "p95_ms": round(float(p95), 4),
        "qps": round(1e3 / mean, 1),
        "build_seconds": round(entrant.built.build_seconds, 2),
        "bytes_resident": footprint.resident,
        "bytes_mapped": footprint.mapped,
        "cpu_ms": round(1e3 * float(np.median(cpus)) / asked, 4),
        "recall_low": round(seen.low, 4),
        "recall_high": round(seen.high, 4),
        "floor": contest.floor,
        "rows": contest.rows,
        "setting": entrant.setting,
        "questions": seen.queries,
        **entrant.built.more,
    }
