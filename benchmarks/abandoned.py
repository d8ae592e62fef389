"""What is left of requests whose clients have gone?

    python -m benchmarks.abandoned [--requests N] [--json]

Clients leave the server, a process of its own, in the queue (forty at once), in the embedding and
in the search (alone, at a random moment of the time a search takes), and in a stream from a model
server after its first text. After a fifth of the requests, the warm-up, threads, open files and
resident memory are to stay as they are. "Stopped" is how long the server went on working after the
last of some clients had left: until it used less than a tenth of a core for 30 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.http import UNCACHED, prepare, questions
from benchmarks.report import show
from benchmarks.wire import Client, Process, quantile, vivace
from vivace.testing.fake_llm import FakeModel

_QUEUED = 40
_PLACES = ("queue", "alone", "stream")
_STILL = 0.03
"""Seconds."""


class Watched:
    """What the server's process holds and uses."""

    def __init__(self, server: Process) -> None:
        self._folder = Path(f"/proc/{server.pid}")
        self._pid = server.pid

    def held(self) -> dict[str, int]:
        return {
            "threads": sum(1 for _ in (self._folder / "task").iterdir()),
            "files": sum(1 for _ in (self._folder / "fd").iterdir()),
            "kib": int((self._folder / "statm").read_text().split()[1]) * 4,
        }

    def ran(self) -> float:
        """Seconds of all its threads on a core, exactly."""
        tasks = (self._folder / "task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    async def stopped(self) -> float:
        """Seconds from now until it does next to nothing."""
        start = time.perf_counter()
        seen = [(start, self.ran())]
        while True:
            await asyncio.sleep(0.002)
            now = time.perf_counter()
            seen.append((now, self.ran()))
            while now - seen[0][0] > _STILL:
                if seen[-1][1] - seen[0][1] < 0.1 * _STILL:
                    return seen[0][0] - start
                seen.pop(0)


def request(kind: str, text: str) -> bytes:
    if kind == "stream":
        message = {"role": "user", "content": text}
        path, value = "/v1/chat/completions", {"stream": True, "messages": [message]}
        value["model"] = "vivace"
    else:
        path, value = "/v1/search", {"query": text}
    body = json.dumps(value).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@asynccontextmanager
async def leaving(address: str, sent: bytes) -> AsyncIterator[asyncio.StreamReader]:
    url = urlsplit(address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(sent)
    try:
        yield reader
    finally:
        writer.transport.abort()


async def abandon(
    place: str, address: str, asked: Iterator[str], took: float, draw: random.Random
) -> int:
    """Requests of some clients, all of which have left; returns how many there were."""
    clients = {"queue": _QUEUED, "alone": 1, "stream": 10}[place]

    async def one() -> None:
        async with leaving(address, request(place, next(asked))) as reader:
            if place == "stream":
                await reader.readuntil(b'"content"')
            else:
                await asyncio.sleep(draw.uniform(0, took))

    await asyncio.gather(*(one() for _ in range(clients)))
    return clients


async def usual(address: str, asked: Iterator[str]) -> float:
    """Seconds that a search takes when its client waits: the median."""
    took = []
    async with Client(address) as client:
        for _ in range(50):
            start = time.perf_counter()
            await client.post("/v1/search", json.dumps({"query": next(asked)}).encode())
            took.append(time.perf_counter() - start)
    return quantile(took, 0.5)


async def measure(options: argparse.Namespace) -> dict[str, object]:
    stops: dict[str, list[float]] = {place: [] for place in _PLACES}
    held: list[dict[str, int]] = []
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as temporary, ExitStack() as stack:
        where = await prepare(Path(temporary), 200)
        fake = stack.enter_context(
            FakeModel(
                mode="scripted", text="word " * 5_000, delay_ms=20, slots=100, reports_slots=True
            )
        )
        model = f"generate.model=openai:fake@{fake.url}"
        admitted = ("--set", "admission.search=512", "--set", "admission.chat=512")
        uncached = (*UNCACHED, "--set", model, *admitted)
        arguments = ("serve", "--collection", where, "--port", "0", *uncached)
        server = stack.enter_context(vivace(*arguments))
        watched = Watched(server)
        address, asked = server.first_line["address"], questions()
        took = await usual(address, asked)
        done = 0
        for number, place in enumerate(cycle(("queue", *["alone"] * 10, "stream"))):
            if done >= options.requests:
                break
            done += await abandon(place, address, asked, took, draw)
            # some alone leave one upon another, as they do
            if place != "alone" or number % 4 == 0:
                stops[place].append(await watched.stopped())
            if done * 20 // options.requests > len(held):
                held.append(watched.held())
        await asyncio.to_thread(fake.wait, lambda now: now.running == 0)
        await watched.stopped()
        answered = await usual(address, asked)
        held.append(watched.held())
    warm = held[len(held) // 5]
    return {
        "requests": done,
        "still_streaming_upstream": fake.statistics().running,
        **{f"grown_{name}": held[-1][name] - warm[name] for name in warm},
        "held_warm": warm,
        "rounds_kib": [row["kib"] for row in held],
        **{
            f"stopped_{place}_p{q * 100:g}_ms": round(quantile(values, q) * 1e3, 1)
            for place, values in stops.items()
            for q in (0.5, 0.95, 1)
        },
        "search_ms_before_and_after": [round(took * 1e3, 2), round(answered * 1e3, 2)],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(asyncio.run(measure(options)), as_json=options.json)
