"""vivace verify, rebuild, compact."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import msgspec

from vivace.cli.output import json_line, opened, settings_of, upkeep_progress
from vivace.cli.parser import FAILED, OK
from vivace.cli.terminal import say, warn
from vivace.engine import Collection, Engine


def run(options: argparse.Namespace) -> int:
    command = {"verify": _verify, "rebuild": _rebuild, "compact": _compact}[options.command]
    return asyncio.run(command(options))


async def _verify(options: argparse.Namespace) -> int:
    async with opened(options) as docs:
        with upkeep_progress("Checking") as progress:
            findings = await docs.verify(progress=progress)
        info = await docs.info()
    if options.json:
        json_line({"collection": info.path, "findings": msgspec.to_builtins(findings)})
    else:
        for finding in findings:
            warn(f"{finding.where}: {finding.what}. {finding.fix}")
        say(f"{info.path}: {len(findings) or 'nothing'} wrong")
    return FAILED if findings else OK


async def _rebuild(options: argparse.Namespace) -> int:
    start = time.monotonic()
    embedded: int | None = None
    # re-embedding opens the collection by itself: its vectors need not fit the embedder
    async with Engine(settings_of(options)) as engine:
        if options.reembed:
            with upkeep_progress("Embedding") as progress:
                done = await engine.reembed(options.collection or "default", progress=progress)
            embedded = done.embedded
        docs = await engine.open(options.collection or "default", create=False)
        with upkeep_progress("Rebuilding") as progress:
            await docs.rebuild(progress=progress)
        await _report(docs, options, {"embedded": embedded, "seconds": _since(start)})
    return OK


async def _compact(options: argparse.Namespace) -> int:
    start = time.monotonic()
    async with opened(options) as docs:
        with upkeep_progress("Compacting") as progress:
            await docs.compact(progress=progress)
        await _report(docs, options, {"seconds": _since(start)})
    return OK


async def _report(docs: Collection, options: argparse.Namespace, what: dict[str, Any]) -> None:
    info = await docs.info()
    if options.json:
        counts = {"documents": info.documents, "chunks": info.chunks, "epoch": info.epoch}
        json_line({"collection": info.path, "embedder": info.embedder, **counts, **what})
    else:
        made = f", {what['embedded']} embedded" if what.get("embedded") is not None else ""
        say(f"{info.path}: {info.chunks} chunks{made} in {what['seconds']:.1f} s")


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)
