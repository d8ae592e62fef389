"""Why was this chosen and that not? Told from a tuning's figures, in the report's language."""

from __future__ import annotations

from vivace.cli.report.svg import number
from vivace.cli.report.texts import Texts, described
from vivace.tune.tuning import Tuning
from vivace.types import Objective, Trial


def verdict(trial: Trial, tuning: Tuning, words: Texts) -> tuple[str, bool]:
    """What became of a trial, and whether it keeps to the objective."""
    if faults := _faults(trial, tuning.objective, words):
        return words.comma.join(faults), False
    chosen = _decided(tuning)
    times = trial.cpu_ms / chosen.cpu_ms if chosen.cpu_ms else 1.0
    if times < 1.005:
        return words.close, True
    return words.dearer.format(times=_times(times)), True


def why(tuning: Tuning, words: Texts, infeasible: bool) -> str:
    """The reason: the tuner's own sentence in English, else what the figures say."""
    if words.code == "en":
        return tuning.reason
    if infeasible:
        chosen = tuning.chosen
        faults = _faults(chosen, tuning.objective, words)
        return words.comma.join(faults) + words.stop if faults else ""
    keeping = [trial for trial in tuning.trials if not _faults(trial, tuning.objective, words)]
    others = [trial for trial in keeping if trial.plan != tuning.chosen.plan]
    if not others:
        return words.reason_only
    second = min(others, key=lambda trial: trial.cpu_ms)
    times = second.cpu_ms / max(1e-9, _decided(tuning).cpu_ms)
    return words.reason_cheapest.format(kept=len(keeping)) + words.reason_next.format(
        plan=described(second.plan.family, second.plan.params),
        effort=second.plan.effort,
        times=_times(times),
    )


def _faults(trial: Trial, objective: Objective, words: Texts) -> list[str]:
    found = []
    if trial.recall_low < objective.recall:
        found.append(words.below)
    if objective.p95_ms is not None and trial.p95_ms > objective.p95_ms:
        found.append(words.slow)
    if objective.memory_bytes is not None and trial.footprint.resident > objective.memory_bytes:
        found.append(words.large)
    return found


def _decided(tuning: Tuning) -> Trial:
    """The choice as it was measured when it was chosen."""
    return next((t for t in tuning.trials if t.plan == tuning.chosen.plan), tuning.chosen)


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 3 else number(ratio)
