"""vivace search, ask."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec

from vivace.cli.answers import answer_file
from vivace.cli.documents import report_value, show_report
from vivace.cli.folder import collection_of, take_in
from vivace.cli.output import (
    filter_of,
    json_line,
    place,
    settings_of,
)
from vivace.cli.status import SOME_FAILED
from vivace.engine import Collection, Engine
from vivace.errors import BadInput
from vivace.server.wire import answer_body, search_response
from vivace.types import Answer


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_search(options) if options.command == "search" else _ask(options))


async def _search(options: argparse.Namespace) -> int:
    async with Engine(settings_of(options)) as engine:
        docs = await engine.open(options.collection or "default", create=False)
        result = await docs.search(
            options.question, options.k, filters=filter_of(options), min_score=options.min_score
        )
    if options.json:
        json_line(search_response(result))
        return 0
    for rank, hit in enumerate(result.hits, start=1):
        stages = "  ".join(f"{name} {score:.3f}" for name, score in hit.stages.items())
        print(f"{rank}. {place(hit.chunk)}  [{hit.score:.3f}: {stages}]")
        print(f"   {' '.join(hit.chunk.text.split())[:240]}\n")
    if not result.hits:
        print("nothing found")
    _show_degraded(result.degraded)
    return 0


async def _ask(options: argparse.Namespace) -> int:
    if (options.question is None) == (options.file is None):
        raise BadInput("ask takes a question or --file", fix="Give one of the two")
    if options.docs and options.collection is None:
        options.collection = collection_of(Path(options.docs))
    filters = filter_of(options)
    async with Engine(settings_of(options)) as engine:
        docs = await engine.open(options.collection or "default", create=bool(options.docs))
        report = await take_in(docs, options.docs) if options.docs else None
        if options.file is not None:
            return await answer_file(docs, options, filters, report)
        answer = await _answer(docs, options, filters)
    if options.json:
        value = msgspec.structs.asdict(answer_body(answer))
        if report is not None:
            value["ingest"] = report_value(report)
        json_line(value)
    else:
        _show_sources(answer)
        if report is not None and report.errors:
            show_report(report)
    return SOME_FAILED if report is not None and report.errors else 0


async def _answer(
    docs: Collection, options: argparse.Namespace, filters: dict[str, Any] | None
) -> Answer:
    answer: Answer | None = None
    deltas = docs.stream(
        options.question,
        k=options.k,
        filters=filters,
        template=options.template,
        target_language=options.to,
    )
    async for delta in deltas:
        if not options.json:
            print(delta.text, end="", flush=True)
        answer = delta.answer or answer
    assert answer is not None  # an Answerer's last delta carries it
    if not options.json:
        print()
    return answer


def _show_sources(answer: Answer) -> None:
    if answer.citations:
        print()
    for citation in answer.citations:
        print(f"[{citation.number}] {place(citation.chunk)} ({citation.start}-{citation.end})")
    if answer.usage is not None:
        used = answer.usage
        cached = f" ({used.cached_tokens:,} cached)" if used.cached_tokens else ""
        cached = " (replayed from the cache)" if used.free else cached
        price = "" if answer.cost is None else f", cost {answer.cost:.6f}"
        print(
            f"{answer.generator}: {used.prompt_tokens:,} prompt tokens{cached}, "
            f"{used.completion_tokens:,} completion tokens{price}",
            file=sys.stderr,
        )
    _show_degraded(answer.degraded)


def _show_degraded(degraded: tuple[str, ...]) -> None:
    for reason in degraded:
        print(f"note: {reason}", file=sys.stderr)
