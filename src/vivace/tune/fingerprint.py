"""What was something measured on? The machine, and the data."""

from __future__ import annotations

import platform
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import numpy as np

from vivace.protocols import VectorIndex
from vivace.run import host
from vivace.types import Vectors

_SAMPLE = 1_000
"""Rows that stand for all, evenly spaced."""


def machine(root: Path = host.ROOT) -> dict[str, str]:
    """What decides times here: processor, cores of this process, AVX-512, versions."""
    lines = host.read(root / "proc/cpuinfo").splitlines()
    told = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    return {
        "cpu": told.get("model name") or platform.processor() or platform.machine(),
        "cores": str(host.cores(root)),
        "avx512": "yes" if "avx512f" in told.get("flags", "").split() else "no",
        "faiss": version("faiss-cpu"),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def data(index: VectorIndex, questions: Vectors) -> str:
    """BLAKE2b-128 (hexadecimal) of the size, of a sample of the rows, and of all questions."""
    rows = index.vectors
    digest = blake2b(digest_size=16)
    digest.update(f"{rows.shape} {index.metric} {questions.shape}".encode())
    digest.update(np.ascontiguousarray(rows[:: max(1, len(rows) // _SAMPLE)]).tobytes())
    digest.update(np.ascontiguousarray(questions, np.float32).tobytes())
    return digest.hexdigest()
