"""Data of the index tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ann(data: Path) -> Path:
    return data / "ann"
