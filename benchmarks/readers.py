"""How fast is each format read, and how much memory does any process need for it?

    python -m benchmarks.readers [--seconds S] [--whole] [--json]

Every file under $VIVACE_TEST_DATA/documents that can be read is read again and again, format by
format, through the same entry as an ingest: text in this process, binary formats in the sandbox
with all its workers. MB/s are of file bytes. `--whole` also ingests the folder once with the
built-in model, as `vivace ingest` does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.report import DATA, show
from vivace.collection.preparation import from_paths
from vivace.engine import Engine
from vivace.ingest import formats
from vivace.ingest.sandbox import Sandbox
from vivace.settings import Parse
from vivace.types import Document

FOLDER = DATA / "documents"
MAX_BYTES = 64 << 20


class Peak:
    """The most resident bytes of this process and of any of its children, looked at every 10 ms."""

    def __init__(self) -> None:
        self.parent = self.child = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        own = os.getpid()
        while not self._stop.wait(0.01):
            self.parent = max(self.parent, _peak_of(own))
            for task in Path(f"/proc/{own}/task").iterdir():
                try:
                    children = (task / "children").read_text().split()
                except OSError:
                    continue
                self.child = max([self.child, *(_peak_of(int(pid)) for pid in children)])


def _peak_of(pid: int) -> int:
    """The kernel's high-water mark of a process (VmHWM), so that nothing between looks is lost."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    marks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(marks[0]) << 10 if marks else 0


def by_format(seconds: float) -> dict[str, Any]:
    """MB/s, characters and failures of each suffix."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix.lower() in formats.SUFFIXES and "malformed" not in path.parts:
            groups[path.suffix.lower()].append(path)
    figures: dict[str, Any] = {}
    sandbox = Sandbox()
    try:
        for suffix, paths in groups.items():
            figures[suffix] = _rate(paths, sandbox, seconds)
    finally:
        sandbox.close()
    return figures


def _rate(paths: list[Path], sandbox: Sandbox, seconds: float) -> dict[str, float]:
    rounds = 0
    size = sum(path.stat().st_size for path in paths)
    _read(paths, sandbox)  # starts workers and loads libraries
    start = time.perf_counter()
    while (took := time.perf_counter() - start) < seconds:
        chars, failed = _read(paths, sandbox)
        rounds += 1
    return {
        "files": len(paths),
        "MB/s": round(size * rounds / took / 1e6, 2),
        "files/s": round(len(paths) * rounds / took, 1),
        "characters": chars,
        "refused": failed,
    }


def _read(paths: list[Path], sandbox: Sandbox) -> tuple[int, int]:
    chars = failed = 0
    for found in from_paths(paths, max_bytes=MAX_BYTES, parse=Parse(), sandbox=sandbox):
        if isinstance(found, Document):
            chars += len(found.text)
        else:
            failed += 1
    return chars, failed


def refusal() -> dict[str, float]:
    """Seconds until the bomb is refused: with a worker to be started, and with a warm one."""
    bomb = FOLDER / "malformed" / "zipbomb_219x.docx"
    sandbox = Sandbox()
    took = []
    try:
        for _ in range(2):
            start = time.perf_counter()
            list(sandbox.read(bomb))
            took.append(round(time.perf_counter() - start, 4))
    finally:
        sandbox.close()
    return {"cold_s": took[0], "warm_s": took[1]}


async def whole() -> dict[str, Any]:
    """One ingest of the folder into a new collection, the model and the store included."""
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as temporary:
        start = time.perf_counter()
        async with Engine() as engine:
            docs = await engine.open(Path(temporary) / "c")
            report = await docs.ingest(FOLDER)
        return {
            "seconds": round(time.perf_counter() - start, 2),
            "documents": report.documents,
            "chunks": report.chunks,
            "errors": len(report.errors),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each format")
    parser.add_argument("--whole", action="store_true", help="ingest the folder as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with Peak() as peak:
        results: dict[str, Any] = {"formats": by_format(options.seconds), "bomb": refusal()}
        results["reading_peak_mib"] = {"parent": peak.parent >> 20, "worker": peak.child >> 20}
        if options.whole:
            results["ingest"] = asyncio.run(whole())
            results["peak_mib"] = {"parent": peak.parent >> 20, "worker": peak.child >> 20}
    show(results, as_json=options.json)
