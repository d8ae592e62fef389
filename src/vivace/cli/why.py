"""vivace why: the decisions made for a collection, with their evidence."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any, TypeVar

import msgspec

from vivace.cli.output import figures, index_name, json_line, opened
from vivace.cli.parser import OK
from vivace.cli.terminal import say, say_text
from vivace.cli.tuning import TRIAL_COLUMNS, show_tried, trial_row, verdict
from vivace.tune import choice
from vivace.tune.quality import StageTrial, named
from vivace.types import Decision, Objective, Stages, Trial

T = TypeVar("T")
_TRIALS = 8
"""Most trials shown of a decision."""
_SIGNALS = 12
_ELSEWHERE = frozenset({"tried", "trials", "machine", "data", "chosen"})
"""Evidence that is shown as a table, or that means little to a reader."""
_LONGEST = 160
"""Characters of one value."""


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_why(options))


async def _why(options: argparse.Namespace) -> int:
    async with opened(options) as docs:
        decisions = await docs.decisions(limit=options.limit)
        info = await docs.info()
    if options.json:
        json_line({"collection": info.path, "decisions": msgspec.to_builtins(decisions)})
        return OK
    if not decisions:
        say(f"{info.path}: nothing was decided yet; `vivace tune` chooses an index")
    for number, decision in enumerate(decisions):
        if number:
            say()
        show(decision)
    return OK


def show(decision: Decision) -> None:
    """Print when it was made, what changed from what to what, the reason and the evidence."""
    when = decision.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    before, after = shown(decision.before), shown(decision.after)
    change = after if decision.before is None or before == after else f"{before} -> {after}"
    say(f"{when}  {decision.what}: {change}")
    say_text(_indented(decision.reason))
    if trials := _evidence(decision, "trials", list[Trial]):
        _show_trials(decision, trials)
    if tried := _evidence(decision, "tried", list[StageTrial]):
        show_tried(tried)
    signals = list(_signals(decision.evidence))
    if signals:
        more = f", and {len(signals) - _SIGNALS} more" if len(signals) > _SIGNALS else ""
        say_text(_indented(f"{', '.join(signals[:_SIGNALS])}{more}"))
    for item in decision.rejected[:_TRIALS]:
        say(f"  left out: {_rejection(item)}")
    if len(decision.rejected) > _TRIALS:
        say(f"  left out: {len(decision.rejected) - _TRIALS} more; --json has them")


def _indented(text: str) -> str:
    return fill(text, 100, initial_indent="  ", subsequent_indent="  ")


def shown(value: Any) -> str:
    """A JSON value in a few words; a plan as its family, parameters and effort."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        if "family" in value and not value["family"]:
            return "stages alone"
        if "family" in value:
            params = value.get("params")
            name = index_name(str(value["family"]), params if isinstance(params, Mapping) else {})
            return f"{name}, effort {value['effort']}" if value.get("effort") else name
        if value.keys() >= {"candidates", "fusion", "rerank"}:
            return _stages(value)
        value = ", ".join(f"{name} {shown(inner)}" for name, inner in value.items())
    elif isinstance(value, (list, tuple)):
        value = ", ".join(map(shown, value))
    elif isinstance(value, float):
        value = f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _stages(value: Mapping[str, Any]) -> str:
    """The stages of a search, e.g. `en max_norm 0.2, 50 candidates, rerank 20 at 0.5`."""
    try:
        stages = msgspec.convert(value, Stages)
    except msgspec.ValidationError:
        return str(value)[:_LONGEST]
    fusions = [f"{name or 'any'} {named(how)}" for name, how in sorted(stages.fusion.items())]
    rerank = stages.rerank
    second = f"rerank {rerank.depth} at {rerank.weight:g}" if rerank.depth else "no rerank"
    return ", ".join([*fusions, f"{stages.candidates} candidates", second])


def _rejection(item: Any) -> str:
    if isinstance(item, Mapping) and "reason" in item:
        return f"{shown({k: v for k, v in item.items() if k != 'reason'})}: {item['reason']}"
    return shown(item)


def _evidence(decision: Decision, name: str, kind: type[T]) -> T | None:
    """A part of the evidence; None where it is missing or of another type."""
    try:
        return msgspec.convert(decision.evidence.get(name), kind)
    except msgspec.ValidationError:
        return None


def _show_trials(decision: Decision, trials: Sequence[Trial]) -> None:
    """Print the trials that meet the objective best."""
    objective = _evidence(decision, "objective", Objective) or Objective()
    held = _evidence(decision, "chosen", Trial)
    keeping = choice.ranked(trials, objective)
    ordered = [*keeping, *(trial for trial in trials if trial not in keeping)]
    own = [t for t in keeping if held is not None and t.plan == held.plan]
    best = own[0].cpu_ms if own else None
    rows = [trial_row(held, "held out")] if held is not None else []
    for trial in ordered[:_TRIALS]:
        label = "chosen" if trial in own else verdict(trial, objective, best)
        rows.append(trial_row(trial, label))
    figures(TRIAL_COLUMNS, rows)
    if len(ordered) > _TRIALS:
        say(f"  {len(ordered) - _TRIALS} more trials with --json")


def _signals(evidence: Mapping[str, Any]) -> Iterator[str]:
    """Evidence that consists of single values; lists are only in --json."""
    for name, value in evidence.items():
        if name in _ELSEWHERE or value is False:
            continue
        if isinstance(value, Mapping):
            inner = {k: v for k, v in value.items() if v is not None}
            yield f"{name} ({shown(inner)})"
        elif not isinstance(value, (list, tuple)) and value is not None:
            yield f"{name} {shown(value)}"
