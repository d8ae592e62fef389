"""vivace eval: retrieval quality and speed on judged questions."""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vivace.cli.documents import failure_values
from vivace.cli.output import ingest_progress, json_line, settings_of, table
from vivace.cli.status import OK
from vivace.engine import Collection, Engine
from vivace.errors import BadInput
from vivace.settings import QueryLog
from vivace.text.language import language
from vivace.tune import metrics
from vivace.types import Query

_TIMED = 500
"""Searches timed a figure; more of them change the median by less than the machine's noise."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A question and the documents that answer it."""

    query: Query
    relevant: frozenset[str]


def run(options: argparse.Namespace) -> int:
    folder = Path(options.dir)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        if not (folder / name).is_file():
            raise BadInput(
                f"{folder} has no {name}",
                fix="Give a folder with corpus.jsonl, queries.jsonl and qrels.tsv",
            )
    report = asyncio.run(_evaluate(folder, options))
    if options.json:
        json_line(report)
    else:
        table("", ["measure", "value"], [[key, _shown(value)] for key, value in report.items()])
    for failure in report["errors"]:
        # the figures are of what could be read: said, and no failure of the measurement
        print(f"vivace: left out {failure['source']}: {failure['reason']}", file=sys.stderr)
    return OK


async def _evaluate(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    judged = read_judged(folder)[: options.limit]
    with tempfile.TemporaryDirectory(prefix="vivace-eval-") as temporary:
        where = options.collection or Path(temporary) / "collection"
        # measuring leaves no trace in the questions that tuning learns from
        plain = settings_of(options)
        settings = msgspec.structs.replace(plain, queries=QueryLog(log=False))
        async with Engine(settings) as engine:
            docs = await engine.open(where)
            ingest = await _ingest(docs, folder)
            info = await docs.info()
            queries = await _with_vectors(engine, [item.query for item in judged])
            quality = await _quality(docs, judged, queries, options.k)
            speed = await _speed(docs, [item.query for item in judged], queries, options.k)
    return {
        "documents": info.documents,
        "chunks": info.chunks,
        "queries": len(judged),
        **{key: round(value, 4) for key, value in quality.items()},
        **{key: round(value, 3) for key, value in speed.items()},
        **ingest,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


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
    readable = [q for q in queries if engine.embedder.reads(language(q.text))]
    embedded = await engine.embedder.embed([q.text for q in readable], kind="query")
    vectors = {id(q): vector for q, vector in zip(readable, embedded.vectors, strict=True)}
    return [Query(q.text, q.k, vector=vectors.get(id(q))) for q in queries]


async def _quality(
    docs: Collection, judged: Sequence[Judged], queries: Sequence[Query], k: int
) -> dict[str, float]:
    depth = max(k, 10)
    totals: dict[str, list[float]] = {}
    for item, query in zip(judged, queries, strict=True):
        ranked = await _ranked(docs, query, depth)
        for at in (1, 5, 10):
            totals.setdefault(f"recall@{at}", []).append(metrics.recall(ranked, item.relevant, at))
        totals.setdefault("mrr@10", []).append(metrics.reciprocal_rank(ranked, item.relevant, 10))
        totals.setdefault("ndcg@10", []).append(metrics.ndcg(ranked, item.relevant, 10))
    return {name: float(np.mean(values)) for name, values in totals.items()}


async def _ranked(docs: Collection, query: Query, depth: int) -> list[str]:
    """Document ids, best first. A blank question finds nothing, and counts as a miss."""
    if not query.text.strip():
        return []
    # several chunks of one document may come first: look deeper for `depth` documents
    result = await docs.search(Query(query.text, 4 * depth, vector=query.vector))
    return list(dict.fromkeys(hit.chunk.document_id for hit in result.hits))


async def _speed(
    docs: Collection, plain: Sequence[Query], embedded: Sequence[Query], k: int
) -> dict[str, float]:
    """Milliseconds of searches one after another, with the embedding and without it."""
    whole = await _timed(docs, plain[:_TIMED], k)
    without = await _timed(docs, embedded[:_TIMED], k)
    return {
        "p50_ms": metrics.percentile(whole, 0.5),
        "p95_ms": metrics.percentile(whole, 0.95),
        "p50_ms_without_embedding": metrics.percentile(without, 0.5),
    }


async def _timed(docs: Collection, queries: Sequence[Query], k: int) -> list[float]:
    milliseconds = []
    for query in queries:
        if not query.text.strip():
            continue
        start = time.perf_counter()
        await docs.search(Query(query.text, k, vector=query.vector))
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return milliseconds


def read_judged(folder: Path) -> list[Judged]:
    """The questions of a data set that have relevant documents, in file order.

    Raises:
        BadInput: a line of queries.jsonl or qrels.tsv cannot be read; names the line.
    """
    relevant: dict[str, set[str]] = {}
    qrels = (folder / "qrels.tsv").read_text("utf-8", "replace")
    for number, line in enumerate(qrels.splitlines(), start=1):
        parts = line.split("\t")
        if parts[0] == "query_id" or not line.strip():
            continue
        try:
            query_id, document_id, gain = parts
            if float(gain) > 0:
                relevant.setdefault(query_id, set()).add(document_id)
        except ValueError as error:
            raise BadInput(
                f"{folder / 'qrels.tsv'}:{number}: {line[:80]!r}",
                fix="Write query_id, doc_id and rel separated by tabs",
            ) from error
    judged = []
    for number, row in enumerate((folder / "queries.jsonl").read_bytes().splitlines(), start=1):
        try:
            value = msgspec.json.decode(row)
            id, text = str(value["id"]), value["text"]
            if not isinstance(text, str):
                raise TypeError("text is no string")
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise BadInput(
                f"{folder / 'queries.jsonl'}:{number}: {error}", fix="Write {id, text} a line"
            ) from error
        if id in relevant:
            judged.append(Judged(Query(text), frozenset(relevant[id])))
    if not judged:
        raise BadInput(
            f"{folder}: no question of queries.jsonl is judged in qrels.tsv",
            fix="Use the same ids in both",
        )
    return judged


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
