"""vivace eval: retrieval quality and speed on judged questions; runs on disk to compare with."""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vivace.cli.documents import failure_values
from vivace.cli.evaluation import measures, stages
from vivace.cli.evaluation.measures import MeasuredQuestion
from vivace.cli.output import check_writable, ingest_progress, json_line, settings_of, table
from vivace.cli.parser import OK
from vivace.cli.terminal import say, warn
from vivace.engine import Collection, Engine
from vivace.errors import BadInput
from vivace.settings import Cache, QueryLog
from vivace.text.language import language
from vivace.tune import labels
from vivace.tune.metrics import difference
from vivace.types import Query

_LISTS = frozenset({"errors", "stages", "failures", "against"})
"""Parts of the report that are not shown in the table of figures."""
_TAG = "vivace"
"""The last column of a TREC run."""
_PER_QUERY = "per_query"


def run(options: argparse.Namespace) -> int:
    folder = Path(options.dir)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        if not (folder / name).is_file():
            raise BadInput(
                f"{folder} has no {name}",
                fix="Give a folder with corpus.jsonl, queries.jsonl and qrels.tsv",
            )
    # before the work, not after it
    before = read_run(Path(options.against)) if options.against else None
    trec, save = check_writable(options.run_file), check_writable(options.save)
    report, found = asyncio.run(_evaluate(folder, options))
    if before is not None:
        report["against"] = compared(before, found)
    if trec is not None:
        write_trec(trec, found)
    if save is not None:
        # with the values of every question, for --against
        each = {item.id: dict(item.values) for item in found}
        save.write_bytes(msgspec.json.encode({**report, _PER_QUERY: each}) + b"\n")
    if options.json:
        json_line(report)
    else:
        _show(report)
    for failure in report["errors"]:
        # the figures are of what could be read: reported, and no failure of the measurement
        warn(f"vivace: left out {failure['source']}: {failure['reason']}")
    return OK


async def _evaluate(
    folder: Path, options: argparse.Namespace
) -> tuple[dict[str, Any], list[MeasuredQuestion]]:
    judged = labels.read(folder)[: options.limit]
    with tempfile.TemporaryDirectory(prefix="vivace-eval-") as temporary:
        where = options.collection or Path(temporary) / "collection"
        plain = settings_of(options)
        # no query log: tuning does not learn from an evaluation; no cache: every search is timed
        settings = msgspec.structs.replace(
            plain, queries=QueryLog(log=False), cache=Cache(memory_mib=0)
        )
        async with Engine(settings) as engine:
            docs = await engine.open(where)
            ingest = await _ingest(docs, folder)
            info = await docs.info()
            questions = [item.query for item in judged]
            queries = await _with_vectors(engine, questions)
            # the questions without vectors: one that brings its vector has no token vectors
            found = await measures.measured(docs, judged, options.k)
            speed = await measures.speed(docs, questions, queries, options.k)
            staged = await asyncio.to_thread(stages.staged, docs, judged, queries, found, options.k)
            covered = await measures.coverage(docs, judged, queries)
            failures = await stages.failures(docs, judged, staged, found, options.failures)
    report = {
        "documents": info.documents,
        "chunks": info.chunks,
        "queries": len(judged),
        **{key: round(value, 4) for key, value in _means(found).items()},
        **{key: round(value, 3) for key, value in speed.items()},
        **{key: round(value, 4) for key, value in covered.items()},
        "stages": stages.figures(staged, found, docs.trace),
        **ingest,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    if options.failures:
        report["failures"] = failures
    return report, found


def _means(found: Sequence[MeasuredQuestion]) -> dict[str, float]:
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
        say()
        say(f"{failure['query_id']}: {failure['question']}")
        say(f"  expected {failure['expected']['document_id']}: {failure['expected']['text']}")
        came = failure["instead"]
        say(f"  came     {came['document_id']}: {came['text']}" if came else "  came     nothing")
        say(f"  lost     {failure['why']}")


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


# -- runs on disk ---------------------------------------------------------------------------


def read_run(path: Path) -> dict[str, dict[str, float]]:
    """The values of each question, by its id, in a run written by --save.

    Raises:
        BadInput: the file cannot be read, or holds no run.
    """
    fix = "Write one with vivace eval DIR --save RUN.json"
    try:
        value = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        return msgspec.convert(value[_PER_QUERY], dict[str, dict[str, float]])
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", fix=fix) from error
    except (msgspec.MsgspecError, KeyError, UnicodeError) as error:
        raise BadInput(f"{path} holds no run: {error}", fix=fix) from error


def write_trec(path: Path, found: Sequence[MeasuredQuestion]) -> None:
    """`query_id Q0 doc_id rank score tag` a line, as trec_eval reads it; ids without spaces."""
    lines = [
        f"{_word(item.id)} Q0 {_word(document)} {rank} {score:.6f} {_TAG}\n"
        for item in found
        for rank, (document, score) in enumerate(
            zip(item.ranked, item.scores, strict=True), start=1
        )
    ]
    path.write_text("".join(lines), "utf-8")


def compared(
    before: Mapping[str, Mapping[str, float]], found: Sequence[MeasuredQuestion]
) -> dict[str, Any]:
    """The mean difference of each measure to the earlier run, with a paired bootstrap's interval.

    Raises:
        BadInput: the runs have no question in common.
    """
    both = [item for item in found if item.id in before]
    if not both:
        raise BadInput("the runs have no question in common", fix="Compare runs of one data set")
    differences = {}
    for name in both[0].values:
        pairs = [(item.values[name], before[item.id].get(name)) for item in both]
        if any(old is None for _, old in pairs):
            continue
        its = difference(np.array([new - (old or 0.0) for new, old in pairs]))
        differences[name] = {
            "difference": round(its.mean, 4),
            "low": round(its.low, 4),
            "high": round(its.high, 4),
            "clear": its.better or its.worse,
        }
    return {"queries": len(both), "measures": differences}


def _word(name: str) -> str:
    return "_".join(name.split()) or "_"
