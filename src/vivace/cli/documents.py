"""vivace ingest, ls, rm; the collection of a folder."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
from pathlib import Path
from typing import Any

import msgspec

from vivace.cli.output import ingest_progress, json_line, opened, place, settings_of, table
from vivace.cli.parser import BAD_INPUT, OK, SOME_FAILED
from vivace.cli.terminal import say, warn
from vivace.engine import Collection
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
    async with opened(options, settings=settings, create=True) as docs:
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
    return SOME_FAILED if report.errors else OK


async def _list(options: argparse.Namespace) -> int:
    async with opened(options) as docs:
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
    return OK


async def _remove(options: argparse.Namespace) -> int:
    """Remove documents by their own ids, or by the absolute paths of their files."""
    async with opened(options) as docs:
        removed, missing = 0, []
        for name in options.ids:
            if n := await docs.delete([name, absolute(Path(name)).as_posix()]):
                removed += n
            else:
                missing.append(name)
    if options.json:
        json_line({"removed": removed, "missing": missing})
    else:
        say(f"removed {removed}")
        for name in missing:
            warn(f"vivace: no such document: {name}. `vivace ls` lists them")
    return BAD_INPUT if missing else OK


def folder_collection(folder: Path) -> str:
    """The name of a folder's own collection: readable, and different for equal names elsewhere."""
    path = absolute(folder)
    word = re.sub(r"[^\w-]+", "-", path.name).strip("-") or "docs"
    return f"{word}-{hashlib.blake2b(path.as_posix().encode(), digest_size=4).hexdigest()}"


async def ingest_folder(docs: Collection, folder: str) -> IngestReport:
    """Ingest what is new in the folder and remove what is gone, with progress on stderr.

    Raises:
        BadInput: the folder holds nothing that can be read.
    """
    with ingest_progress("Reading") as progress:
        report = await docs.ingest(folder, prune=True, progress=progress)
    if not (await docs.info()).documents:
        reasons = "; ".join(f"{f.source}: {f.reason}" for f in report.errors[:3])
        raise BadInput(
            f"nothing to read in {folder}" + (f" ({reasons})" if reasons else ""),
            fix=f"Give a folder that holds {known_suffixes()} files",
        )
    return report


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
    say(
        f"{report.documents} documents, {report.chunks} chunks in {report.seconds:.1f} s;"
        f" {report.unchanged} unchanged, {report.removed} removed,"
        f" {len(report.skipped)} skipped, {len(report.errors)} failed"
    )
    for failure in report.errors:
        warn(f"  {failure.source}: {failure.reason}. {failure.fix}")
