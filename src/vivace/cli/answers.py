"""Answers as JSON, and those to a file of questions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vivace.cli.documents import report_value, show_report
from vivace.cli.output import json_line
from vivace.cli.status import OK, SOME_FAILED
from vivace.engine import Collection
from vivace.errors import BadInput, VivaceError
from vivace.generate.batch import Progress
from vivace.server.wire import answer_body
from vivace.types import Answer, BatchProgress, IngestReport

_FIELDS = ("question", "text", "query")


@dataclass(frozen=True)
class Asked:
    """A question of a file, and what stands beside it there."""

    text: str
    fields: dict[str, Any]


async def answer_file(
    docs: Collection,
    options: argparse.Namespace,
    filters: dict[str, Any] | None,
    report: IngestReport | None,
) -> int:
    """Answer the questions of `--file`, in their order: one JSON line each, or as text."""
    asked = questions_of(options.file)
    with _progress() as progress:
        answers = await docs.answer_many(
            [one.text for one in asked],
            options.k,
            filters=filters,
            template=options.template,
            target_language=options.to,
            progress=progress,
        )
    failed = 0
    for one, answer in zip(asked, answers, strict=True):
        failed += isinstance(answer, VivaceError)
        if options.json:
            json_line({**one.fields, "question": one.text, **_value(answer)})
        elif isinstance(answer, VivaceError):
            print(f"? {one.text}\nerror: {answer}\n")
        else:
            print(f"? {one.text}\n{answer.text}\n")
    if report is not None and options.json:
        json_line({"ingest": report_value(report)})
    elif report is not None and report.errors:
        show_report(report)
    print(f"{len(asked):,} questions, {failed:,} failed", file=sys.stderr)
    return SOME_FAILED if failed or (report is not None and report.errors) else OK


def questions_of(name: str) -> list[Asked]:
    """The questions of a file: one a line, or of JSON Lines; empty lines are passed over.

    Raises:
        BadInput: it cannot be read, or a line is no question.
    """
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInput(f"{name}: {why}", fix="Give a UTF-8 file of questions") from error
    lines = [(at, line.strip()) for at, line in enumerate(text.split("\n"), start=1)]
    lines = [(at, line) for at, line in lines if line]
    if not (name.endswith((".jsonl", ".ndjson")) or (lines and lines[0][1].startswith("{"))):
        return [Asked(line, {}) for _, line in lines]
    return [_of_json(name, at, line) for at, line in lines]


def _of_json(name: str, at: int, line: str) -> Asked:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name}, line {at}: this is no JSON: {error}") from error
    if isinstance(value, str):
        return Asked(value, {})
    field = next((f for f in _FIELDS if isinstance(value, dict) and f in value), None)
    if field is None or not isinstance(value[field], str):
        raise BadInput(
            f"{name}, line {at}: there is no question", fix='Write {"question": "..."} a line'
        )
    return Asked(value.pop(field), value)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr where it is a terminal; silent otherwise."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("answering", total=None)

        def show(now: BatchProgress) -> None:
            failed = f", {now.failed} failed" if now.failed else ""
            bar.update(task, description=f"answering{failed}", completed=now.done, total=now.total)

        yield show


def _value(answer: Answer | VivaceError) -> dict[str, Any]:
    if isinstance(answer, VivaceError):
        return {"error": {"type": type(answer).__name__, "what": answer.what, "fix": answer.fix}}
    return msgspec.structs.asdict(answer_body(answer))
