"""Checksums name what is damaged; replacing is all or nothing."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from vivace.index import files
from vivace.index.files import FileEntry, damaged, entry, replace


def test_an_entry_is_size_and_checksum(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(data)
    assert entry(tmp_path / "a") == FileEntry("a", len(data), zlib.crc32(data))
    assert files.checksum(tmp_path / "a", 1_500_000) == (zlib.crc32(data[:1_500_000]), 1_500_000)
    assert files.write(tmp_path / "b", [data[:7], b"", memoryview(data)[7:]]) == FileEntry(
        "b", len(data), zlib.crc32(data)
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_damage_is_named(tmp_path: Path, threads: int) -> None:
    for name, size in {"cut": 5000, "flipped": 5000, "gone": 10, "grown": 8, "ok": 9}.items():
        (tmp_path / name).write_bytes(os.urandom(size))
    (tmp_path / "empty").write_bytes(b"")
    entries = [entry(path) for path in sorted(tmp_path.iterdir())]
    assert damaged(tmp_path, entries, threads=threads) == []
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:4096])
    data = bytearray((tmp_path / "flipped").read_bytes())
    data[-1] ^= 1
    (tmp_path / "flipped").write_bytes(data)
    (tmp_path / "gone").unlink()
    with (tmp_path / "grown").open("ab") as file:
        file.write(b"x")
    assert damaged(tmp_path, entries, threads=threads) == ["cut", "flipped", "gone", "grown"]
    assert damaged(tmp_path, [], threads=threads) == []


def test_a_folder_in_a_files_place_is_damage(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    size = (tmp_path / "a").stat().st_size
    assert damaged(tmp_path, [FileEntry("a", size, 0)]) == ["a"]


def test_replacing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.json"
    replace(path, b"one")
    replace(path, b"two")
    assert path.read_bytes() == b"two"

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace(path, b"three")
    assert path.read_bytes() == b"two"
