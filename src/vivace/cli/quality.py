"""vivace tune --quality: which stages give the best passages, and what they cost."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from vivace.cli.output import figures, json_line, settings_of, upkeep_progress
from vivace.cli.report.svg import digits
from vivace.cli.status import OK
from vivace.engine import Engine
from vivace.tune.quality import Quality, StageTrial, named

COLUMNS = ["stage", "language", "value", "nDCG@10", "points", "low", "high", "ms", ""]
"""Points and their interval are of the difference to what was in force."""
_SHOWN = 6
"""Rows of a stage and language, the best; what is in force is always one."""


def run(options: argparse.Namespace) -> int:
    found, applied = asyncio.run(_tuned(options))
    if options.json:
        json_line(_value(found, applied))
        return OK
    show(found.tried)
    questions = ", ".join(f"{count} in {name}" for name, count in found.questions.items())
    kinds = ", ".join(f"{count} of a {name}" for name, count in found.kinds.items())
    made = f"made of the corpus: {kinds}" if found.source == "pseudo" else "given"
    print(f"questions: {questions} ({made}); {found.seconds:.1f} s")
    print(found.reason)
    if found.changed:
        print("applied" if applied else "nothing was changed; --apply uses it")
    return OK


async def _tuned(options: argparse.Namespace) -> tuple[Quality, bool]:
    async with Engine(settings_of(options)) as engine:
        docs = await engine.open(options.collection or "default", create=False)
        qrels = Path(options.qrels) if options.qrels else None
        with upkeep_progress("Tuning") as progress:
            found = await docs.tune_quality(qrels, apply=options.apply, progress=progress)
        return found, options.apply and found.changed


def _value(found: Quality, applied: bool) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(found)
    return {**value, "changed": found.changed, "applied": applied}


def show(tried: tuple[StageTrial, ...] | list[StageTrial]) -> None:
    """What was tried, on stdout: of each stage what was in force, and the best."""
    figures(COLUMNS, [_row(row) for row in _best(tried)])


def _best(tried: tuple[StageTrial, ...] | list[StageTrial]) -> Iterator[StageTrial]:
    stages: dict[tuple[str, str], list[StageTrial]] = {}
    for row in tried:
        stages.setdefault((row.stage, row.language), []).append(row)
    for rows in stages.values():
        ordered = sorted(rows[1:], key=lambda row: (not row.chosen, -row.ndcg))
        yield from [rows[0], *ordered[: _SHOWN - 1]]


def _row(row: StageTrial) -> list[str]:
    before = row.difference == row.low == row.high == 0
    points = ["", "", ""] if before else _points(row)
    said = "chosen" if row.chosen and not before else "in force" if before else ""
    value = {
        "fusion": named(row.fusion),
        "candidates": str(row.candidates),
        "rerank": f"{row.rerank.depth} at {row.rerank.weight:g}" if row.rerank.depth else "none",
    }[row.stage]
    ms = digits(row.milliseconds) if row.milliseconds else ""
    return [row.stage, row.language or "all", value, f"{row.ndcg:.4f}", *points, ms, said]


def _points(row: StageTrial) -> list[str]:
    return [f"{100 * value:+.2f}" for value in (row.difference, row.low, row.high)]
