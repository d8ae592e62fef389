"""One bad file costs one error; the batch goes on, and nothing is left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from vivace.collection.preparation import Source, from_paths
from vivace.errors import Closed, IngestError
from vivace.ingest import worker
from vivace.ingest.formats import SMALL, sandboxed
from vivace.ingest.sandbox import Sandbox
from vivace.settings import Parse
from vivace.types import Document, Section

COMMAND = [sys.executable, "-P", str(Path(__file__).with_name("hostile_reader.py"))]
MIB = 1 << 20
LIMITS = Parse(seconds=4, memory_mib=512, chars=1_000_000, workers=2)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox(LIMITS, command=COMMAND)
    yield sandbox
    sandbox.close()


def batch(folder: Path, sandbox: Sandbox, *names: str) -> list[Source]:
    for name in names:
        (folder / name).write_text("some text")
    return list(from_paths([folder], max_bytes=1 << 20, parse=LIMITS, sandbox=sandbox))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limits are Linux's")
def test_a_batch_with_every_kind_of_bad_file(tmp_path: Path, sandbox: Sandbox) -> None:
    bad = {
        "hang": ("was given up after 4 s", "parse.seconds"),
        "killed": ("crashed (parse worker: it ended by SIGKILL)", "Leave the file out"),
        "leak": ("needs over 512 MiB", "parse.memory_mib"),
        "print": ("more output than", "parse.chars"),
        "flood": ("more output than", "parse.chars"),
        "raise": ("ValueError: a parser's bug", "Report it"),
    }
    good = ["a.txt", "a_first.pdf", "i.pdf", "j.md", "m.pdf", "z.pdf", "z.txt"]
    found = batch(tmp_path, sandbox, *good, *(f"{name}.pdf" for name in bad))
    assert [Path(item.source).name for item in found] == sorted(
        [*good, *(f"{name}.pdf" for name in bad)]
    )
    pids = set()
    for item in found:
        stem = Path(item.source).stem
        if stem in bad:
            assert isinstance(item, IngestError), item
            reason, fix = bad[stem]
            assert reason in item.reason
            assert fix in item.fix
        else:
            assert isinstance(item, Document)
            if item.source.endswith(".pdf"):
                pids.add(int(item.text.split()[1]))
    assert sandbox.pool.started >= 5
    sandbox.close()
    assert sandbox.pool.processes == 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limits are Linux's")
@pytest.mark.parametrize("suffix", [".md", ".txt"])
def test_large_text_is_read_within_the_same_limits(tmp_path: Path, suffix: str) -> None:
    for name in ("hang", "leak", "z"):
        (tmp_path / f"{name}{suffix}").write_text("x" * (SMALL + 1))
    limits = msgspec.structs.replace(LIMITS, seconds=1, memory_mib=64)
    sandbox = Sandbox(limits, command=COMMAND)
    try:
        found = from_paths([tmp_path], max_bytes=4 * MIB, parse=limits, sandbox=sandbox)
        hang, leak, good = found
    finally:
        sandbox.close()
    assert isinstance(hang, IngestError)
    assert "was given up after 1 s" in hang.reason
    assert isinstance(leak, IngestError)
    assert "needs over 64 MiB" in leak.reason
    assert isinstance(good, Document)


def test_large_json_lines_are_read_part_by_part(tmp_path: Path) -> None:
    """No part is read before the one before it was taken, so a file of any size takes no more
    memory than a part."""
    line = '{"text": "' + "x" * 1_000 + '"}\n'
    (tmp_path / "a.jsonl").write_text(line * (9 * MIB // len(line)))
    sandbox = Sandbox(msgspec.structs.replace(LIMITS, chars=4_000_000))
    try:
        found = from_paths([tmp_path], max_bytes=MIB, parse=LIMITS, sandbox=sandbox)
        sources = [next(found).source for _ in range(1_000)]
        assert sandbox.pool.statistics().done <= 1
        numbers = [1_000]
        for document in found:
            assert isinstance(document, Document)
            numbers.append(int(document.id.rpartition(":")[2]))
    finally:
        sandbox.close()
    assert set(sources) == {(tmp_path / "a.jsonl").as_posix()}
    assert numbers == list(range(1_000, 9 * MIB // len(line) + 1))
    assert sandbox.pool.statistics().done == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limits are Linux's")
def test_a_line_that_grows_when_parsed_costs_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "x": [' + "[]," * MIB + "1]}")
    (tmp_path / "b.jsonl").write_text('{"text": "good"}')
    limits = msgspec.structs.replace(LIMITS, memory_mib=64)
    sandbox = Sandbox(limits)
    try:
        bad, good = from_paths([tmp_path], max_bytes=8 * MIB, parse=limits, sandbox=sandbox)
    finally:
        sandbox.close()
    assert isinstance(bad, IngestError)
    assert "needs over 64 MiB" in bad.reason
    assert isinstance(good, Document)


def test_text_needs_no_process(tmp_path: Path, sandbox: Sandbox) -> None:
    found = batch(tmp_path, sandbox, "a.txt", "b.md", "c.rst", "d.csv")
    assert all(isinstance(item, Document) for item in found)
    assert sandbox.pool.started == 0


def test_any_large_file_and_any_web_page_needs_one(tmp_path: Path, sandbox: Sandbox) -> None:
    large = {
        "a.csv": "x,y\n",
        "b.json": "1",
        "c.md": "# x\n",
        "d.html": "<p>x",
        "e.txt": "x",
        "f.jsonl": '{"text": "x"}',
    }
    for name, text in large.items():
        (tmp_path / name).write_text(text + " " * SMALL)
        (tmp_path / f"small_{name}").write_text(text)
    confined = {path.name for path in tmp_path.iterdir() if sandboxed(path, path.stat().st_size)}
    assert confined == {*large, "small_d.html"}
    limits = {"max_bytes": 64 << 20, "parse": LIMITS, "sandbox": sandbox}
    found = list(from_paths([tmp_path], **limits))  # type: ignore[arg-type]
    assert len(found) == 12
    assert sandbox.pool.statistics().done == 7


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limits are Linux's")
def test_a_web_page_that_grows_when_parsed_costs_one_error(tmp_path: Path) -> None:
    """Each paragraph opens every unclosed element again: 16 KB become 150 MiB."""
    bold = "".join(f"<b id={n}>" for n in range(900))
    (tmp_path / "a.html").write_text(f"<div>{bold}</div>" + "<p>x</p>" * 900)
    (tmp_path / "b.html").write_text("<p>good</p>")
    limits = msgspec.structs.replace(LIMITS, memory_mib=64, seconds=30)
    sandbox = Sandbox(limits)
    try:
        bad, good = from_paths([tmp_path], max_bytes=1 << 20, parse=limits, sandbox=sandbox)
    finally:
        sandbox.close()
    assert isinstance(bad, IngestError)
    assert "needs over 64 MiB" in bad.reason
    assert isinstance(good, Document)


def test_what_is_no_longer_wanted_is_cancelled(tmp_path: Path, sandbox: Sandbox) -> None:
    for name in ("a.txt", "hang.pdf", "i.pdf"):
        (tmp_path / name).write_text("text")
    sources = from_paths([tmp_path], max_bytes=1 << 20, parse=LIMITS, sandbox=sandbox)
    first = next(sources)
    assert isinstance(first, Document)
    sources.close()  # type: ignore[attr-defined]
    (found,) = sandbox.read(tmp_path / "i.pdf")
    assert isinstance(found, Document)


def test_a_closed_sandbox_says_so(tmp_path: Path, sandbox: Sandbox) -> None:
    sandbox.close()
    with pytest.raises(Closed):
        sandbox.read(tmp_path / "a.pdf")


def test_a_document_survives_the_wire() -> None:
    document = Document(
        "id",
        "text 文",
        "title",
        "source",
        {"pages": 3, "list": [1, "a", None]},
        (Section(0, ("A", "B"), 1), Section(5)),
    )
    reply = worker.decode_reply(worker.encode(worker.DocumentReply(document)))
    assert reply == worker.DocumentReply(document)
    request = worker.ReadRequest("/a", 1, Parse(password="p"))
    assert worker.decode_request(worker.encode(request)) == request
    with pytest.raises(msgspec.ValidationError):
        worker.decode_reply(worker.encode({"type": "other"}))
