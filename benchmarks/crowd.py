"""A crowd of clients in this process, for the benchmarks that need one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from benchmarks.report import DATA

SQUAD = DATA / "qa" / "squad2dev_en"
CLIENTS = 64


def questions(count: int) -> list[str]:
    with (SQUAD / "queries.jsonl").open() as lines:
        return [json.loads(line)["text"] for line in islice(lines, count)]


def corpus(folder: Path, documents: int) -> Path:
    """So many of squad's passages as a file to ingest."""
    path = folder / "corpus.jsonl"
    with (SQUAD / "corpus.jsonl").open() as lines:
        path.write_text("".join(islice(lines, documents)))
    return path


@dataclass
class Pass:
    """What one pass of all clients through all texts took."""

    seconds: float = 0.0
    each: list[float] = field(default_factory=list)
    """Seconds a call."""

    @property
    def rate(self) -> float:
        return len(self.each) / self.seconds


async def crowd(
    call: Callable[[str], Awaitable[object]], texts: Sequence[str], clients: int = CLIENTS
) -> Pass:
    """Closed loop: every client asks for its next text when it has an answer."""
    left = iter(texts)
    result = Pass()

    async def client() -> None:
        for text in left:
            start = time.perf_counter()
            await call(text)
            result.each.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    result.seconds = time.perf_counter() - start
    return result
