"""What every benchmark prints beside its figures, and how."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("VIVACE_TEST_DATA", Path(__file__).parents[1] / "../shared/data"))


def circumstances() -> dict[str, Any]:
    """The machine, the commit and the versions that decide a figure."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    flags = Path("/proc/cpuinfo").read_text()
    return {
        "commit": commit,
        "python": platform.python_version(),
        "cpu": cpu,
        "avx512_vnni": "avx512_vnni" in flags,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "onnxruntime": version("onnxruntime"),
        "faiss": version("faiss-cpu"),
    }


def show(figures: dict[str, Any], *, as_json: bool) -> None:
    """The figures for a person on stderr, or as the last line of stdout."""
    value = {**figures, "circumstances": circumstances()}
    if as_json:
        print(json.dumps(value))
        return
    for key, item in value.items():
        print(f"{key:28} {item}", file=sys.stderr)
