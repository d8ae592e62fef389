"""No control character of a document, a file name or a server reaches the terminal."""

from __future__ import annotations

import ast
import json
import logging
import os
import sqlite3
import unicodedata
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vivace.cli
from tests.cli.conftest import Shell
from tests.support.model_server import ModelServerDouble, Reply
from vivace.cli import parser
from vivace.cli.terminal import logging_to_terminal, one_line, printable, say_json
from vivace.store.operations import Operations
from vivace.testing.fake_llm import FakeModel
from vivace.trace import Trace
from vivace.types import Decision

EVIL = "\x1b]0;owned\x07\x1b[31m\x9b2J\x08\r\u202egpj\u2066\u200f\x7f\u2028"
"""A window's title, colours, an erased screen, a step back, and a reversed direction of reading."""
NAME = EVIL.replace("/", "")
FORBIDDEN = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} - {"\n", "\t"}
FORBIDDEN |= set(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029"
)


def clean(text: str) -> bool:
    return not FORBIDDEN & set(text)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose names, texts, titles, headings, ids and metadata hold control characters."""
    folder = tmp_path / f"docs{NAME}"
    folder.mkdir()
    text = f"# Leave {EVIL}\n\nThe notice period {EVIL} is six weeks {EVIL}.\n"
    (folder / f"leave{NAME}.md").write_text(text)
    (folder / "forged\nvivace: all is well.md").write_text(text)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\x1b.txt")).write_text(text)
    (folder / f"broken{NAME}.pdf").write_bytes(b"%PDF nothing")
    row = {"id": f"d{EVIL}", "title": f"t{EVIL}", "text": text, "metadata": {f"key{EVIL}": EVIL}}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n{broken " + EVIL + "\n")
    monkeypatch.setenv("COLUMNS", "400")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / f"judged{NAME}"
    folder.mkdir()
    mark = "\x1b[31m\x9b2J\u202e"  # ids are read by line and by tab
    text = f"The notice period {EVIL} is six weeks."
    rows = [{"id": f"d{n}{mark}", "text": text} for n in range(3)]
    (folder / "corpus.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    question = {"id": f"q{mark}", "text": f"How long is the notice {EVIL}?"}
    (folder / "queries.jsonl").write_text(json.dumps(question) + "\n")
    (folder / "qrels.tsv").write_text(f"q{mark}\tgone{mark}\t1\nq{mark}\td1{mark}\t1\n")
    return folder


def spoil(folder: Path) -> None:
    """A decision with control characters, and a document that fails its checksum."""
    operations = Operations(folder, Trace())
    evidence = {f"signal{EVIL}": EVIL, "rejected": [EVIL]}
    operations.record(
        Decision(
            what=f"plan{EVIL}",
            before=EVIL,
            after={EVIL: EVIL},
            reason=f"because {EVIL}",
            evidence=evidence,
            rejected=({"reason": EVIL, "plan": EVIL},),
        )
    )
    operations.close()
    with closing(sqlite3.connect(folder / "store.db")) as db:
        db.execute("UPDATE documents SET title = title || 'x'")
        db.commit()


def scenes(server: str) -> Mapping[str, list[list[str | Path]]]:
    """Arguments of every command; DOCS, JUDGED and FILE stand for paths."""
    model = ["--set", f"generate.model=openai:m@{server}", "--set", "generate.retries=0"]
    question = f"How long is the notice period{EVIL}?"
    return {
        "ingest": [["ingest", "DOCS"], ["ingest", "DOCS", "--json"], ["ingest", f"no{EVIL}"]],
        "search": [
            ["search", question],
            ["search", question, "--json"],
            ["search", "x", "--collection", f"no{NAME}"],
            ["search", "x", "--filter", f'{{"{"k" + EVIL[:1]}": 1}}'],
            ["search", "x", "--filter", json.dumps({f"none{EVIL}": 1})],
            ["search", "x", "--set", f"no{EVIL}=1"],
        ],
        "ask": [
            ["ask", question],
            ["ask", question, "--json"],
            ["ask", "--file", "FILE"],
            ["ask", "--file", "FILE", "--json"],
            ["ask", question, *model],
            ["ask", question, *model, "--json"],
            ["ask", question, "--template", EVIL],
            ["ask", "--docs", "DOCS", question],
        ],
        "ls": [["ls"], ["ls", "--json"]],
        "rm": [["rm", f"none{EVIL}"], ["rm", f"none{EVIL}", "--json"]],
        "up": [["up", f"none{EVIL}", "--port", "0"]],
        "serve": [["serve", "--collection", f"none{NAME}", "--port", "0"]],
        "compact": [["compact"]],
        "tune": [["tune", "--budget", "0.2s"], ["tune", "--quality", "--qrels", f"no{EVIL}"]],
        "eval": [
            ["eval", "JUDGED", "--failures", "3"],
            ["eval", "JUDGED", "--json"],
            ["eval", f"none{EVIL}"],
        ],
        "cache": [["cache", "stats"], ["cache", "stats", "--server", server], ["cache", "warm"]],
        "settings": [["settings", "--set", f"generate.system={EVIL}"], ["settings", "--markdown"]],
        "trust": [["trust", f"none{EVIL}"], ["trust", "TOML"], ["trust", "TOML", "--forget"]],
        "why": [["why"], ["why", "--json"]],
        "verify": [["verify"], ["verify", "--json"]],
        "rebuild": [["rebuild"]],
        "fake-llm": [["fake-llm", "--fault", EVIL]],
    }


def test_no_command_prints_control_characters(
    shell: Shell, hostile: Path, dataset: Path, tmp_path: Path
) -> None:
    questions = tmp_path / f"questions{NAME}.txt"
    questions.write_text(f"How long is the notice period{EVIL}?\n")
    toml = tmp_path / f"settings{NAME}.toml"
    toml.write_text(f"[generate]\nsystem = {json.dumps(EVIL)}\n".replace("\x7f", ""))
    paths = {"DOCS": hostile, "JUDGED": dataset, "FILE": questions, "TOML": toml}
    with ModelServerDouble(always=Reply(500, f"no {EVIL}")) as server:
        every = scenes(server.url)
        assert every.keys() == {command.name for command in parser.COMMANDS}
        for name, runs in every.items():
            if name == "why":
                spoil(tmp_path / "xdg/vivace/collections/default")
            for arguments in runs:
                shell.run(*(paths.get(str(argument), argument) for argument in arguments))
                assert shell.out + shell.err, arguments
                assert clean(shell.out), arguments
                assert clean(shell.err), arguments
                assert "\nvivace: all is well" not in shell.out + shell.err, arguments
        assert server.requests


def test_no_answer_of_a_model_reaches_the_terminal_as_it_is(
    shell: Shell, leave_folder: Path
) -> None:
    question = "How long is the notice period?"
    with FakeModel(mode="scripted", text=f"Six {EVIL} weeks [1].") as fake:
        model = ["--set", f"generate.model=openai:fake@{fake.url}"]
        for form in ([], ["--json"]):
            shell.run("ask", "--docs", leave_folder, question, *model, *form)
            assert "weeks [1]" in shell.out
            assert clean(shell.out + shell.err)


def test_log_lines_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_terminal(times=False):
        log = logging.getLogger("vivace.test")
        log.warning("%s\nvivace: all is well", EVIL)
        try:
            raise ValueError(EVIL)
        except ValueError:
            log.exception("of http://user:secret@host")
    err = capsys.readouterr().err
    assert clean(err)
    assert "\nvivace: all is well" not in err
    assert "ValueError: ␛]0;owned" in err
    assert "http://***@host" in err
    logging.getLogger("vivace.test").warning("after")
    assert capsys.readouterr().err == ""


@given(st.text())
def test_what_is_printed_has_no_control_characters_and_stays_readable(text: str) -> None:
    assert clean(printable(text))
    assert "\n" not in one_line(text)
    printable(text).encode()
    for char in text:
        if unicodedata.category(char)[0] in "LNPSM":
            assert char in printable(text)


def test_json_has_no_control_characters_and_the_same_value(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    value = {EVIL: [EVIL, "试用期 é 🙂"]}
    say_json(json.dumps(value, ensure_ascii=False).encode())
    out = capsysbinary.readouterr().out.decode()
    assert clean(out)
    assert json.loads(out) == value
    assert "试用期 é 🙂" in out


def test_only_the_terminal_module_prints() -> None:
    for path in Path(vivace.cli.__file__).parent.rglob("*.py"):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path}:{node.lineno}: use say or warn"
            if isinstance(node, ast.Attribute) and node.attr == "buffer":
                raise AssertionError(f"{path}:{node.lineno}: use say_json")
