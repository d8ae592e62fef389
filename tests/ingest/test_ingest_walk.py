"""Which files are there to read?"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from vivace.ingest.walk import Found, FoundFile, walk
from vivace.types import Failure, Skipped


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def names(folder: Path, found: Iterable[Found]) -> list[str]:
    return [
        (
            item.path.as_posix()
            if isinstance(item, FoundFile)
            else f"{type(item).__name__} {item.source}"
        ).replace(folder.as_posix() + "/", "")
        for item in found
    ]


def test_directories_are_walked_in_order(tmp_path: Path) -> None:
    make(
        tmp_path, "b.txt", "a/z.md", "a/b/c.html", "c.JSONL", "a/.x.md", ".git/a.txt", "d.bin", "e"
    )
    found = list(walk([tmp_path]))
    assert names(tmp_path, found) == [
        "Skipped .git",
        "Skipped a/.x.md",
        "a/b/c.html",
        "a/z.md",
        "b.txt",
        "c.JSONL",
        "Skipped d.bin",
        "Skipped e",
    ]
    reasons = [item.reason for item in found if isinstance(item, Skipped)]
    assert reasons[0] == reasons[1] == "is hidden"
    assert ".bin" in reasons[2]
    assert "without a suffix" in reasons[3]


def test_a_file_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "d/a.txt", "d/b.txt")
    (tmp_path / "d/link.txt").symlink_to(tmp_path / "d/a.txt")
    monkeypatch.chdir(tmp_path / "d")
    paths = [Path("b.txt"), tmp_path / "d", Path("../d/b.txt"), Path()]
    assert names(tmp_path, list(walk(paths))) == ["d/b.txt", "d/a.txt"]


def test_links_are_followed_without_loops(tmp_path: Path) -> None:
    make(tmp_path, "in/a.txt", "out/b.txt")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/out").symlink_to(tmp_path / "out")
    (tmp_path / "in/dead.txt").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path, walk([tmp_path / "in"], links="anywhere")) == [
        "in/a.txt",
        "Skipped in/dead.txt",
        "in/out/b.txt",
    ]


def test_named_paths_that_cannot_be_read_are_failures(tmp_path: Path) -> None:
    make(tmp_path, "a.bin", "Makefile", ".hidden.txt", ".hidden/a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    paths = [
        tmp_path / n for n in ("a.bin", "Makefile", "none", "pipe.txt", ".hidden.txt", ".hidden")
    ]
    found = list(walk(paths))
    assert names(tmp_path, found) == [
        "Failure a.bin",
        "Failure Makefile",
        "Failure none",
        "Failure pipe.txt",
        ".hidden.txt",
        ".hidden/a.txt",
    ]
    failures = [item for item in found if isinstance(item, Failure)]
    assert all(failure.fix for failure in failures)
    assert ".md" in failures[0].fix
    assert failures[2].reason == "does not exist"


def test_an_empty_directory_yields_nothing(tmp_path: Path) -> None:
    assert list(walk([tmp_path])) == []
    assert list(walk([])) == []


def test_special_files_are_skipped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (found,) = walk([tmp_path])
    assert isinstance(found, Skipped)


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (PermissionError(13, "denied"), "may not be read"),
        (FileNotFoundError(2, "gone"), "does not exist"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_a_directory_that_cannot_be_listed_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: OSError, reason: str
) -> None:
    make(tmp_path, "a/x.txt", "b/y.txt")
    scandir = os.scandir

    def failing(path: str) -> object:
        if path.endswith("a"):
            raise raised
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    found = list(walk([tmp_path]))
    assert names(tmp_path, found) == ["Failure a", "b/y.txt"]
    assert isinstance(found[0], Failure)
    assert reason in found[0].reason


def test_a_file_that_vanishes_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.txt", "b.txt")
    found = walk([tmp_path])
    first = next(found)
    assert isinstance(first, FoundFile)
    assert first.path == tmp_path / "a.txt"
    (tmp_path / "b.txt").unlink()
    assert [item.reason for item in found if isinstance(item, Skipped)] == ["has vanished"]


def test_a_name_that_is_not_utf_8_is_a_failure(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff.txt")).write_text("x")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    (found,) = walk([tmp_path])
    assert isinstance(found, Failure)
    assert found.source.endswith("/\ufffd.txt")
