"""How much slower are searches and answers while documents are ingested, and what does it cost?

    python -m benchmarks.interference [--documents N] [--rounds N] [--share X] [--json]

Searches and streamed answers (quoted, so that no model server takes part) arrive at random times at
a share of the capacity that was measured first, whether or not the earlier ones are done. Each
round measures them idle, then while a part of the documents goes into the same collection in the
same process, then ingests another part alone. Server and client have all cores between them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path

from benchmarks.http import questions
from benchmarks.ingesting import Ingesting
from benchmarks.report import DATA, show
from benchmarks.wire import Client, quantile
from vivace.engine import Engine

KINDS = ("search", "answer")
QUANTILES = (50, 95)
_CLIENTS = 8
_BASE = 300
"""Documents that are there before the first question."""


def by_kind() -> dict[str, list[float]]:
    return {kind: [] for kind in KINDS}


def ms(took: list[float], percent: int) -> float:
    return quantile(took, percent / 100) * 1e3


def paragraphs(count: int) -> Iterator[dict[str, str]]:
    """Distinct documents: paragraphs first, then first halves joined to other ones' second."""
    path = DATA / "qa" / "squad2dev_en" / "corpus.jsonl"
    texts = [json.loads(line)["text"].split() for line in path.read_text("utf-8").splitlines()]
    for number in range(count):
        turn, at = divmod(number, len(texts))
        first, second = texts[at], texts[(at + 7 * turn) % len(texts)]
        words = first[: len(first) // 2] + second[len(second) // 2 :]
        yield {"id": f"p{number}", "text": " ".join(words)}


def ending(task: asyncio.Task[dict[str, float]]) -> Callable[[float], bool]:
    return lambda _: task.done()


def write(path: Path, documents: Iterator[dict[str, str]], count: int) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in islice(documents, count)))
    return str(path)


class Load:
    """Requests of one kind, over as many connections as it takes."""

    def __init__(self, address: str, kind: str, asked: Iterator[str]) -> None:
        self._address = address
        self._kind = kind
        self._asked = asked
        self._free: list[Client] = []

    async def one(self) -> None:
        client = self._free.pop() if self._free else await Client(self._address).__aenter__()
        text = next(self._asked)
        if self._kind == "search":
            await client.post("/v1/search", json.dumps({"query": text}).encode())
        else:
            message = {"role": "user", "content": text}
            value = {"model": "vivace", "stream": True, "messages": [message]}
            await client.stream("/v1/chat/completions", json.dumps(value).encode())
        self._free.append(client)

    async def capacity(self, seconds: float) -> float:
        """Requests a second that some clients get, each asking again as soon as it is answered."""
        done, start = 0, time.perf_counter()

        async def client() -> None:
            nonlocal done
            while time.perf_counter() < start + seconds:
                await self.one()
                done += 1

        await asyncio.gather(*(client() for _ in range(_CLIENTS)))
        return done / (time.perf_counter() - start)

    async def arriving(
        self, rate: float, until: Callable[[float], bool], draw: random.Random
    ) -> list[float]:
        """Open loop: exponential gaps; the time counts from when the request was due."""
        took: list[float] = []
        loop = asyncio.get_running_loop()
        start = due = loop.time()

        async def timed(due: float) -> None:
            await self.one()
            took.append(loop.time() - due)

        async with asyncio.TaskGroup() as group:
            while not until(due - start):
                await asyncio.sleep(max(0.0, due - loop.time()))
                group.create_task(timed(due))
                due += draw.expovariate(rate)
        await self.close()  # before the server does, which keeps idle connections for a minute
        return took

    async def close(self) -> None:
        while self._free:
            await self._free.pop().__aexit__()


async def measure(options: argparse.Namespace) -> dict[str, object]:
    turns = options.rounds * len(KINDS)
    part = options.documents // turns
    alone = part // 3
    documents = paragraphs(_BASE + (part + alone) * turns)
    idle, busy, beside = by_kind(), by_kind(), by_kind()
    ratios: dict[str, list[float]] = {f"{kind}_p{q}": [] for kind in KINDS for q in QUANTILES}
    solo: list[float] = []
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as temporary:
        folder = Path(temporary)
        async with Engine() as engine:
            docs = await engine.open(folder / "c")
            await docs.ingest(write(folder / "base.jsonl", documents, _BASE))
        async with Ingesting.started(
            str(folder / "c"), "cache.memory_mib=0", *options.set
        ) as server:
            asked = questions()
            address = server.server.first_line["address"]
            loads = {kind: Load(address, kind, asked) for kind in KINDS}
            await asyncio.gather(*(load.capacity(1) for load in loads.values()))
            capacity = {kind: await load.capacity(5) for kind, load in loads.items()}
            for number, kind in product(range(options.rounds), KINDS):
                load, rate = loads[kind], options.share * capacity[kind]
                draws = (random.Random(f"{number}{kind}") for _ in range(2))  # the same arrivals
                quiet = await load.arriving(rate, lambda t: t > options.seconds, next(draws))
                path = write(folder / f"{kind}{number}.jsonl", documents, part)
                ingest = asyncio.create_task(server.ingest(path))
                loud = await load.arriving(rate, ending(ingest), next(draws))
                report = await ingest
                beside[kind].append(report["documents"] / report["seconds"])
                path = write(folder / f"{kind}{number}-alone.jsonl", documents, alone)
                report = await server.ingest(path)
                solo.append(report["documents"] / report["seconds"])
                idle[kind] += quiet
                busy[kind] += loud
                for q in QUANTILES:
                    ratios[f"{kind}_p{q}"].append(ms(loud, q) / ms(quiet, q))
    kept = {k: statistics.median(beside[k]) / statistics.median(solo) for k in KINDS}
    return {
        "documents": part * turns,
        "share_of_capacity": options.share,
        **{f"{kind}_capacity_per_s": round(capacity[kind], 1) for kind in KINDS},
        **{f"{kind}_requests": [len(idle[kind]), len(busy[kind])] for kind in KINDS},
        **{
            f"{kind}_p{q}_ms_{name}": round(ms(took[kind], q), 2)
            for kind in KINDS
            for q in QUANTILES
            for name, took in (("idle", idle), ("ingesting", busy))
        },
        **{
            f"{kind}_p{q}_ratio": round(ms(busy[kind], q) / ms(idle[kind], q), 3)
            for kind in KINDS
            for q in QUANTILES
        },
        "rounds_ratios": {name: [round(r, 2) for r in values] for name, values in ratios.items()},
        "ingest_alone_docs_per_s": [round(value, 1) for value in solo],
        "ingest_beside_docs_per_s": {
            kind: [round(value, 1) for value in values] for kind, values in beside.items()
        },
        "ingest_kept": {kind: round(value, 3) for kind, value in kept.items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2000, help="ingested beside questions")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.3, help="of the measured capacity")
    parser.add_argument("--seconds", type=float, default=10, help="of idle questions in a round")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(asyncio.run(measure(options)), as_json=options.json)
