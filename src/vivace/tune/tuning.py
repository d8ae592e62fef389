"""What a tuning found: the choice, everything that was tried, and what it was measured on."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np

from vivace.collection.plan_state import FLAT_UP_TO
from vivace.index.flat import FlatIndex
from vivace.protocols import VectorIndex
from vivace.run import host
from vivace.tune.workload import QuestionSource, WorkloadPattern
from vivace.types import Metric, Objective, Plan, Trial, Vectors

_SAMPLE: Final = 1_000
"""Evenly spaced rows that the fingerprint of the data reads."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A family with its parameters that was not tried, or not tried further, and why."""

    family: str
    params: Mapping[str, int]
    reason: str


@dataclass(frozen=True, slots=True)
class Tuning:
    """The result of tuning an index; every field is plain data."""

    objective: Objective
    chosen: Trial
    """Measured on the held-out third of the questions, which decided nothing."""
    trials: tuple[Trial, ...]
    """Everything measured on the other two thirds."""
    rejected: tuple[Rejected, ...]
    reason: str
    """One sentence."""
    rows: int
    dim: int
    metric: Metric
    source: QuestionSource
    queries: int
    pattern: WorkloadPattern
    machine: Mapping[str, str]
    data: str
    """A fingerprint (hexadecimal) of the vectors and the questions."""
    builds: int
    seconds: float
    interrupted: bool = False
    """Whether its budget or its user ended it early, so that the best so far was chosen."""

    @property
    def plan(self) -> Plan:
        return self.chosen.plan

    @property
    def conclusive(self) -> bool:
        """Whether the choice is a finding; only then is it applied.

        A tuning that was ended early falls back on the rows themselves, which for many rows says
        nothing.
        """
        fell_back = self.interrupted and self.plan.family == FlatIndex.family
        return not (fell_back and self.rows > FLAT_UP_TO)


def machine(root: Path = host.ROOT) -> dict[str, str]:
    """What decides times here: processor, cores of this process, AVX-512, versions."""
    lines = host.read(root / "proc/cpuinfo").splitlines()
    fields = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": str(host.cores(root)),
        "avx512": "yes" if "avx512f" in fields.get("flags", "").split() else "no",
        "faiss": version("faiss-cpu"),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def fingerprint(index: VectorIndex, questions: Vectors) -> str:
    """BLAKE2b-128 (hexadecimal) of the sizes, a sample of the rows, and all questions."""
    rows = index.vectors
    digest = blake2b(digest_size=16)
    digest.update(f"{rows.shape} {index.metric} {questions.shape}".encode())
    digest.update(np.ascontiguousarray(rows[:: max(1, len(rows) // _SAMPLE)]).tobytes())
    digest.update(np.ascontiguousarray(questions, np.float32).tobytes())
    return digest.hexdigest()
