"""What the HTTP benchmarks share: processes on a core of their own, and a client that costs little.

The client reads bytes and parses nothing it does not need, so that what is measured is the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

_TICKS = os.sysconf("SC_CLK_TCK")
_TEXT = re.compile(rb'"content": ?"[^"]')


@dataclass(frozen=True)
class Process:
    """A command that told its address in its first line."""

    pid: int
    first_line: dict[str, Any]

    def cpu_seconds(self) -> float:
        """User and system time of all its threads, to 10 ms."""
        return self._ticks(11) + self._ticks(12)

    def kernel_seconds(self) -> float:
        """The system time alone: of a stream, what its system calls cost on this machine."""
        return self._ticks(12)

    def _ticks(self, field: int) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[field]) / _TICKS


@contextmanager
def vivace(*arguments: str, core: int | None = None) -> Iterator[Process]:
    """`vivace ARGUMENTS --json` as a process, on one core where one is named."""
    cores = os.sched_getaffinity(0) if core is None else {core}
    process = subprocess.Popen(
        [sys.executable, "-m", "vivace", *arguments, "--json"],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    assert process.stdout is not None
    try:
        yield Process(process.pid, json.loads(process.stdout.readline()))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


class Client:
    """One keep-alive connection."""

    def __init__(self, address: str) -> None:
        url = urlsplit(address)
        self._host, self._port, self._base = url.hostname, url.port, url.path.rstrip("/")

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of the response, which has to be 200 and of a known length."""
        head = await self._send(path, body)
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None, head
        return await self._reader.readexactly(int(length[1]))

    async def stream(self, path: str, body: bytes) -> tuple[float, int]:
        """Seconds from the request to the first text, and the number of texts."""
        start = time.perf_counter()
        await self._send(path, body)
        first, texts, seen = 0.0, 0, b""
        while b"[DONE]" not in seen or not seen.endswith(b"0\r\n\r\n"):
            more = await self._reader.read(65536)
            assert more, "the stream was cut"
            seen += more
            *whole, seen = seen.split(b"\n\n") if b"[DONE]" not in seen else [seen]
            found = sum(len(_TEXT.findall(event)) for event in whole)
            if found and not texts:
                first = time.perf_counter() - start
            texts += found
        return first, texts

    async def _send(self, path: str, body: bytes) -> bytes:
        self._writer.write(
            b"POST %b%b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (self._base.encode(), path.encode(), len(body), body)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head + await self._reader.read(1000)
        return head


def quantile(values: Sequence[float], q: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(q * len(ranked)))]


def last_core() -> int:
    """The core for the server; the client takes the others."""
    return max(os.sched_getaffinity(0))


def leave(core: int) -> None:
    """Take this process off a core, if it has another."""
    others = os.sched_getaffinity(0) - {core}
    if others:
        os.sched_setaffinity(0, others)
