"""vivace search, ask."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivace.cli.documents import folder_collection, ingest_folder, report_value, show_report
from vivace.cli.output import batch_progress, filter_of, json_line, opened, place
from vivace.cli.parser import OK, SOME_FAILED
from vivace.cli.terminal import say, say_text, warn
from vivace.engine import Collection
from vivace.errors import BadInput, VivaceError
from vivace.server.wire import answer_value, search_response
from vivace.types import Answer, AnswerOptions, IngestReport

_FIELDS = ("question", "text", "query")
"""Names that the question may have in a line of JSON."""


@dataclass(frozen=True)
class AnswerReport:
    """The answer to one question of a file, with the other fields of the question's line."""

    question: str
    fields: dict[str, Any]
    answer: Answer | VivaceError

    def value(self) -> dict[str, Any]:
        """As JSON."""
        answer = self.answer
        if isinstance(answer, VivaceError):
            name = type(answer).__name__
            value = {"error": {"type": name, "what": answer.what, "fix": answer.fix}}
        else:
            value = answer_value(answer)
        return {**self.fields, "question": self.question, **value}

    def show(self) -> None:
        """As text, on stdout."""
        answer = self.answer
        text = f"error: {answer}" if isinstance(answer, VivaceError) else answer.text
        say(f"? {self.question}")
        say_text(f"{text}\n")


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_search(options) if options.command == "search" else _ask(options))


async def _search(options: argparse.Namespace) -> int:
    async with opened(options) as docs:
        result = await docs.search(
            options.question, options.k, filters=filter_of(options), min_score=options.min_score
        )
    if options.json:
        json_line(search_response(result))
        return OK
    for rank, hit in enumerate(result.hits, start=1):
        stages = "  ".join(f"{name} {score:.3f}" for name, score in hit.stages.items())
        say(f"{rank}. {place(hit.chunk)}  [{hit.score:.3f}: {stages}]")
        say(f"   {' '.join(hit.chunk.text.split())[:240]}")
        say()
    if not result.hits:
        say("nothing found")
    _show_degraded(result.degraded)
    return OK


async def _ask(options: argparse.Namespace) -> int:
    if (options.question is None) == (options.file is None):
        raise BadInput("ask takes a question or --file", fix="Give one of the two")
    if options.docs and options.collection is None:
        options.collection = folder_collection(Path(options.docs))
    filters = filter_of(options)
    answering = AnswerOptions(template=options.template or "qa", target_language=options.to)
    async with opened(options, create=bool(options.docs)) as docs:
        report = await ingest_folder(docs, options.docs) if options.docs else None
        ask = _ask_one if options.file is None else _ask_file
        failed = await ask(docs, options, filters, answering, report)
    return SOME_FAILED if failed or (report is not None and report.errors) else OK


async def _ask_one(
    docs: Collection,
    options: argparse.Namespace,
    filters: dict[str, Any] | None,
    answering: AnswerOptions,
    report: IngestReport | None,
) -> bool:
    """Answer one question, as it is written or as one JSON line."""
    answer: Answer | None = None
    async for delta in docs.stream(
        options.question, k=options.k, filters=filters, options=answering
    ):
        if not options.json:
            say_text(delta.text, end="")
        answer = delta.answer or answer
    assert answer is not None  # an Answerer's last delta carries it
    if options.json:
        value = answer_value(answer)
        if report is not None:
            value["ingest"] = report_value(report)
        json_line(value)
    else:
        say()
        _show_sources(answer)
        if report is not None and report.errors:
            show_report(report)
    return False


async def _ask_file(
    docs: Collection,
    options: argparse.Namespace,
    filters: dict[str, Any] | None,
    answering: AnswerOptions,
    report: IngestReport | None,
) -> bool:
    """Answer the questions of `--file` in order, as JSON lines or text; whether any failed."""
    questions = _questions_of(options.file)
    with batch_progress("answering") as progress:
        answers = await docs.answer_many(
            [question for question, _ in questions],
            options.k,
            filters=filters,
            options=answering,
            progress=progress,
        )
    reports = [AnswerReport(*one, answer) for one, answer in zip(questions, answers, strict=True)]
    for one in reports:
        if options.json:
            json_line(one.value())
        else:
            one.show()
    if report is not None and options.json:
        json_line({"ingest": report_value(report)})
    elif report is not None and report.errors:
        show_report(report)
    failed = sum(isinstance(answer, VivaceError) for answer in answers)
    warn(f"{len(questions):,} questions, {failed:,} failed")
    return bool(failed)


def _questions_of(name: str) -> list[tuple[str, dict[str, Any]]]:
    """The questions of a file, one a line or of JSON Lines, each with its other fields.

    Raises:
        BadInput: the file cannot be read, or a line is no question.
    """
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInput(f"{name}: {why}", fix="Give a UTF-8 file of questions") from error
    lines = [(at, line.strip()) for at, line in enumerate(text.split("\n"), start=1)]
    lines = [(at, line) for at, line in lines if line]
    if not (name.endswith((".jsonl", ".ndjson")) or (lines and lines[0][1].startswith("{"))):
        return [(line, {}) for _, line in lines]
    return [_question_of_json(name, at, line) for at, line in lines]


def _question_of_json(name: str, at: int, line: str) -> tuple[str, dict[str, Any]]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name}, line {at}: this is no JSON: {error}") from error
    if isinstance(value, str):
        return value, {}
    field = next((f for f in _FIELDS if isinstance(value, dict) and f in value), None)
    if field is None or not isinstance(value[field], str):
        raise BadInput(
            f"{name}, line {at}: there is no question", fix='Write {"question": "..."} a line'
        )
    return value.pop(field), value


def _show_sources(answer: Answer) -> None:
    if answer.citations:
        say()
    for citation in answer.citations:
        say(f"[{citation.number}] {place(citation.chunk)} ({citation.start}-{citation.end})")
    if answer.usage is not None:
        used = answer.usage
        cached = f" ({used.cached_tokens:,} cached)" if used.cached_tokens else ""
        cached = " (replayed from the cache)" if used.free else cached
        price = "" if answer.cost is None else f", cost {answer.cost:.6f}"
        warn(
            f"{answer.generator}: {used.prompt_tokens:,} prompt tokens{cached}, "
            f"{used.completion_tokens:,} completion tokens{price}"
        )
    _show_degraded(answer.degraded)


def _show_degraded(degraded: tuple[str, ...]) -> None:
    for reason in degraded:
        warn(f"note: {reason}")
