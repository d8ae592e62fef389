"""vivace ingest, ls, rm."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec

from vivace.cli.output import ingest_progress, json_line, place, settings_of, table
from vivace.cli.status import BAD_INPUT, OK, SOME_FAILED
from vivace.engine import Engine
from vivace.errors import BadInput
from vivace.ingest.decode import absolute
from vivace.ingest.formats import known_suffixes
from vivace.types import Chunk, IngestReport


def run(options: argparse.Namespace) -> int:
    command = {"ingest": _ingest, "ls": _list, "rm": _remove}[options.command]
    return asyncio.run(command(options))


async def _ingest(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    if options.password:
        parse = msgspec.structs.replace(settings.parse, password=options.password)
        settings = msgspec.structs.replace(settings, parse=parse)
    async with Engine(settings) as engine:
        docs = await engine.open(options.collection or "default")
        with ingest_progress("Reading") as progress:
            report = await docs.ingest(options.paths, prune=options.prune, progress=progress)
    if not (report.documents or report.unchanged or report.removed or report.errors):
        raise BadInput(
            f"nothing to read in {', '.join(options.paths)}",
            fix=f"Give files or folders that hold {known_suffixes()} files",
        )
    if options.json:
        json_line(report_value(report))
    else:
        show_report(report)
    return SOME_FAILED if report.errors else 0


async def _list(options: argparse.Namespace) -> int:
    async with Engine(settings_of(options)) as engine:
        docs = await engine.open(options.collection or "default", create=False)
        found = await docs.list(limit=options.limit)
        info = await docs.info()
    if options.json:
        json_line(
            {
                "collection": info.path,
                "epoch": info.epoch,
                "total": info.documents,
                "chunks": info.chunks,
                "documents": [
                    {
                        "id": document.id,
                        "title": document.title,
                        "source": document.source,
                        "metadata": dict(document.metadata),
                        "chunks": chunks,
                    }
                    for document, chunks in found
                ],
            }
        )
    else:
        rows = [
            [place(Chunk(d.id, "", source=d.source)), d.title, str(chunks)] for d, chunks in found
        ]
        table(f"{info.path}: {info.documents} documents", ["document", "title", "chunks"], rows)
    return 0


async def _remove(options: argparse.Namespace) -> int:
    async with Engine(settings_of(options)) as engine:
        docs = await engine.open(options.collection or "default", create=False)
        removed, missing = 0, []
        for id in options.ids:
            if n := await docs.delete(_ids(id)):
                removed += n
            else:
                missing.append(id)
    if options.json:
        json_line({"removed": removed, "missing": missing})
    else:
        print(f"removed {removed}")
        for id in missing:
            print(f"vivace: no such document: {id}. `vivace ls` lists them", file=sys.stderr)
    return BAD_INPUT if missing else OK


def _ids(name: str) -> list[str]:
    """A document's own id, or a file's: its absolute path."""
    return [name, absolute(Path(name)).as_posix()]


def report_value(report: IngestReport) -> dict[str, Any]:
    return {
        "documents": report.documents,
        "chunks": report.chunks,
        "unchanged": report.unchanged,
        "removed": report.removed,
        "embedded": report.embedded,
        "epoch": report.epoch,
        "seconds": round(report.seconds, 3),
        "skipped": [{"source": s.source, "reason": s.reason} for s in report.skipped],
        "errors": failure_values(report),
    }


def failure_values(report: IngestReport) -> list[dict[str, str]]:
    return [{"source": f.source, "reason": f.reason, "fix": f.fix} for f in report.errors]


def show_report(report: IngestReport) -> None:
    print(
        f"{report.documents} documents, {report.chunks} chunks in {report.seconds:.1f} s;"
        f" {report.unchanged} unchanged, {report.removed} removed,"
        f" {len(report.skipped)} skipped, {len(report.errors)} failed"
    )
    for failure in report.errors:
        print(f"  {failure.source}: {failure.reason}. {failure.fix}", file=sys.stderr)
