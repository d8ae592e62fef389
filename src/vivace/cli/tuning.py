"""vivace tune."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from vivace import settings as settings_module
from vivace.cli import quality
from vivace.cli.output import figures, json_line, settings_of, upkeep_progress
from vivace.cli.report import page
from vivace.cli.report.svg import digits, number
from vivace.cli.report.texts import described
from vivace.cli.status import INFEASIBLE, OK
from vivace.engine import Engine
from vivace.errors import BadInput, InfeasibleObjective
from vivace.settings import Settings
from vivace.tune import choice
from vivace.tune.selftuning import objective_of
from vivace.tune.tuning import Tuning
from vivace.types import Objective, Trial


def run(options: argparse.Namespace) -> int:
    if options.quality:
        return quality.run(options)
    if options.qrels:
        raise BadInput("--qrels judges passages, not indexes", fix="Add --quality")
    settings = settings_of(options)
    report = Path(options.report) if options.report else None
    if report is not None and (report.is_dir() or not report.absolute().parent.is_dir()):
        # said before the work, not after it
        raise BadInput(f"{report} cannot be written", fix="Name a file in a folder that exists")
    try:
        tuning, failed = asyncio.run(_tuned(settings, options)), None
    except InfeasibleObjective as error:
        if not isinstance(error.nearest, Tuning):
            raise
        tuning, failed = error.nearest, error
    if report is not None:
        report.write_text(_page(tuning, options, infeasible=failed is not None), "utf-8")
    if options.json:
        json_line(_value(tuning, options, failed))
    else:
        show(tuning, infeasible=failed is not None)
        _say_what_next(tuning, options, failed)
    return OK if failed is None else INFEASIBLE


async def _tuned(settings: Settings, options: argparse.Namespace) -> Tuning:
    async with Engine(settings) as engine:
        docs = await engine.open(options.collection or "default", create=False)
        with upkeep_progress("Tuning") as progress:
            return await docs.tune(
                _objective(settings, options),
                budget_seconds=options.budget,
                apply=options.apply,
                progress=progress,
            )


def _objective(settings: Settings, options: argparse.Namespace) -> Objective:
    """What the settings ask for, where the command line does not say otherwise."""
    given = {"recall": options.recall, "p95_ms": options.p95, "memory_bytes": options.memory}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(objective_of(settings.tune), **changes)


def repeating(tuning: Tuning, options: argparse.Namespace) -> str:
    """The command line that asks for the same again, without secrets."""
    wanted = tuning.objective
    words = ["vivace", "tune"]
    words += ["--collection", options.collection] if options.collection else []
    words += ["--config", options.config] if options.config else []
    for item in options.set:
        if not settings_module.is_secret(item.partition("=")[0]):
            words += ["--set", item]
    words += ["--recall", f"{wanted.recall:g}"]
    words += ["--p95", f"{wanted.p95_ms:g}ms"] if wanted.p95_ms is not None else []
    words += ["--memory", f"{wanted.memory_bytes}B"] if wanted.memory_bytes is not None else []
    words += ["--budget", f"{options.budget:g}s"] if options.budget else []
    return shlex.join(words)


def _page(tuning: Tuning, options: argparse.Namespace, *, infeasible: bool) -> str:
    language = options.language or settings_module.language()
    command = repeating(tuning, options)
    return page(tuning, language=language, command=command, infeasible=infeasible)


def _value(
    tuning: Tuning, options: argparse.Namespace, failed: InfeasibleObjective | None
) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(tuning)
    value["feasible"] = failed is None
    value["applied"] = options.apply and failed is None and tuning.conclusive
    value["command"] = repeating(tuning, options)
    value["report"] = options.report
    if failed is not None:
        name = type(failed).__name__
        value["error"] = {"type": name, "message": failed.what, "fix": failed.fix}
    return value


def show(tuning: Tuning, *, infeasible: bool = False) -> None:
    """The choice and what it was chosen among, on stdout."""
    label = "nearest" if infeasible else "chosen"
    trials = _one_each(tuning)
    best = min((t.cpu_ms for t in trials if t.plan == tuning.chosen.plan), default=None)
    rows = [trial_row(tuning.chosen, "held out")]
    for trial in trials:
        is_it = trial.plan == tuning.chosen.plan
        said = label if is_it else short_verdict(trial, tuning.objective, best)
        rows.append(trial_row(trial, said))
    figures(TRIAL_COLUMNS, rows)
    for item in tuning.rejected:
        print(f"left out: {described(item.family, item.params)}: {item.reason}")
    seen = tuning.pattern
    print(
        f"{tuning.queries} questions ({tuning.source}), {seen.duplicates:.0%} near-duplicates,"
        f" {seen.locality:.0%} of what they find in a tenth of it;"
        f" {tuning.rows} vectors, {tuning.builds} builds, {tuning.seconds:.1f} s"
    )
    if not infeasible:
        print(tuning.reason)


TRIAL_COLUMNS = ["index", "effort", "recall", "low", "CPU ms", "p95 ms", "MB", "build s", ""]
"""`low` is the lower end of the interval of recall, MB what is held in memory."""


def trial_row(trial: Trial, said: str) -> list[str]:
    """A trial's cells in a table of `TRIAL_COLUMNS`."""
    plan = trial.plan
    return [
        described(plan.family, plan.params),
        str(plan.effort) if plan.effort else "",
        f"{trial.recall:.3f}",
        f"{trial.recall_low:.3f}",
        digits(trial.cpu_ms),
        digits(trial.p95_ms),
        number(trial.footprint.resident / 1e6),
        number(trial.build_seconds),
        said,
    ]


def short_verdict(trial: Trial, objective: Objective, best: float | None) -> str:
    """What of the objective it misses, else how its CPU compares with the best's."""
    if missed := choice.lacks(trial, objective):
        return f"misses {', '.join(missed)}"
    return f"{trial.cpu_ms / best:.2f} x CPU" if best else "keeps to it"


def _one_each(tuning: Tuning) -> list[Trial]:
    """Of every index the effort that serves best; those that keep to the objective come first."""
    found: dict[str, tuple[tuple[bool, bool, float], Trial]] = {}
    for trial in tuning.trials:
        keeps = not choice.lacks(trial, tuning.objective)
        # of the chosen index the effort that was chosen, though another was timed as cheaper
        other = trial.plan != tuning.plan
        rank = (not keeps, other, trial.cpu_ms if keeps else -trial.recall)
        name = described(trial.plan.family, trial.plan.params)
        if name not in found or rank < found[name][0]:
            found[name] = rank, trial
    return [trial for _, trial in sorted(found.values(), key=lambda item: item[0])]


def _say_what_next(
    tuning: Tuning, options: argparse.Namespace, failed: InfeasibleObjective | None
) -> None:
    if failed is not None:
        print(f"vivace: {failed}", file=sys.stderr)
    if tuning.interrupted:
        print("ended early: this is the best so far", file=sys.stderr)
    said: Sequence[str] = ()
    if failed is None:
        said = ["nothing was changed; --apply uses it"]
        if options.apply:
            said = ["applied" if tuning.conclusive else "not applied: nothing was compared in time"]
    for line in [*said, *([f"report: {options.report}"] if options.report else [])]:
        print(line)
