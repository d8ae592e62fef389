"""Small real indexes and questions that tuning tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vivace.index.flat import FlatIndex
from vivace.testing.conformance import questions, vectors
from vivace.tune.workload import Workload

ROWS = 6_000


@pytest.fixture(scope="session")
def flat() -> FlatIndex:
    """6,000 made-up vectors of 64 dimensions."""
    return FlatIndex.build(np.arange(ROWS, dtype=np.int64), vectors(ROWS, 64))


@pytest.fixture(scope="session")
def workload() -> Workload:
    return Workload(questions(240, 64), "given")


@pytest.fixture(scope="session")
def sentences(data: Path) -> tuple[FlatIndex, Workload]:
    """8,000 real sentence vectors, and 500 questions of which none is among them."""
    base = np.load(data / "ann" / "sentences40k.base.f16.npy", mmap_mode="r")[:8_000]
    asked = np.load(data / "ann" / "sentences40k.queries.f16.npy").astype(np.float32)
    flat = FlatIndex.build(np.arange(len(base), dtype=np.int64), np.ascontiguousarray(base))
    return flat, Workload(asked, "given")
