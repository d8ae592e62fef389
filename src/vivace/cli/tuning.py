"""vivace tune: the index that meets an objective, or with --quality the best stages of a search."""

from __future__ import annotations

import argparse
import asyncio
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from vivace import settings as settings_module
from vivace.cli.output import (
    check_writable,
    digits,
    figures,
    index_name,
    json_line,
    number,
    opened,
    settings_of,
    upkeep_progress,
)
from vivace.cli.parser import INFEASIBLE, OK
from vivace.cli.report import page
from vivace.cli.terminal import say, warn
from vivace.errors import BadInput, InfeasibleObjective
from vivace.settings import Settings
from vivace.tune import choice
from vivace.tune.quality import Quality, StageTrial, named
from vivace.tune.selftuning import objective_of
from vivace.tune.tuning import Tuning
from vivace.types import Objective, Trial

TRIAL_COLUMNS = ["index", "effort", "recall", "low", "CPU ms", "p95 ms", "MB", "build s", ""]
"""`low` is the lower end of the interval of recall, MB what is held in memory."""
QUALITY_COLUMNS = ["stage", "language", "value", "nDCG@10", "points", "low", "high", "ms", ""]
"""Points and their interval are of the difference to the stages in force."""
_SHOWN = 6
"""Rows shown of a stage and language: what is in force, and the best."""


def run(options: argparse.Namespace) -> int:
    if options.quality:
        return _tune_quality(options)
    if options.qrels:
        raise BadInput("--qrels judges passages, not indexes", fix="Add --quality")
    settings = settings_of(options)
    report = check_writable(options.report)
    try:
        tuning, failed = asyncio.run(_tuned(settings, options)), None
    except InfeasibleObjective as error:
        if not isinstance(error.nearest, Tuning):
            raise
        tuning, failed = error.nearest, error
    command = _repeating(tuning, options)
    if report is not None:
        language = options.language or settings_module.language()
        html = page(tuning, language=language, command=command, infeasible=failed is not None)
        report.write_text(html, "utf-8")
    if options.json:
        json_line(_value(tuning, options, failed, command))
    else:
        _show(tuning, infeasible=failed is not None)
        _show_next_step(tuning, options, failed)
    return OK if failed is None else INFEASIBLE


async def _tuned(settings: Settings, options: argparse.Namespace) -> Tuning:
    async with opened(options, settings=settings) as docs:
        with upkeep_progress("Tuning") as progress:
            return await docs.tune(
                _objective(settings, options),
                budget_seconds=options.budget,
                apply=options.apply,
                progress=progress,
            )


def _objective(settings: Settings, options: argparse.Namespace) -> Objective:
    """The objective of the settings, overridden by the command line."""
    given = {"recall": options.recall, "p95_ms": options.p95, "memory_bytes": options.memory}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(objective_of(settings.tune), **changes)


def _repeating(tuning: Tuning, options: argparse.Namespace) -> str:
    """The command line that repeats the tuning, without secrets."""
    wanted = tuning.objective
    words = ["vivace", "tune"]
    words += ["--collection", options.collection] if options.collection else []
    words += ["--config", options.config] if options.config else []
    for item in options.set:
        if not settings_module.is_secret(item.partition("=")[0]):
            words += ["--set", settings_module.masked(item)]
    words += ["--recall", f"{wanted.recall:g}"]
    words += ["--p95", f"{wanted.p95_ms:g}ms"] if wanted.p95_ms is not None else []
    words += ["--memory", f"{wanted.memory_bytes}B"] if wanted.memory_bytes is not None else []
    words += ["--budget", f"{options.budget:g}s"] if options.budget else []
    return shlex.join(words)


def _value(
    tuning: Tuning, options: argparse.Namespace, failed: InfeasibleObjective | None, command: str
) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(tuning)
    value["feasible"] = failed is None
    value["applied"] = options.apply and failed is None and tuning.conclusive
    value["command"] = command
    value["report"] = options.report
    if failed is not None:
        name = type(failed).__name__
        value["error"] = {"type": name, "message": failed.what, "fix": failed.fix}
    return value


def _show(tuning: Tuning, *, infeasible: bool) -> None:
    """Print the choice and its alternatives."""
    label = "nearest" if infeasible else "chosen"
    trials = _one_each(tuning)
    best = min((t.cpu_ms for t in trials if t.plan == tuning.chosen.plan), default=None)
    rows = [trial_row(tuning.chosen, "held out")]
    for trial in trials:
        chosen = trial.plan == tuning.chosen.plan
        rows.append(trial_row(trial, label if chosen else verdict(trial, tuning.objective, best)))
    figures(TRIAL_COLUMNS, rows)
    for item in tuning.rejected:
        say(f"left out: {index_name(item.family, item.params)}: {item.reason}")
    seen = tuning.pattern
    say(
        f"{tuning.queries} questions ({tuning.source}), {seen.duplicates:.0%} near-duplicates,"
        f" {seen.locality:.0%} of what they find in a tenth of it;"
        f" {tuning.rows} vectors, {tuning.builds} builds, {tuning.seconds:.1f} s"
    )
    if not infeasible:
        say(tuning.reason)


def _one_each(tuning: Tuning) -> list[Trial]:
    """The best effort of every index; those that meet the objective come first."""
    found: dict[str, tuple[tuple[bool, bool, float], Trial]] = {}
    for trial in tuning.trials:
        keeps = not choice.lacks(trial, tuning.objective)
        # of the chosen index the chosen effort, though another was timed as cheaper
        other = trial.plan != tuning.plan
        rank = (not keeps, other, trial.cpu_ms if keeps else -trial.recall)
        name = index_name(trial.plan.family, trial.plan.params)
        if name not in found or rank < found[name][0]:
            found[name] = rank, trial
    return [trial for _, trial in sorted(found.values(), key=lambda item: item[0])]


def _show_next_step(
    tuning: Tuning, options: argparse.Namespace, failed: InfeasibleObjective | None
) -> None:
    if failed is not None:
        warn(f"vivace: {failed}")
    if tuning.interrupted:
        warn("ended early: this is the best so far")
    if failed is None and not options.apply:
        say("nothing was changed; --apply uses it")
    elif failed is None:
        say("applied" if tuning.conclusive else "not applied: nothing was compared in time")
    if options.report:
        say(f"report: {options.report}")


def trial_row(trial: Trial, label: str) -> list[str]:
    """A trial's cells in a table of `TRIAL_COLUMNS`."""
    plan = trial.plan
    return [
        index_name(plan.family, plan.params),
        str(plan.effort) if plan.effort else "",
        f"{trial.recall:.3f}",
        f"{trial.recall_low:.3f}",
        digits(trial.cpu_ms),
        digits(trial.p95_ms),
        number(trial.footprint.resident / 1e6),
        number(trial.build_seconds),
        label,
    ]


def verdict(trial: Trial, objective: Objective, best: float | None) -> str:
    """What a trial lacks of the objective, else its CPU time relative to the best's."""
    if missed := choice.lacks(trial, objective):
        return f"misses {', '.join(missed)}"
    return f"{trial.cpu_ms / best:.2f} x CPU" if best else "keeps to it"


# -- vivace tune --quality ------------------------------------------------------------------


def _tune_quality(options: argparse.Namespace) -> int:
    found = asyncio.run(_tuned_quality(options))
    applied = options.apply and found.changed
    if options.json:
        value: dict[str, Any] = msgspec.to_builtins(found)
        json_line({**value, "changed": found.changed, "applied": applied})
        return OK
    show_tried(found.tried)
    questions = ", ".join(f"{count} in {name}" for name, count in found.questions.items())
    kinds = ", ".join(f"{count} of a {name}" for name, count in found.kinds.items())
    made = f"made of the corpus: {kinds}" if found.source == "pseudo" else "given"
    say(f"questions: {questions} ({made}); {found.seconds:.1f} s")
    say(found.reason)
    if found.changed:
        say("applied" if applied else "nothing was changed; --apply uses it")
    return OK


async def _tuned_quality(options: argparse.Namespace) -> Quality:
    async with opened(options) as docs:
        qrels = Path(options.qrels) if options.qrels else None
        with upkeep_progress("Tuning") as progress:
            return await docs.tune_quality(qrels, apply=options.apply, progress=progress)


def show_tried(tried: Sequence[StageTrial]) -> None:
    """Print, for each stage and language, the value in force and the best ones tried."""
    figures(QUALITY_COLUMNS, [_tried_row(row) for row in _best(tried)])


def _best(tried: Sequence[StageTrial]) -> Iterator[StageTrial]:
    stages: dict[tuple[str, str], list[StageTrial]] = {}
    for row in tried:
        stages.setdefault((row.stage, row.language), []).append(row)
    for rows in stages.values():
        ordered = sorted(rows[1:], key=lambda row: (not row.chosen, -row.ndcg))
        yield from [rows[0], *ordered[: _SHOWN - 1]]


def _tried_row(row: StageTrial) -> list[str]:
    in_force = row.difference == row.low == row.high == 0
    points = [f"{100 * value:+.2f}" for value in (row.difference, row.low, row.high)]
    label = "in force" if in_force else "chosen" if row.chosen else ""
    value = {
        "fusion": named(row.fusion),
        "candidates": str(row.candidates),
        "rerank": f"{row.rerank.depth} at {row.rerank.weight:g}" if row.rerank.depth else "none",
    }[row.stage]
    return [
        row.stage,
        row.language or "all",
        value,
        f"{row.ndcg:.4f}",
        *(["", "", ""] if in_force else points),
        digits(row.milliseconds) if row.milliseconds else "",
        label,
    ]
