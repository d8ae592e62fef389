"""How many searches a second does the server answer on one core, embedding each question?

    python -m benchmarks.http [--documents N] [--clients N] [--seconds S] [--rounds N] [--json]

The server is a process of its own, pinned to one core; the client is on the others. Every question
is asked once, so nothing can be cached.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from benchmarks.report import DATA, show
from benchmarks.wire import Client, Process, last_core, leave, quantile, vivace
from vivace.engine import Engine

_WARM_UP = 200
_ALONE = 800


UNCACHED = ("--set", "cache.memory_mib=0")
"""What is measured here and by others is the work of a search or an answer, not its memory."""


async def prepare(folder: Path, documents: int) -> str:
    """A collection of the first documents of squad2dev_en; returns its path."""
    where = folder / "squad"
    with (DATA / "qa" / "squad2dev_en" / "corpus.jsonl").open() as lines:
        (folder / "corpus.jsonl").write_text("".join(islice(lines, documents)))
    async with Engine() as engine:
        await (await engine.open(where)).ingest(folder / "corpus.jsonl")
    return str(where)


def questions() -> Iterator[str]:
    """Without end, each once: after the last the first comes again with a number added."""
    path = DATA / "qa" / "squad2dev_en" / "queries.jsonl"
    texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    texts = [text for text in texts if text.strip()]
    yield from texts
    for turn in count(2):
        yield from (f"{text} ({turn})" for text in texts)


async def load(
    server: Process, asked: Iterator[bytes], clients: int, seconds: float
) -> dict[str, float]:
    """Ask with every client at once, one question after another, for some seconds."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        async with Client(server.first_line["address"]) as connection:
            while (start := time.perf_counter()) < end and (body := next(asked, b"")):
                found = await connection.post("/v1/search", body)
                assert b'"cosine"' in found
                took.append(time.perf_counter() - start)

    cpu, start = server.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    elapsed, cpu = time.perf_counter() - start, server.cpu_seconds() - cpu
    return {
        "requests": len(took),
        "requests_per_s": len(took) / elapsed,
        "p50_ms": quantile(took, 0.5) * 1e3,
        "p95_ms": quantile(took, 0.95) * 1e3,
        "server_cpu_ms": cpu / len(took) * 1e3,
        "core_share": cpu / elapsed,
    }


async def embedding_alone(asked: Iterator[str], clients: int, core: int) -> float:
    """Questions a second that the bare embedder does on the same core: no server can do more."""
    os.sched_setaffinity(0, {core})  # the engine's threads inherit it
    async with Engine() as engine:

        async def client(share: list[str]) -> None:
            for text in share:
                await engine.resources.embedder.embed([text], kind="query")

        await client(list(islice(asked, 50)))
        shares = [list(islice(asked, _ALONE // clients)) for _ in range(clients)]
        start = time.perf_counter()
        await asyncio.gather(*(client(share) for share in shares))
        return sum(map(len, shares)) / (time.perf_counter() - start)


async def measure(options: argparse.Namespace) -> dict[str, object]:
    core = last_core()
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as temporary:
        where = await prepare(Path(temporary), options.documents)
        leave(core)
        asked = (json.dumps({"query": text, "k": options.k}).encode() for text in questions())
        with vivace("serve", "--collection", where, "--port", "0", *UNCACHED, core=core) as server:
            await load(server, islice(asked, _WARM_UP), options.clients, 60)
            rounds = [
                await load(server, asked, options.clients, options.seconds)
                for _ in range(options.rounds)
            ]
    alone = await embedding_alone(questions(), options.clients, core)
    middle = {name: round(statistics.median(row[name] for row in rounds), 3) for name in rounds[0]}
    each = [round(row["requests_per_s"], 1) for row in rounds]
    return {
        "clients": options.clients,
        "documents": options.documents,
        "k": options.k,
        **middle,
        "rounds_requests_per_s": each,
        "bare_embedder_per_s": round(alone, 1),
        "share_of_bare_embedder": round(middle["requests_per_s"] / alone, 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1216)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(asyncio.run(measure(options)), as_json=options.json)
