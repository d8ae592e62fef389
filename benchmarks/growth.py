"""Does a collection stay quick to open, to change and to search as it grows?

    python -m benchmarks.growth [--chunks N] [--also N] [--folder DIR] [--json]

SYNTHETIC vectors, grown from 40,000 real ones (`benchmarks.grown`); 500 real questions. Every size
is built and opened in a process of its own, so that its memory is its own. Opening is measured with
a warm page cache. Busy and idle searches alternate in one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks import grown
from benchmarks.report import show
from vivace.engine import Collection, Engine
from vivace.settings import load
from vivace.types import Chunk, Query

A_CALL = 20_000
"""Chunks of one `Collection.add`."""
SHARES = (50, 10, 1, 0.1)
K = 10


def engine() -> Engine:
    return Engine(
        load(embed__model="given:384", queries__log=False, search__threads=1, cache__memory_mib=0)
    )


def rss_mb(kind: str = "VmRSS") -> float:
    """Of this process now; `VmHWM` is its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "p50_ms": round(float(np.percentile(seconds, 50)) * 1e3, 3),
        "p95_ms": round(float(np.percentile(seconds, 95)) * 1e3, 3),
    }


# -- each of these runs in a process of its own and prints one line of JSON -------------------


async def build(folder: Path, count: int, cache: Path) -> dict[str, Any]:
    vectors = grown.vectors(count, cache)
    started, used = time.perf_counter(), cpu()
    async with engine() as e:
        docs = await e.open(folder)
        for at in range(0, count, A_CALL):
            n = min(A_CALL, count - at)
            await docs.add(grown.chunks(at // grown.OF_A_DOCUMENT, n), vectors[at : at + n])
        added = time.perf_counter() - started
        await settled(docs)
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "acknowledged_seconds": round(added, 2),
        "cpu_seconds": round(cpu() - used, 2),
        "peak_rss_mb": rss_mb("VmHWM"),
        "disk_mb": disk(folder),
    }


async def opening(folder: Path, count: int, cache: Path) -> dict[str, Any]:
    row = grown.queries()[0]
    before = rss_mb()
    started = time.perf_counter()
    async with engine() as e:
        docs = await e.open(folder, create=False)
        opened = time.perf_counter() - started
        found = await docs.search(Query(grown.question(7), K, vector=row))
        first = time.perf_counter() - started
        assert len(found.hits) == K
        return {
            "open_seconds": round(opened, 4),
            "open_and_first_search_seconds": round(first, 4),
            "rss_mb": rss_mb(),
            "rss_before_mb": before,
            "memory_mb": memory(),
        }


async def editing(folder: Path, count: int, cache: Path) -> dict[str, Any]:
    """Change one document in a hundred, as one call."""
    vectors = grown.vectors(count, cache)
    documents = range(0, count // grown.OF_A_DOCUMENT, 100)
    chunks = [
        chunk
        for number in documents
        for chunk in grown.chunks(number, grown.OF_A_DOCUMENT, version=1)
    ]
    rows = np.concatenate(
        [vectors[n * grown.OF_A_DOCUMENT :][: grown.OF_A_DOCUMENT] for n in documents]
    )
    async with engine() as e:
        docs = await e.open(folder, create=False)
        started, used = time.perf_counter(), cpu()
        await docs.add(chunks, rows[::-1].copy())
        await settled(docs)
        return {
            "chunks": len(chunks),
            "seconds": round(time.perf_counter() - started, 3),
            "cpu_seconds": round(cpu() - used, 3),
        }


async def searching(folder: Path, count: int, cache: Path) -> dict[str, Any]:
    """Idle and busy searches in turns; busy is while chunks are added, sealed and merged."""
    vectors = grown.vectors(count, cache)
    rows = grown.queries()
    idle: list[float] = []
    busy: list[float] = []
    async with engine() as e:
        docs = await e.open(folder, create=False)
        await searches(docs, rows[:50])
        for turn in range(3):
            idle += await searches(docs, rows[:200])
            # made beforehand: what a client does before it calls is not the engine's
            batches = _batches(vectors, count // grown.OF_A_DOCUMENT, turn, count // 20)
            adding = asyncio.create_task(_adding(docs, batches))
            while not adding.done():
                busy += await searches(
                    docs, rows[np.random.default_rng(turn).permutation(500)[:20]]
                )
            await adding
            await settled(docs)
    quiet, loaded = percentiles(idle), percentiles(busy)
    return {
        "idle": quiet,
        "busy": loaded,
        "busy_searches": len(busy),
        "p95_ratio": round(loaded["p95_ms"] / quiet["p95_ms"], 2),
    }


async def filtering(folder: Path, count: int, cache: Path) -> dict[str, Any]:
    """Recall of the dense side against exact search, and what a filter costs."""
    rows = grown.queries()[:100]
    async with engine() as e:
        docs = await e.open(folder, create=False)
        await searches(docs, rows)
        plain = percentiles(await searches(docs, rows))
        found: dict[str, Any] = {
            "unfiltered": {**plain, "recall@10": await recall(docs, rows, 100)}
        }
        for share in SHARES:
            filters = {"share": {"$lte": share}}
            started = time.perf_counter()
            await docs.search(Query("", K, filters, vector=rows[0]))
            cold = time.perf_counter() - started
            warm = percentiles(await searches(docs, rows, filters))
            found[f"{share}%"] = {
                **warm,
                "cold_ms": round(cold * 1e3, 2),
                "recall@10": await recall(docs, rows, share),
                "p95_ratio": round(warm["p95_ms"] / plain["p95_ms"], 2),
            }
    return found


# -- parts ------------------------------------------------------------------------------------


async def settled(docs: Collection) -> None:
    """Wait until nothing is sealed or merged in the background."""
    await asyncio.to_thread(docs.corpus.settle)


Batch: TypeAlias = tuple[list[Chunk], NDArray[np.float16]]


def _batches(vectors: NDArray[np.float16], first: int, turn: int, count: int) -> list[Batch]:
    count -= count % grown.OF_A_DOCUMENT
    # replaced in every turn, so that the collection does not grow while it is measured
    return [
        (
            grown.chunks(first + at // grown.OF_A_DOCUMENT, min(1000, count - at), version=turn),
            vectors[at : at + min(1000, count - at)],
        )
        for at in range(0, count, 1000)
    ]


async def _adding(docs: Collection, batches: Sequence[Batch]) -> None:
    for chunks, vectors in batches:
        await docs.add(chunks, vectors)


async def searches(
    docs: Collection, rows: NDArray[np.float32], filters: dict[str, Any] | None = None
) -> list[float]:
    """Seconds of each search, one after the other."""
    seconds = []
    for at, row in enumerate(rows):
        query = Query(grown.question(at * 37), K, filters, vector=row)
        started = time.perf_counter()
        await docs.search(query)
        seconds.append(time.perf_counter() - started)
    return seconds


async def recall(docs: Collection, rows: NDArray[np.float32], share: float) -> float:
    """Of the exact ten nearest allowed chunks, how many the dense side returns."""
    corpus = docs.corpus
    filters = None if share == 100 else {"share": {"$lte": share}}

    def measure() -> float:
        snapshot = corpus.snapshot()
        allow = snapshot.allowed(Query("x", K, filters))
        scores = np.full((len(rows), K), -np.inf, np.float32)
        for ids, block in corpus.store.vectors():
            near = rows @ block.astype(np.float32).T
            if allow is not None:
                near[:, ~_bits(allow, ids)] = -np.inf
            scores = -np.sort(-np.hstack([scores, near]), axis=1)[:, :K]
        found = snapshot.dense(rows, K, allow=allow).scores
        # by score: ties and float16 rounding must not count as misses
        hits = (found >= scores[:, -1:] - 1e-3) & np.isfinite(found)
        wanted = np.isfinite(scores).sum()
        return round(float(hits.sum() / max(1, wanted)), 4)

    return await asyncio.to_thread(measure)


def _bits(allow: NDArray[np.bool_], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (ids < len(allow)) & allow[np.minimum(ids, len(allow) - 1)]
    return found


def disk(folder: Path) -> dict[str, float]:
    """Megabytes by part."""
    parts: dict[str, float] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            top = path.relative_to(folder).parts[0]
            part = f"{top}/{path.name}" if top == "segments" else top
            parts[part] = parts.get(part, 0) + path.stat().st_size / 1e6
    return {name: round(size, 2) for name, size in sorted(parts.items())}


def memory() -> dict[str, float]:
    """Resident megabytes by kind: what is mapped from files can be dropped, the rest cannot."""
    kinds = {"anonymous": 0, "files": 0}
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            kinds["anonymous"] = int(line.split()[1])
        elif line.startswith("RssFile"):
            kinds["files"] = int(line.split()[1])
    return {name: round(kb / 1024, 1) for name, kb in kinds.items()}


STEPS: dict[str, Callable[..., Any]] = {
    "build": build,
    "opening": opening,
    "editing": editing,
    "searching": searching,
    "filtering": filtering,
}


def alone(step: str, folder: Path, count: int, cache: Path) -> dict[str, Any]:
    """A step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--step", step]
    command += ["--chunks", str(count), "--folder", str(cache), "--collection", str(folder)]
    print(f"{count} chunks: {step}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return value


def measure(count: int, cache: Path, steps: Sequence[str]) -> dict[str, Any]:
    grown.vectors(count, cache)
    with tempfile.TemporaryDirectory(prefix="vivace-growth-", dir=cache) as folder:
        where = Path(folder) / "collection"
        found = {}
        for step in steps:
            found[step] = alone(step, where, count, cache)
            if step == "opening":  # the first has warmed the page cache
                found[step] = alone(step, where, count, cache)
    if "editing" in found:
        share = found["editing"]["cpu_seconds"] / found["build"]["cpu_seconds"]
        found["editing"]["of_the_build"] = round(share, 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=200_000)
    parser.add_argument("--also", type=int, default=0, help="build and open this many, too")
    parser.add_argument("--folder", type=Path, help="keeps the grown vectors between runs")
    parser.add_argument("--step", choices=sorted(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--collection", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.step:
        step = STEPS[options.step](options.collection, options.chunks, options.folder)
        print(json.dumps(asyncio.run(step)))
        return
    cache = options.folder or Path(tempfile.gettempdir()) / "vivace-grown"
    cache.mkdir(parents=True, exist_ok=True)
    value = {"synthetic": True, str(options.chunks): measure(options.chunks, cache, list(STEPS))}
    if options.also:
        value[str(options.also)] = measure(options.also, cache, ["build", "opening"])
    show(value, as_json=options.json)


if __name__ == "__main__":
    main()
