"""kill -9 at random moments of an ingest: acknowledged documents are whole and searchable."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vivace.engine import Engine
from vivace.settings import load

INGEST = """
import asyncio, json, sys
from pathlib import Path
from vivace.engine import Engine
from vivace.settings import load
from vivace.types import Document

async def main():
    folder, start = Path(sys.argv[1]), int(sys.argv[2])
    async with Engine(load(embed__model="given:8", chunk={"tokens": 16, "overlap": 0})) as engine:
        engine.resources.embedder.embed = zeros
        docs = await engine.open(folder)
        for number in range(start, start + 100_000):
            words = " ".join(f"Word{number} part{part} of it." for part in range(6))
            await docs.add([Document(f"d{number}", words), Document(f"e{number}", "x " + words)])
            if number > start and number % 3 == 0:
                await docs.add([Document(f"d{number - 1}", "Changed" + words)])
            print(json.dumps(number), flush=True)

async def zeros(texts, *, kind):
    import numpy as np
    from vivace.types import Embedded
    return Embedded(np.ones((len(texts), 8), np.float32))

asyncio.run(main())
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.integration)])
async def test_kill_9_at_random_moments_loses_nothing_acknowledged(
    tmp_path: Path, kills: int
) -> None:
    rng = random.Random(11)
    folder, start = tmp_path / "collection", 0
    for _ in range(kills):
        acknowledged = run_and_kill(folder, start, after=rng.randint(1, 12), rng=rng)
        async with Engine(load(embed__model="given:8")) as engine:
            docs = await engine.open(folder)
            listed = {document.id: chunks for document, chunks in await docs.list()}
            for number in range(start, acknowledged + 1):
                for name in (f"d{number}", f"e{number}"):
                    document = await docs.get(name)
                    assert document is not None, f"{name} was acknowledged and is gone"
                    chunks = await docs.chunks(name)
                    assert len(chunks) == listed[name]
                    covered = {at for c in chunks for at in range(c.start, c.end)}
                    missing = [
                        document.text[at] for at in range(len(document.text)) if at not in covered
                    ]
                    assert "".join(missing).strip() == "", f"{name} is partial"
                    assert all(document.text[c.start : c.end] == c.text for c in chunks)
            found = await docs.search(f"word{acknowledged}")
            assert f"e{acknowledged}" in {hit.chunk.document_id for hit in found.hits}
            # one or two documents may exist that were not acknowledged, and are whole
            assert len(listed) - 2 * (acknowledged + 1) in (0, 1, 2)
            for name in set(listed) - {f"{x}{n}" for n in range(acknowledged + 1) for x in "de"}:
                assert listed[name] == len(await docs.chunks(name)) > 0
                await docs.delete(name)
        start = acknowledged + 1


def run_and_kill(folder: Path, start: int, *, after: int, rng: random.Random) -> int:
    """Start an ingest and kill it after its `after`-th acknowledgement; returns the last one."""
    command = [sys.executable, "-c", INGEST, str(folder), str(start)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            last = int(json.loads(line))
            if last - start + 1 >= after:
                break
        # the kill comes at a random moment of the next transactions
        for _ in range(rng.randint(0, 200_000)):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        process.stdout.close()
    return int(rest[-1]) if rest else last
