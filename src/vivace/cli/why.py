"""vivace why."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from vivace.cli.output import json_line, settings_of, table
from vivace.cli.report.texts import described
from vivace.cli.status import OK
from vivace.cli.tuning import TRIAL_COLUMNS, trial_row
from vivace.engine import Engine
from vivace.tune import choice
from vivace.types import Decision, Objective, Trial

_TRIALS = 8
"""Most trials shown of a decision."""
_SIGNALS = 12
_LONGEST = 160
"""Characters of one value."""


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_why(options))


async def _why(options: argparse.Namespace) -> int:
    async with Engine(settings_of(options)) as engine:
        docs = await engine.open(options.collection or "default", create=False)
        decisions = await docs.decisions(limit=options.limit)
        info = await docs.info()
    if options.json:
        json_line({"collection": info.path, "decisions": msgspec.to_builtins(decisions)})
        return OK
    if not decisions:
        print(f"{info.path}: nothing was decided yet; `vivace tune` chooses an index")
    for number, decision in enumerate(decisions):
        if number:
            print()
        show(decision)
    return OK


def show(decision: Decision) -> None:
    """When, what, from what to what, why, and on what grounds."""
    when = decision.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    before, after = shown(decision.before), shown(decision.after)
    change = after if decision.before is None or before == after else f"{before} -> {after}"
    print(f"{when}  {decision.what}: {change}")
    print(f"  {decision.reason}")
    trials = _trials(decision)
    if trials:
        _show_trials(decision, trials)
    signals = list(_signals(decision.evidence))
    if signals:
        more = f", and {len(signals) - _SIGNALS} more" if len(signals) > _SIGNALS else ""
        print(f"  {', '.join(signals[:_SIGNALS])}{more}")
    for item in decision.rejected[:_TRIALS]:
        print(f"  left out: {_rejection(item)}")
    if len(decision.rejected) > _TRIALS:
        print(f"  left out: {len(decision.rejected) - _TRIALS} more; --json has them")


def shown(value: Any) -> str:
    """A JSON value in a few words; a plan as its family, parameters and effort."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        if "family" in value:
            params = value.get("params")
            name = described(str(value["family"]), params if isinstance(params, Mapping) else {})
            return f"{name}, effort {value['effort']}" if value.get("effort") else name
        value = ", ".join(f"{name} {shown(inner)}" for name, inner in value.items())
    elif isinstance(value, (list, tuple)):
        value = ", ".join(map(shown, value))
    elif isinstance(value, float):
        value = f"{value:.4g}"
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _rejection(item: Any) -> str:
    if isinstance(item, Mapping) and "reason" in item:
        return f"{shown({k: v for k, v in item.items() if k != 'reason'})}: {item['reason']}"
    return shown(item)


def _trials(decision: Decision) -> list[Trial]:
    """Those a decision rests on; none where its evidence is of another kind."""
    try:
        return msgspec.convert(decision.evidence.get("trials"), list[Trial])
    except msgspec.ValidationError:
        return []


def _show_trials(decision: Decision, trials: Sequence[Trial]) -> None:
    """The likeliest, by the objective they were tried for."""
    try:
        objective = msgspec.convert(decision.evidence.get("objective"), Objective)
    except msgspec.ValidationError:
        objective = Objective()
    first = choice.ranked(trials, objective)
    rest = [trial for trial in trials if trial not in first]
    said = [(trial, "keeps to it") for trial in first]
    said += [(trial, f"misses {' and '.join(choice.lacks(trial, objective))}") for trial in rest]
    rows = [trial_row(trial, verdict) for trial, verdict in said[:_TRIALS]]
    left = len(said) - len(rows)
    table(f"{left} more trials with --json" if left else "", TRIAL_COLUMNS, rows)


def _signals(evidence: Mapping[str, Any]) -> Iterator[str]:
    """What is told by single values; lists are for --json."""
    for name, value in evidence.items():
        if name in ("trials", "machine", "chosen"):
            continue
        if isinstance(value, Mapping):
            inner = {k: v for k, v in value.items() if v is not None}
            yield f"{name} ({shown(inner)})"
        elif not isinstance(value, (list, tuple)) and value is not None:
            yield f"{name} {shown(value)}"
