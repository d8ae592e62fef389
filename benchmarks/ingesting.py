"""A server that ingests on command: `python -m benchmarks.ingesting COLLECTION [KEY=VALUE...]`.

The engine, the server and the ingest share one process, as they do for whoever adds documents while
people ask. A line on standard input names a file to ingest; a line of JSON on standard output says
what it took. The first line tells the address.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from benchmarks.wire import Process
from vivace import settings
from vivace.server.app import create
from vivace.server.run import address_of, listen, server
from vivace.server.state import AppState


class Ingesting:
    """The process, seen from the benchmark."""

    def __init__(self, process: asyncio.subprocess.Process, first: dict[str, Any]) -> None:
        self._process = process
        self.server = Process(process.pid, first)

    @classmethod
    @asynccontextmanager
    async def started(cls, collection: str, *given: str) -> AsyncIterator[Self]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.ingesting", collection, *given),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            yield cls(process, json.loads(await process.stdout.readline()))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    async def ingest(self, path: str) -> dict[str, float]:
        """What the report says, once everything is durable and searchable."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n".encode())
        answer: dict[str, float] = json.loads(await self._process.stdout.readline())
        return answer


async def main(collection: str, given: list[str]) -> None:
    overrides: dict[str, Any] = dict(pair.replace(".", "__").split("=", 1) for pair in given)
    state = AppState(settings.load(None, **overrides), [collection])
    bound = listen("127.0.0.1", 0)
    tell = asyncio.get_running_loop().run_in_executor
    running = server(
        state,
        create(state),
        lambda: print(json.dumps({"address": address_of(bound)}), flush=True),
    )
    async with state.opened():
        serving = asyncio.create_task(running.serve(sockets=[bound]))
        while line := (await tell(None, sys.stdin.readline)).strip():
            report = await state.collections[0].ingest(line)
            assert not report.errors, report.errors
            figures = {"documents": report.documents, "seconds": report.seconds}
            print(json.dumps(figures), flush=True)
        running.should_exit = True
        await serving
    bound.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1], sys.argv[2:]))
