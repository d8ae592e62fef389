"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support import profiles

ROOT = Path(__file__).parents[1]
MEMORY = Path("/dev/shm")
profiles.register()


def pytest_configure() -> None:
    """Keep temporary files in memory where there is room: durable writes wait for the disk."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data; the test is skipped where there is none."""
    folder = Path(os.environ.get("VIVACE_TEST_DATA", ROOT / "../shared/data")).resolve()
    if not folder.is_dir():
        if os.environ.get("VIVACE_TEST_REQUIRE_DATA"):
            pytest.fail(f"{folder} is required and missing")
        pytest.skip("VIVACE_TEST_DATA names no folder")
    return folder


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's settings or collections reaches a test, nor the other way round."""
    for name in list(os.environ):
        if name.startswith("VIVACE_") and not name.startswith("VIVACE_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
