"""The contest of vector indexes, on few rows: what it prints, and by what it chooses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.ann import data
from benchmarks.ann.contestants import Built
from benchmarks.ann.judging import entrant
from vivace.testing.conformance import questions, vectors
from vivace.types import Footprint, Ids, Vectors

ROOT = Path(__file__).parents[1]
KEYS = {"name", "recall", "p50_ms", "p95_ms", "qps", "build_seconds"}
KEYS |= {"bytes_resident", "bytes_mapped"}


def ran(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    np.save(folder / "base.npy", vectors(1_500, 32).astype(np.float16))
    np.save(folder / "queries.npy", questions(90, 32))
    command = [sys.executable, "-m", "benchmarks.ann", "--json", "--recall", "0.9", "--budget", "3"]
    command += ["--base", str(folder / "base.npy"), "--queries", str(folder / "queries.npy")]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    value: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return value


def test_the_last_line_is_the_list(tmp_path: Path) -> None:
    found = ran(tmp_path, "--only", "vivace,pq,numpy", "--plot", str(tmp_path / "plot.svg"))
    assert [item["name"] for item in found] == ["vivace", "FAISS PQ8x4fs,RFlat", "numpy exact"]
    for item in found:
        assert item.keys() >= KEYS
        assert item["recall"] >= 0.9
        assert item["questions"] == 30
        assert item["p50_ms"] <= item["p95_ms"]
    assert found[-1]["recall"] == 1.0
    assert found[-1]["bytes_resident"] == 1_500 * 32 * 4
    assert "reason" in found[0]
    root = ElementTree.fromstring((tmp_path / "plot.svg").read_text("utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


@pytest.fixture
def contest() -> data.Contest:
    return data.contest(
        vectors(1_500, 32), questions(90, 32), None, metric="cosine", k=10, floor=0.9
    )


def test_neighbours_are_the_exact_ones(contest: data.Contest) -> None:
    asked = contest.held.vectors
    rows = np.asarray(contest.base, np.float32)
    true = np.argsort(-(asked @ rows.T), axis=1, kind="stable")[:, :10]
    assert np.array_equal(contest.held.true.ids, true)
    distances = ((asked[:, None] - rows[None]) ** 2).sum(axis=2)
    near = np.argsort(distances, axis=1, kind="stable")[:, :10]
    assert np.array_equal(data.exact(rows, asked, 10, "l2"), near)


def test_the_cheapest_that_keeps_the_floor_is_chosen(contest: data.Contest) -> None:
    rows = np.asarray(contest.base, np.float32)

    def finding(share: float, work: int) -> Any:
        def search(queries: Vectors) -> Ids:
            for _ in range(work):
                found = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :10]
            found[:, round(10 * share) :] = -1
            return found

        return search

    settings = {"poor": finding(0.5, 1), "dear": finding(1.0, 8), "good": finding(1.0, 2)}
    built = Built("made up", settings, 0.0, Footprint(0, 0))
    assert entrant(contest, built, swept=True).setting == "good"
    # where nothing keeps it, what finds most, and its recall says so
    poor = Built(
        "made up", {"poor": finding(0.5, 1), "poorer": finding(0.2, 1)}, 0, Footprint(0, 0)
    )
    chosen = entrant(contest, poor, swept=True)
    assert chosen.setting == "poor"
    assert chosen.recall.mean == pytest.approx(0.5)
