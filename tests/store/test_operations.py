"""Decisions in a file that may be damaged, missing or unwritable at any time."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from vivace.store.operations import ASIDE, FILE, Operations
from vivace.trace import Trace
from vivace.types import Decision


def decision(number: int, **fields: object) -> Decision:
    when = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return Decision("default", None, f"plan {number}", "Because.", time=when, **fields)  # type: ignore[arg-type]


@pytest.fixture
def trace() -> Trace:
    return Trace()


def opened(folder: Path, trace: Trace, **options: int) -> Operations:
    return Operations(folder, trace, **options)


def test_a_decision_survives_json() -> None:
    full = Decision(
        "plan",
        {"family": "flat"},
        {"family": "pq", "effort": 2},
        "It is faster.",
        evidence={"trials": [{"recall": 0.97, "p95_ms": 1.5}]},
        rejected=({"family": "hnsw"},),
    )
    assert msgspec.json.decode(msgspec.json.encode(full), type=Decision) == full
    assert full.time.tzinfo is UTC


def test_decisions_are_kept_newest_first_up_to_a_bound(tmp_path: Path, trace: Trace) -> None:
    operations = opened(tmp_path, trace, keep=5)
    assert operations.decisions() == []
    assert not (tmp_path / FILE).exists()
    for number in range(12):
        operations.record(decision(number, evidence={"n": number}))
    operations.close()
    again = opened(tmp_path, trace, keep=5)
    assert [d.after for d in again.decisions()] == [f"plan {n}" for n in (11, 10, 9, 8, 7)]
    assert again.decisions(limit=1)[0].evidence == {"n": 11}
    assert again.verify() == []
    again.close()
    assert trace.counters() == {}


def test_what_has_no_json_form_and_what_is_too_long(tmp_path: Path, trace: Trace) -> None:
    operations = opened(tmp_path, trace)
    operations.record(decision(1, evidence={"x": object()}))
    operations.record(decision(2, evidence={"x": "y" * 100_000}))
    assert [d.after for d in operations.decisions()] == ["plan 2", "plan 1"]
    assert trace.counters()["decisions.cut"] == 2
    operations.close()


def test_every_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    operations = opened(tmp_path, Trace())
    written = [decision(number, evidence={"filling": "x" * 300}) for number in range(20)]
    for item in written:
        operations.record(item)
    operations.close()
    whole = (tmp_path / FILE).read_bytes()
    for at in [*range(200), *range(200, len(whole), 397)]:
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        (tmp_path / FILE).write_bytes(damaged)
        operations = opened(tmp_path, Trace())
        found = operations.decisions()
        assert found == written[::-1] or [d.what for d in found] == ["rebuild"], at
        operations.record(decision(99))
        assert "plan 99" in [d.after for d in operations.decisions()]
        operations.close()
        (tmp_path / ASIDE).unlink(missing_ok=True)
        for suffix in ("-wal", "-shm"):
            (tmp_path / (FILE + suffix)).unlink(missing_ok=True)


@pytest.mark.parametrize("size", [1, 99, 100, 4095, 4096, 8192])
def test_a_cut_file_is_replaced_and_reported(tmp_path: Path, trace: Trace, size: int) -> None:
    operations = opened(tmp_path, trace)
    for number in range(60):
        operations.record(decision(number, evidence={"filling": "x" * 300}))
    operations.close()
    with (tmp_path / FILE).open("rb+") as file:
        file.truncate(size)
    again = opened(tmp_path, trace)
    assert again.verify()
    (only,) = again.decisions()
    assert only.what == "rebuild"
    assert FILE in str(only.before)
    assert (tmp_path / ASIDE).exists()
    assert trace.counters()["decisions.damaged"] == 1
    again.close()


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path, trace: Trace) -> None:
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    operations = opened(tmp_path, trace)
    operations.record(decision(1))
    assert [d.after for d in operations.decisions()] == ["plan 1"]
    operations.close()
    assert (tmp_path / FILE).read_bytes() == before
    assert trace.counters()["decisions.unwritten"] == 1


def test_decisions_stay_in_memory_without_a_folder(tmp_path: Path, trace: Trace) -> None:
    operations = opened(tmp_path / "gone", trace)
    operations.record(decision(1))
    assert len(operations.decisions()) == 1
    operations.close()
    operations.record(decision(2))
    assert len(operations.decisions()) == 2


def test_decisions_of_many_threads_are_all_kept(tmp_path: Path, trace: Trace) -> None:
    several = [opened(tmp_path, trace) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda s=sink, n=number: s.record(decision(n)))
        for number in range(30)
        for sink in [several[number % 3]]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(several[0].decisions()) == 30
    for sink in several:
        sink.close()
