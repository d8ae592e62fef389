"""One computation over several processes, and what happens when it dies with its process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.services import Valkey

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]


@contextmanager
def askers(
    url: str, count: int, *, requests: int, lease: float, takes: float
) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have connected and wait for a line before they ask."""
    command = [sys.executable, "-m", "tests.cache.tiers.asker", url]
    command += [str(requests), str(lease), str(takes)]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        for process in processes:
            assert _line(process) == "ready"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _ask(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("ask\n")
    process.stdin.flush()


def test_a_hundred_misses_in_four_processes_are_one_computation(valkey: Valkey) -> None:
    with askers(valkey.url, 4, requests=25, lease=2.0, takes=0.3) as processes:
        for process in processes:
            _ask(process)
        said = [process.communicate()[0].split("\n") for process in processes]
    lines = [line for one in said for line in one if line]
    assert lines.count("computing") == 1
    assert lines.count("computed") == 1
    assert lines.count("got the value") == 100
    assert valkey.ask("KEYS", "*lease*") == []


def test_a_holder_that_takes_longer_than_the_lease_keeps_it(valkey: Valkey) -> None:
    with askers(valkey.url, 2, requests=2, lease=0.5, takes=1.5) as processes:
        for process in processes:
            _ask(process)
        said = [process.communicate()[0].split("\n") for process in processes]
    lines = [line for one in said for line in one if line]
    assert lines.count("computing") == 1
    assert lines.count("got the value") == 4


def test_a_holder_that_is_killed_hands_over_within_the_lease(valkey: Valkey) -> None:
    lease = 1.5
    with askers(valkey.url, 1, requests=1, lease=lease, takes=60.0) as (leader,):
        _ask(leader)
        assert _line(leader) == "computing"
        with askers(valkey.url, 3, requests=10, lease=lease, takes=0.2) as followers:
            for follower in followers:
                _ask(follower)
            leader.kill()
            leader.wait()
            killed = time.monotonic()
            said = [follower.communicate()[0].split("\n") for follower in followers]
            took = time.monotonic() - killed
    lines = [line for one in said for line in one if line]
    assert lines.count("computing") == 1
    assert lines.count("got the value") == 30
    # what it took beyond the lease is the computation and the end of three processes
    assert took < lease + 10
