"""A small file is whole, or known not to be."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from vivace.collection import plan_state
from vivace.collection.checksummed_json import ChecksummedJson
from vivace.collection.segment_directory import (
    MANIFEST,
    Manifest,
    read_manifest,
    write_manifest,
)
from vivace.errors import CorruptIndex
from vivace.types import Plan


class Value(msgspec.Struct):
    number: int
    text: str = ""


KIND = ChecksummedJson(Value, "value", format=2, oldest=1, fix="Do it again")
WHOLE = Value(1234, 'with "value" and \u4e2d\u6587')


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    assert KIND.read(path) is None
    KIND.write(path, WHOLE)
    assert KIND.read(path) == WHOLE
    assert [file.name for file in tmp_path.iterdir()] == ["value.json"]


def test_a_damaged_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Whichever it is: the value as it was, or an error that names the file."""
    path = tmp_path / "value.json"
    KIND.write(path, WHOLE)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for harmed in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(harmed)
            told: CorruptIndex | None = None
            found: Value | None = None
            try:
                found = KIND.read(path)
            except CorruptIndex as error:
                told = error
            if told is None:
                assert found == WHOLE  # of a format that reads this one too
            else:
                assert str(path) in told.what
                assert told.fix == "Do it again"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"format":1,"oldest":1}'])
def test_a_file_of_other_content_is_corrupt(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(CorruptIndex, match=r"value\.json cannot be read"):
        KIND.read(path)


def test_an_unreadable_file_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CorruptIndex, match="cannot be read"):
        KIND.read(tmp_path)


def test_a_later_format_is_read_where_it_allows_that(tmp_path: Path) -> None:
    """A later format is read where it says that this one's reader can."""
    path = tmp_path / "value.json"
    ChecksummedJson(Value, "value", format=3, oldest=2, fix="").write(path, WHOLE)
    assert KIND.read(path) == WHOLE
    ChecksummedJson(Value, "value", format=3, oldest=3, fix="").write(path, WHOLE)
    with pytest.raises(CorruptIndex, match="format 3; this Vivace reads up to 2"):
        KIND.read(path)


def test_files_of_earlier_versions_are_read_and_written(tmp_path: Path) -> None:
    """As they were written when plan and manifest each had code of their own."""
    (tmp_path / plan_state.FILE).write_bytes(
        b'{"format":1,"oldest":1,"crc32":2591545025,"planned":{"plan":{"family":"flat","params":{},'
        b'"effort":0,"stages":null},"objective":{"recall":0.95,"p95_ms":null,"memory_bytes":null,'
        b'"k":10},"rows":3,"source":"","time":"2026-01-01T00:00:00Z"}}'
    )
    (tmp_path / MANIFEST).write_bytes(
        b'{"format":1,"oldest":1,"crc32":1072492030,"manifest":{"uuid":"u","embedder":"e","dim":2,'
        b'"metric":"cosine","generation":1,"epoch":2,"stamp":"s","next_id":3,"segments":[]}}'
    )
    plan = plan_state.StoredPlan(Plan("flat"), rows=3, time=datetime(2026, 1, 1, tzinfo=UTC))
    assert plan_state.PLAN_FILE.read(tmp_path / plan_state.FILE) == plan
    entries = Manifest("u", "e", 2, "cosine", 1, 2, "s", 3, ())
    assert read_manifest(tmp_path) == entries
    before = [(tmp_path / name).read_bytes() for name in (plan_state.FILE, MANIFEST)]
    plan_state.PLAN_FILE.write(tmp_path / plan_state.FILE, plan)
    write_manifest(tmp_path, entries)
    assert [(tmp_path / name).read_bytes() for name in (plan_state.FILE, MANIFEST)] == before
