"""What does each stage of a search take, and what is left of it under a deadline?

    python -m benchmarks.stages [--folder DIR] [--questions N] [--json]

Real questions, one after another, on qa/squad2dev_en: its 1,216 paragraphs, and 13,000 sentences
(of its paragraphs and of cranfield_en's abstracts). A collection is made in the folder on first
use and taken from there later. Without embedding and reranking means: with the question's vector
given, and `search.rerank` off. A right answer is the paragraph, or a sentence of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import DATA, show
from vivace.engine import Collection, Engine
from vivace.errors import VivaceError
from vivace.settings import load
from vivace.text import sentences as splitting
from vivace.types import Chunk, Query, SearchResult

K = 10
SENTENCES = 13_000
DEADLINES = (50, 10, 5, 2, 1)
WARM = 100
_SET = "squad2dev_en"


def lines(name: str, file: str) -> list[dict[str, Any]]:
    path = DATA / "qa" / name / file
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def paragraphs() -> list[Chunk]:
    return [Chunk(d["id"], d["text"], 0, len(d["text"])) for d in lines(_SET, "corpus.jsonl")]


def sentences() -> list[Chunk]:
    found: list[Chunk] = []
    for name in (_SET, "cranfield_en"):
        for document in lines(name, "corpus.jsonl"):
            text = document["text"]
            prefix = "" if name == _SET else "c"
            for start, end in splitting.sentences(text):
                if len(piece := text[start:end]) > 20:
                    found.append(Chunk(prefix + document["id"], piece, start, end))
    return found[:SENTENCES]


def questions(count: int) -> list[tuple[str, set[str]]]:
    """(question, ids of the documents that answer it), the same ones every time."""
    right: dict[str, set[str]] = defaultdict(set)
    for line in (DATA / "qa" / _SET / "qrels.tsv").read_text("utf-8").splitlines():
        query, document, relevance = line.split("\t")[:3]
        if relevance.isdigit() and int(relevance):
            right[query].add(document)
    asked = [(q["text"], right[q["id"]]) for q in lines(_SET, "queries.jsonl") if right[q["id"]]]
    order = np.random.default_rng(0).permutation(len(asked))[:count]
    return [asked[at] for at in order]


async def filled(docs: Collection, chunks: Sequence[Chunk]) -> None:
    if (await docs.info()).chunks == len(chunks):
        return
    by_document: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        by_document[chunk.document_id].append(chunk)
    await docs.add([chunk for group in by_document.values() for chunk in group])


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    values = 1e3 * np.array(seconds)
    return {f"p{q}_ms": round(float(np.percentile(values, q)), 3) for q in (50, 95, 99)}


def right(result: SearchResult, documents: set[str]) -> bool:
    return bool(result.hits) and result.hits[0].chunk.document_id in documents


async def timed(docs: Collection, queries: Sequence[Query]) -> list[float]:
    seconds = []
    for query in queries:
        start = time.perf_counter()
        await docs.search(query)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM:]


async def table(docs: Collection, asked: Sequence[tuple[str, set[str]]]) -> dict[str, Any]:
    """Of each stage: its width, milliseconds and bytes; the whole; recall@1."""
    widths: dict[str, list[tuple[int, float, int]]] = defaultdict(list)
    good = 0
    for number, (text, documents) in enumerate(asked):
        result = await docs.search(Query(text, K, explain=True))
        good += right(result, documents)
        if number >= WARM:
            for name, stage in result.stages.items():
                widths[name].append((stage.width, stage.ms, stage.bytes))
    whole = await timed(docs, [Query(text, K) for text, _ in asked])
    stages = {
        name: {
            "width": round(float(np.mean([row[0] for row in rows])), 1),
            **milliseconds([row[1] / 1e3 for row in rows]),
            "bytes": int(np.mean([row[2] for row in rows])),
        }
        for name, rows in widths.items()
    }
    return {"stages": stages, "whole": milliseconds(whole), "recall@1": round(good / len(asked), 4)}


async def plain(docs: Collection, asked: Sequence[tuple[str, set[str]]]) -> dict[str, Any]:
    """Without embedding: every question brings its vector."""
    embedder = docs._resources.embedder
    rows = (await embedder.embed([text for text, _ in asked], kind="query")).vectors
    queries = [Query(text, K, vector=row) for (text, _), row in zip(asked, rows, strict=True)]
    await timed(docs, queries)
    used = time.process_time()
    seconds = await timed(docs, queries)
    cpu = (time.process_time() - used) / len(queries)
    start = time.perf_counter()
    await docs.search_many(queries)
    many = (time.perf_counter() - start) / len(queries)
    return {
        **milliseconds(seconds),
        "cpu_ms": round(1e3 * cpu, 3),
        "search_many_ms": round(1e3 * many, 3),
    }


async def under(
    docs: Collection, asked: Sequence[tuple[str, set[str]]], deadline_ms: float
) -> dict[str, Any]:
    """Under a deadline: the share that came within it and 1 ms, recall@1, the steps taken."""
    seconds, good, errors = [], 0, Counter[str]()
    steps: Counter[str] = Counter()
    for number, (text, documents) in enumerate(asked):
        query = Query(text, K, deadline=deadline_ms / 1e3)
        start = time.perf_counter()
        try:
            result = await docs.search(query)
        except VivaceError as error:
            errors[type(error).__name__] += 1
            continue
        if number < WARM:
            continue
        seconds.append(time.perf_counter() - start)
        good += right(result, documents)
        steps.update(result.degraded or ("nothing left out",))
    within = np.array(seconds) <= deadline_ms / 1e3 + 1e-3
    return {
        "within": round(float(within.mean()), 4) if len(within) else None,
        "recall@1": round(good / max(1, len(seconds)), 4),
        **(milliseconds(seconds) if seconds else {}),
        "steps": dict(steps.most_common()),
        "errors": dict(errors),
    }


async def measured(folder: Path, chunks: Sequence[Chunk], count: int) -> dict[str, Any]:
    asked = questions(count)
    settings = load(queries__log=False, tune__guard=False, cache__memory_mib=0)
    off = load(queries__log=False, tune__guard=False, cache__memory_mib=0, search__rerank="off")
    found: dict[str, Any] = {"chunks": len(chunks), "questions": len(asked)}
    async with Engine(off) as engine:
        docs = await engine.open(folder)
        await filled(docs, chunks)
        found["without embedding and reranking"] = await plain(docs, asked)
        found["not reranked"] = await table(docs, asked)
    async with Engine(settings) as engine:
        docs = await engine.open(folder)
        found["as set"] = await table(docs, asked)
        found["deadlines"] = {f"{ms} ms": await under(docs, asked, ms) for ms in DEADLINES}
    return found


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keeps the collections between runs")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--only", choices=("paragraphs", "sentences"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        for name, make in (("paragraphs", paragraphs), ("sentences", sentences)):
            if given.only in (None, name):
                figures[name] = await measured(folder / name, make(), given.questions)
    show(figures, as_json=given.json)


if __name__ == "__main__":
    asyncio.run(main())
