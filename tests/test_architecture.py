"""The tour of the house is true: its files exist, and a search passes those it lists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
MOST = 25


def listed(name: str) -> list[str]:
    """The files of a list, in order."""
    text = PAGE.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
    return [
        path
        for line in re.findall(r"^\d+\. (.*?):", text, re.M)
        for path in re.findall(r"`([\w/]+\.py)`", line)
    ]


@pytest.mark.parametrize("name", ["files of a search", "files of an ingest"])
def test_every_listed_file_exists_and_is_listed_once(name: str) -> None:
    files = listed(name)
    assert len(set(files)) == len(files) > 10
    assert not [path for path in files if not (ROOT / "src" / "vivace" / path).is_file()]


def test_a_search_is_handed_through_the_listed_files_and_no_others(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.traced_search", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["status"] == 200
    files = listed("files of a search")
    assert len(files) <= MOST
    assert set(found["handed"]) == set(files)


def test_every_folder_has_its_heading() -> None:
    folders = {
        path.name
        for path in (ROOT / "src" / "vivace").iterdir()
        if (path / "__init__.py").is_file()
    }
    headings = " ".join(re.findall(r"^## (.*)$", PAGE, re.MULTILINE))
    assert not [name for name in sorted(folders) if f"{name}/" not in headings]
