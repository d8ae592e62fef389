"""vivace tune, vivace why."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pytest

import vivace
from tests.cli.conftest import MakeShell, Shell
from vivace import settings as settings_module
from vivace.cli import main, parser
from vivace.cli.parser import BAD_INPUT, FAILED, INFEASIBLE, OK
from vivace.cli.report.texts import CHINESE, ENGLISH
from vivace.cli.why import shown
from vivace.testing.conformance import vectors
from vivace.types import Chunk

ROWS = 1_500
DIM = 32
QUICK = ("--recall", "0.9", "--budget", "4s")


def given(collection: Path) -> list[str]:
    return ["--collection", str(collection), "--set", f"embed.model=given:{DIM}"]


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    with vivace.open(tmp_path / "collection", embed__model=f"given:{DIM}") as docs:
        chunks = [Chunk(f"d{n}", f"text {n}") for n in range(ROWS)]
        docs.add(chunks, vectors(ROWS, DIM).astype(np.float32))
    return tmp_path / "collection"


@pytest.fixture
def shell(make_shell: MakeShell, collection: Path) -> Shell:
    return make_shell(*given(collection))


def test_why_shows_what_tune_applied(shell: Shell, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    found = shell.json("tune", *QUICK, "--report", str(report), "--language", "zh")
    assert found["feasible"]
    assert not found["applied"]
    assert found["chosen"]["recall"] >= 0.9
    assert found["objective"] == {"recall": 0.9, "p95_ms": None, "memory_bytes": None, "k": 10}
    assert found["rows"] == ROWS
    assert found["trials"]
    assert CHINESE.title in report.read_text("utf-8")
    assert found["command"] in report.read_text("utf-8")
    assert [d for d in shell.json("why")["decisions"] if d["what"] == "plan"] == []

    assert shell.run("tune", *QUICK, "--apply", "--report", str(report)) == OK
    assert "applied" in shell.out
    assert "held out" in shell.out
    assert ENGLISH.title in report.read_text("utf-8")
    decisions = shell.json("why")["decisions"]
    (plan,) = [d for d in decisions if d["what"] == "plan" and "trials" in d["evidence"]]
    assert plan["reason"] in shell_text(shell, "why")
    assert len(shell.json("why", "--limit", "1")["decisions"]) == 1


def shell_text(shell: Shell, *arguments: str) -> str:
    """What is printed, as one line."""
    assert shell.run(*arguments) == OK
    assert len(shell.out.splitlines()) < 100
    return " ".join(shell.out.split())


def test_an_infeasible_objective_gives_exit_status_4(shell: Shell, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    impossible = ("--recall", "1", "--memory", "1kB", "--budget", "3s", "--apply")
    found = shell.json("tune", *impossible, "--report", str(report), status=INFEASIBLE)
    assert not found["feasible"]
    assert not found["applied"]
    assert found["error"]["type"] == "InfeasibleObjective"
    assert found["error"]["fix"]
    assert found["objective"]["memory_bytes"] == 1000
    assert ENGLISH.infeasible in report.read_text("utf-8")
    assert shell.run("tune", *impossible) == INFEASIBLE
    assert "Nothing keeps to the objective" in shell.err
    assert "nearest" in shell.out
    assert "applied" not in shell.out
    assert "misses" in shell_text(shell, "why")


@pytest.mark.parametrize(
    "wrong",
    [
        ("--recall", "1.5"),
        ("--recall", "much"),
        ("--p95", "5 miles"),
        ("--memory", "2 elephants"),
        ("--budget", "0s"),
        ("--language", "fr"),
    ],
)
def test_unreadable_option_values_are_bad_input(
    wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tune", *wrong])
    assert ended.value.code == BAD_INPUT
    assert wrong[1] in capsys.readouterr().err


def test_an_unwritable_report_is_reported_before_the_work(shell: Shell, tmp_path: Path) -> None:
    for where in (tmp_path / "none" / "r.html", tmp_path):
        assert shell.run("tune", *QUICK, "--report", str(where)) == BAD_INPUT
        assert str(tmp_path) in shell.err


def test_without_a_collection(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("tune", "why"):
        assert main([command, "--collection", f"{tmp_path}/none", "--json"]) == FAILED
        value = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert value["error"]["type"] == "CollectionNotFound"
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == OK
        assert "example: vivace" in capsys.readouterr().out


def test_nothing_decided_yet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    vivace.open(tmp_path / "c", embed__model=f"given:{DIM}").close()
    assert main(["why", *given(tmp_path / "c")]) == OK
    assert "vivace tune" in capsys.readouterr().out


INTERRUPTED_ONCE = """
import os, signal, sys
from vivace.engine.collection import Collection
tune = Collection.tune
async def told(self, *arguments, progress=None, **more):
    def step(now):
        if now.step == "held out" or (now.step == "candidates" and now.done == 1):
            if not sent:
                sent.append(now)
                os.kill(os.getpid(), signal.SIGINT)
        progress(now)
    return await tune(self, *arguments, progress=step, **more)
sent = []
Collection.tune = told
from vivace.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_keeps_the_best_so_far(collection: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED_ONCE, "tune", *given(collection)]
    ended = subprocess.run(
        [*command, "--recall", "0.9", "--budget", "60s"], capture_output=True, text=True
    )
    assert ended.returncode == OK, ended.stderr
    assert "ended early" in ended.stderr
    assert "held out" in ended.stdout


def test_the_repeating_command_leaves_secrets_out(shell: Shell) -> None:
    secret = ("--set", "generate.api_key=hidden", "--set", "chunk.tokens=99")
    found = shell.json("tune", *QUICK, "--p95", "2s", "--memory", "1GiB", *secret)
    assert "hidden" not in found["command"]
    assert found["command"].startswith("vivace tune --collection ")
    assert found["command"].endswith(
        "--set chunk.tokens=99 --set embed.model=given:32"
        " --recall 0.9 --p95 2000ms --memory 1073741824B --budget 4s"
    )


def test_units() -> None:
    assert [parser.milliseconds(t) for t in ("5ms", "5", "0.2s", "250us")] == [5, 5, 200, 0.25]
    assert [parser.seconds(t) for t in ("120s", "120", "2m", "1500 ms")] == [120, 120, 120, 1.5]
    assert [parser.size(t) for t in ("2GiB", "30MB", "1.5kib", "7")] == [2**31, 30_000_000, 1536, 7]
    assert [parser.share(t) for t in ("0.95", "95%", "1")] == [0.95, 0.95, 1.0]
    for parse in (parser.milliseconds, parser.seconds, parser.size, parser.share):
        for wrong in ("", "x", "-1", "0", "1e999", "nan", "5 parsecs"):
            with pytest.raises(ArgumentTypeError):
                parse(wrong)


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE.UTF-8", "LC_MESSAGES": "zh_TW"}, "zh"),
    ],
)
def test_the_language_of_the_locale(
    environment: dict[str, str], language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert settings_module.language() == language


def test_values_in_few_words() -> None:
    assert shown(None) == "nothing"
    assert shown({"family": "hnsw", "params": {"degree": 32}, "effort": 48}) == (
        "hnsw (degree 32), effort 48"
    )
    assert shown({"family": "flat", "params": {}, "effort": 0}) == "flat"
    assert shown({"a": 1.23456, "b": [1, "x"]}) == "a 1.235, b 1, x"
    assert len(shown("long" * 1_000)) < 200
