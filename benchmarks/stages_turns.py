"""What does a search take in this checkout and in another, by turns?

    python -m benchmarks.stages_turns BEFORE [--folder DIR] [--rounds N] [--questions N] [--json]

BEFORE is another checkout (`git worktree add`). Without embedding and reranking, as the same line
of `benchmarks.stages`: every question brings its vector. Each checkout searches in a process of its
own; they take turns every 50 questions, so that what else the machine does hits both alike, and
both say whether they found the same. `inline` is the search without the hop to the pool and back.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import stages
from benchmarks.report import show
from vivace.engine import Engine
from vivace.retrieve.hybrid import HybridSearcher
from vivace.settings import load
from vivace.types import Query

_TURN = 50
_SETS = {"paragraphs": stages.paragraphs, "sentences": stages.sentences}
_OFF = load(queries__log=False, tune__guard=False, cache__memory_mib=0, search__rerank="off")


async def made(folder: Path, name: str, count: int) -> Path:
    """The collection and its questions' vectors, which both checkouts get copies of."""
    async with Engine(_OFF) as engine:
        await stages.filled(await engine.open(folder / name), _SETS[name]())
        texts = [text for text, _ in stages.questions(count)]
        rows = (await engine.resources.embedder.embed(texts, kind="query")).vectors
    np.save(folder / "vectors.npy", rows)
    return folder / name


async def searching(folder: Path, vectors: Path) -> None:
    """In a process of its own: searches what it is told to, and says what it took."""
    rows = np.load(vectors)
    texts = [text for text, _ in stages.questions(len(rows))]
    queries = [Query(text, stages.K, vector=row) for text, row in zip(texts, rows, strict=True)]
    async with Engine(_OFF) as engine:
        docs = await engine.open(folder)
        found = hashlib.blake2b(digest_size=8)
        for query in queries:  # which also warms it
            for hit in (await docs.search(query)).hits:
                found.update(repr((hit.chunk.id, hit.score, sorted(hit.stages.items()))).encode())
        print(json.dumps(found.hexdigest()), flush=True)
        # the other checkout may be from before it was public
        searcher: Any = getattr(docs, "searcher", None) or getattr(docs, "_searcher")  # noqa: B009
        while not isinstance(searcher, HybridSearcher):
            searcher = searcher._searcher
        for line in sys.stdin:
            mine = queries[int(line) : int(line) + _TURN]
            used, whole, inline = time.process_time(), [], []
            for query in mine:
                start = time.perf_counter()
                await docs.search(query)
                whole.append(time.perf_counter() - start)
            cpu = (time.process_time() - used) / len(mine)
            for query in mine:
                start = time.perf_counter()
                _inline(searcher, query)
                inline.append(time.perf_counter() - start)
            print(json.dumps([whole, inline, cpu]), flush=True)


def _inline(searcher: Any, query: Query) -> None:
    """The search on the calling thread."""
    if not hasattr(searcher, "pipeline"):  # a checkout from before `retrieve.pipeline`
        one = searcher._begun(query)
        searcher._whole(one, one.vector, time.monotonic())
        return
    pipeline = searcher.pipeline
    pipeline.run(pipeline.begin(query))


def turns(processes: dict[str, subprocess.Popen[str]], count: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each checkout: of all searches, and of each question's fastest."""
    same = {name: json.loads(_line(process)) for name, process in processes.items()}
    taken: dict[str, Any] = {n: np.empty((2, rounds, count)) for n in processes}
    cpu: dict[str, list[float]] = {name: [] for name in processes}
    for turn in range(rounds):
        for at in range(0, count, _TURN):
            for name in sorted(processes, reverse=(turn + at // _TURN) % 2 == 1):
                process = processes[name]
                assert process.stdin is not None
                process.stdin.write(f"{at}\n")
                process.stdin.flush()
                whole, inline, used = json.loads(_line(process))
                taken[name][:, turn, at : at + _TURN] = whole, inline
                cpu[name].append(used)
    found: dict[str, Any] = {"same results": len(set(same.values())) == 1}
    for name, (whole, inline) in taken.items():
        found[name] = {
            "p50_ms": round(1e3 * float(np.median(whole)), 3),
            "fastest_p50_ms": round(1e3 * float(np.median(whole.min(axis=0))), 3),
            "inline_p50_ms": round(1e3 * float(np.median(inline)), 3),
            "inline_fastest_p50_ms": round(1e3 * float(np.median(inline.min(axis=0))), 3),
            "cpu_ms": round(1e3 * float(np.median(cpu[name])), 3),
        }
    return found


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def compared(before: Path, folder: Path, name: str, count: int, rounds: int) -> dict[str, Any]:
    source = asyncio.run(made(folder, name, count))
    vectors = folder / "vectors.npy"
    processes: dict[str, subprocess.Popen[str]] = {}
    here = Path(__file__).parents[1]
    try:
        for label, root in (("before", before.resolve()), ("here", here)):
            copy = folder / f"{name}-{label}"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(source, copy)
            # the other checkout may not have this file: its package is used, not its benchmarks
            paths = os.pathsep.join([str(root / "src"), str(here)])
            processes[label] = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.stages_turns", "--search", copy, vectors],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": paths},
            )
        return turns(processes, count, rounds)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages_turns", description=__doc__)
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("--folder", type=Path, help="keeps the collections between runs")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--only", choices=tuple(_SETS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--search", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.search is not None:
        asyncio.run(searching(*given.search))
        return
    if given.before is None:
        parser.error("name another checkout")
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = {
            name: compared(given.before, folder, name, given.questions, given.rounds)
            for name in _SETS
            if given.only in (None, name)
        }
    show(figures, as_json=given.json)


if __name__ == "__main__":
    main()
