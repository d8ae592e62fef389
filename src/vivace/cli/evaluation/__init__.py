"""vivace eval: retrieval quality and speed on judged questions."""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vivace.cli.documents import failure_values
from vivace.cli.evaluation import runs, spans, staged, timing
from vivace.cli.evaluation.measured import Measured, measured
from vivace.cli.output import ingest_progress, json_line, settings_of, table
from vivace.cli.status import OK
from vivace.engine import Collection, Engine
from vivace.errors import BadInput
from vivace.settings import Cache, QueryLog
from vivace.text.language import language
from vivace.tune import labels
from vivace.types import Query

_LISTS = frozenset({"errors", "stages", "failures", "against"})
"""Shown in their own way."""


def run(options: argparse.Namespace) -> int:
    folder = Path(options.dir)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        if not (folder / name).is_file():
            raise BadInput(
                f"{folder} has no {name}",
                fix="Give a folder with corpus.jsonl, queries.jsonl and qrels.tsv",
            )
    # before the work: a file that cannot be read would be told after it
    before = runs.read(Path(options.against)) if options.against else None
    for name in (options.run_file, options.save):
        runs.writable(name)
    report, found = asyncio.run(_evaluate(folder, options))
    if before is not None:
        report["against"] = runs.compared(before, found)
    if options.run_file:
        runs.write_trec(Path(options.run_file), found)
    if options.save:
        runs.write(Path(options.save), report, found)
    if options.json:
        json_line(report)
    else:
        _show(report)
    for failure in report["errors"]:
        # the figures are of what could be read: said, and no failure of the measurement
        print(f"vivace: left out {failure['source']}: {failure['reason']}", file=sys.stderr)
    return OK


async def _evaluate(
    folder: Path, options: argparse.Namespace
) -> tuple[dict[str, Any], list[Measured]]:
    judged = labels.read(folder)[: options.limit]
    with tempfile.TemporaryDirectory(prefix="vivace-eval-") as temporary:
        where = options.collection or Path(temporary) / "collection"
        # measuring leaves no trace in the questions that tuning learns from
        plain = settings_of(options)
        # and what is timed is searched, however often it is asked
        settings = msgspec.structs.replace(
            plain, queries=QueryLog(log=False), cache=Cache(memory_mib=0)
        )
        async with Engine(settings) as engine:
            docs = await engine.open(where)
            ingest = await _ingest(docs, folder)
            info = await docs.info()
            queries = await _with_vectors(engine, [item.query for item in judged])
            plainly = [item.query for item in judged]
            # whole searches: a question that brings its vector has no token vectors
            found = await measured(docs, judged, plainly, options.k)
            speed = await timing.speed(docs, plainly, queries, options.k)
            stages = await staged.stages(docs, judged, queries, found, options.k)
            covered = await spans.coverage(docs, judged, queries)
            failures = await staged.failures(docs, judged, stages, found, options.failures)
    report = {
        "documents": info.documents,
        "chunks": info.chunks,
        "queries": len(judged),
        **{key: round(value, 4) for key, value in _means(found).items()},
        **{key: round(value, 3) for key, value in speed.items()},
        **{key: round(value, 4) for key, value in covered.items()},
        "stages": staged.figures(stages, found, docs.trace),
        **ingest,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    if options.failures:
        report["failures"] = failures
    return report, found


def _means(found: Sequence[Measured]) -> dict[str, float]:
    names = found[0].values if found else {}
    return {name: float(np.mean([item.values[name] for item in found])) for name in names}


async def _ingest(docs: Collection, folder: Path) -> dict[str, Any]:
    """Ingest the corpus unless the collection holds documents already."""
    if (await docs.info()).documents:
        return {"ingest_seconds": None, "documents_per_second": None, "errors": []}
    with ingest_progress("Ingesting") as progress:
        report = await docs.ingest(folder / "corpus.jsonl", progress=progress)
    return {
        "ingest_seconds": round(report.seconds, 3),
        "documents_per_second": round(report.documents / report.seconds, 1),
        "errors": failure_values(report),
    }


async def _with_vectors(engine: Engine, queries: Sequence[Query]) -> list[Query]:
    """The queries with the vector a search would give them; none where it would give none."""
    readable = [q for q in queries if engine.resources.embedder.reads(language(q.text))]
    embedded = await engine.resources.embedder.embed([q.text for q in readable], kind="query")
    vectors = {id(q): vector for q, vector in zip(readable, embedded.vectors, strict=True)}
    return [Query(q.text, q.k, vector=vectors.get(id(q))) for q in queries]


def _show(report: Mapping[str, Any]) -> None:
    plain = {key: value for key, value in report.items() if key not in _LISTS}
    table("", ["measure", "value"], [[key, _shown(value)] for key, value in plain.items()])
    rows = [
        [name, _shown(its["recall@10"]), _shown(its["p50_ms"])]
        for name, its in report["stages"].items()
    ]
    table("stages", ["stage", "recall@10", "p50 ms"], rows)
    if against := report.get("against"):
        rows = [
            [name, *(f"{its[key]:+.4f}" for key in ("difference", "low", "high"))]
            for name, its in against["measures"].items()
        ]
        table(f"against, {against['queries']} questions", ["measure", "by", "low", "high"], rows)
    for failure in report.get("failures", ()):
        print(f"\n{failure['query_id']}: {failure['question']}")
        print(f"  expected {failure['expected']['document_id']}: {failure['expected']['text']}")
        came = failure["instead"]
        print(f"  came     {came['document_id']}: {came['text']}" if came else "  came     nothing")
        print(f"  lost     {failure['why']}")


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
