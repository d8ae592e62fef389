"""kill -9 at random moments of every change to a collection: ingest, seal, merge, compact.

The killed process has reported every change that was acknowledged to it. Afterwards the collection
opens and holds exactly those, and all or nothing of the interrupted change. Once another process
has written, every file left is named by the collection. After a full merge it answers as one built
from scratch.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.collection import known

ALL = 200
ROOT = Path(__file__).parents[2]


async def work(folder: Path, seed: int) -> None:
    """Change the collection at random for ever; print a line before and after every change."""
    rng = random.Random(seed)
    async with known.engine() as engine:
        docs = await engine.open(folder)
        versions = await known.state(docs)
        highest = max([*versions.values(), 0])
        while True:
            highest += 1
            (kind,) = rng.choices(
                ("put", "delete", "compact", "rebuild", "reembed"), (60, 20, 8, 8, 4)
            )
            some = rng.sample(range(60), rng.randint(1, 12))
            if kind == "put":
                change: dict[int, int | None] = dict.fromkeys(some, highest)
            else:
                change = dict.fromkeys(some if kind == "delete" else (), None)
            tell({"begin": kind, "change": change})
            if kind == "put":
                await known.put(docs, dict.fromkeys(some, highest))
            elif kind == "delete":
                await docs.delete([f"d{number}" for number in some])
            elif kind == "compact":
                await docs.compact()
            else:
                await docs.rebuild(reembed=kind == "reembed")
            tell({"done": kind, "change": change})


def tell(line: object) -> None:
    print(json.dumps(line), flush=True)


def killed(folder: Path, seed: int, rng: random.Random) -> list[dict[str, object]]:
    """The lines of a worker that was killed at some moment after it began its n-th change."""
    command = [sys.executable, "-m", "tests.collection.test_kill_points", str(folder), str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    lines = []
    after = rng.randint(1, 25)
    try:
        for line in process.stdout:
            lines.append(line)
            after -= '"begin"' in line
            if not after:
                break
        until = time.perf_counter() + rng.choice((0, 0.001, 0.005, 0.02, 0.1)) * rng.random()
        while time.perf_counter() < until:  # any moment, inside a write, too
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
    lines += rest.splitlines()
    assert process.returncode == -signal.SIGKILL, "the worker failed by itself"
    return [json.loads(line) for line in lines if line.endswith(("}\n", "}"))]


def changed(versions: dict[int, int], change: dict[str, int | None]) -> dict[int, int]:
    after = dict(versions)
    for number, version in change.items():
        if version is None:
            after.pop(int(number), None)
        else:
            after[int(number)] = version
    return after


async def kill_and_look(folder: Path, fresh: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    versions: dict[int, int] = {}
    for number in range(kills):
        said = await asyncio.to_thread(killed, folder, seed * 1000 + number, rng)
        maybe = versions
        for line in said:
            change = line["change"]
            assert isinstance(change, dict)
            if "done" in line:
                versions = maybe = changed(versions, change)
            else:
                maybe = changed(versions, change)
        doing = f"kill {number} of seed {seed}, while {said[-1] if said else 'opening'}"
        try:
            versions = await look(folder, fresh / str(number), versions, maybe)
        except BaseException as error:
            error.add_note(doing)
            raise


async def look(
    folder: Path, fresh: Path, versions: dict[int, int], maybe: dict[int, int]
) -> dict[int, int]:
    """Compare the collection with what it must hold; returns the versions it has."""
    async with known.engine() as engine:
        docs = await engine.open(folder)
        there = await known.state(docs)
        assert there in (versions, maybe)
        gone = [known.word(n, v) for n, v in versions.items() if there.get(n) != v]
        await known.agrees(docs, there, gone=gone[:10])
        assert await docs.verify() == []
        await known.put(docs, {99: 0})
        await docs.delete("d99")
        await docs.close()
        assert await asyncio.to_thread(known.unnamed, folder) == []
        docs = await engine.open(folder)
        await docs.compact()
        other = await engine.open(fresh)
        if there:
            await known.put(other, there)
        await other.compact()
        assert await known.everything(docs) == await known.everything(other)
        await docs.close()
        await other.close()
    return there


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.integration)])
async def test_kills_at_random_moments_leave_a_whole_collection(tmp_path: Path, kills: int) -> None:
    await kill_and_look(tmp_path / "collection", tmp_path / "fresh", kills, 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
async def test_many_kills(tmp_path: Path, seed: int) -> None:
    """Two hundred kills, with a collection for each seed."""
    await kill_and_look(tmp_path / "collection", tmp_path / "fresh", ALL // 10, seed)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))
