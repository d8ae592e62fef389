"""Do the threads fit the machine, and are there as many of each kind as is best?

    python -m benchmarks.threads [--questions N] [--documents N] [--rounds N] [--most N] [--json]

64 clients in this process search. Meanwhile `/proc/self/task/*/stat` is read every few
milliseconds: `runnable` is how many threads were in state R on average, less the event loop's;
nothing of the process that reads. Then the same with every fixed `embed.workers` x `search.threads`
from 1 to `--most`, in rounds: throughput with the automatic settings is divided by that of the best
fixed ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.crowd import CLIENTS, corpus, crowd, questions
from benchmarks.report import show
from vivace.engine import Engine
from vivace.run.host import cores

EVERY = 0.004
"""Seconds between two samples."""
AUTOMATIC = (0, 0)


class Sampler:
    """Counts this process's runnable threads, but for the event loop's, until it is stopped.

    Another process reads: here, every read of a file would wait for the interpreter's lock, and
    what runs changes meanwhile. Threads that hand over to each other may still be counted twice.
    """

    def __init__(self) -> None:
        self.counts: list[int] = []

    def __enter__(self) -> Sampler:
        code = ("from benchmarks.threads import sample", "import sys", "sample(*sys.argv[1:])")
        about = (str(os.getpid()), str(threading.get_native_id()))
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "; ".join(code),
                *about,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it is ready
        return self

    def __exit__(self, *_: object) -> None:
        out = self._process.communicate("")[0]
        self.counts = json.loads(out)


def sample(pid: str, loop: str) -> None:
    """In the other process: until standard input ends."""
    counts: list[int] = []
    print("ready", flush=True)
    folder = f"/proc/{pid}/task"
    while not select.select([sys.stdin], [], [], EVERY)[0]:
        tasks = [task for task in os.listdir(folder) if task != loop]
        counts.append(sum(state(f"{folder}/{task}/stat") == "R" for task in tasks))
    print(json.dumps(counts))


def state(path: str) -> str:
    try:
        with open(path) as file:
            # behind the name, which may hold anything but is in parentheses
            return file.read().rpartition(")")[2].split()[0]
    except OSError:  # it has ended
        return ""


async def rate(
    collection: Path, texts: list[str], setting: tuple[int, int], sampled: bool
) -> tuple[float, list[int]]:
    workers, threads = setting
    overrides: dict[str, Any] = {"embed": {"workers": workers}, "search": {"threads": threads}}
    async with Engine(cache__memory_mib=0, **overrides) as engine:
        docs = await engine.open(collection)
        await crowd(docs.search, texts[: 2 * CLIENTS])
        if not sampled:
            return (await crowd(docs.search, texts)).rate, []
        with Sampler() as sampler:
            found = await crowd(docs.search, texts)
        return found.rate, sampler.counts


async def measure(asked: int, documents: int, rounds: int, most: int) -> dict[str, object]:
    texts = questions(asked)
    fixed = [(w, t) for w in range(1, most + 1) for t in range(1, most + 1)]
    rates: dict[tuple[int, int], list[float]] = {setting: [] for setting in (AUTOMATIC, *fixed)}
    counts: list[int] = []
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as folder:
        collection = Path(folder) / "crowd"
        async with Engine() as engine:
            await (await engine.open(collection)).ingest(corpus(Path(folder), documents))
        for number in range(rounds):
            _, found = await rate(collection, texts, AUTOMATIC, sampled=True)
            counts += found
            order = list(rates)
            for setting in order[number % len(order) :] + order[: number % len(order)]:
                rates[setting].append((await rate(collection, texts, setting, sampled=False))[0])
    medians = {setting: statistics.median(found) for setting, found in rates.items()}
    best = max(fixed, key=lambda setting: medians[setting])
    pairs = zip(rates[AUTOMATIC], rates[best], strict=True)
    return {
        "quota": cores(),
        "runnable": round(statistics.mean(counts), 3),
        "samples": len(counts),
        "share_of_samples": {
            n: round(counts.count(n) / len(counts), 3) for n in sorted(set(counts))
        },
        "automatic": round(medians[AUTOMATIC], 1),
        "best_fixed": {"workers": best[0], "threads": best[1], "rate": round(medians[best], 1)},
        "ratio": round(statistics.median(ours / theirs for ours, theirs in pairs), 3),
        "fixed": {f"{w}x{t}": round(medians[w, t], 1) for w, t in fixed},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=1_000)
    parser.add_argument("--documents", type=int, default=1_204)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = asyncio.run(
        measure(options.questions, options.documents, options.rounds, options.most)
    )
    show(figures, as_json=options.json)
