"""vivace verify, rebuild, compact."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import MakeShell, Shell
from vivace.cli import main
from vivace.cli.parser import BAD_INPUT, FAILED, INTERRUPTED, OK
from vivace.errors import EmbeddingError


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return tmp_path / "collection"


@pytest.fixture
def shell(make_shell: MakeShell, collection: Path, tmp_path: Path) -> Shell:
    shell = make_shell("--collection", collection)
    (tmp_path / "leave.md").write_text("# Leave\n\nThe notice period is six weeks.\n")
    assert shell.run("ingest", str(tmp_path / "leave.md")) == OK
    return shell


def _answers(shell: Shell) -> bool:
    return "six weeks" in shell.json("search", "notice period")["hits"][0]["text"]


def test_verify_of_an_intact_collection_finds_nothing(shell: Shell) -> None:
    assert shell.json("verify")["findings"] == []
    assert shell.run("verify") == OK
    assert "nothing wrong" in shell.out


def test_a_damaged_file_is_named_and_rebuilt(shell: Shell, collection: Path) -> None:
    (collection / "terms" / "meta.json").write_text("{")
    findings = shell.json("verify", status=FAILED)["findings"]
    assert "terms" in findings[0]["where"]
    assert findings[0]["fix"]
    assert shell.json("rebuild")["chunks"] == 1
    assert shell.json("verify")["findings"] == []
    assert _answers(shell)


def test_compact(shell: Shell) -> None:
    assert shell.json("compact")["chunks"] == 1
    assert shell.run("compact") == OK
    assert "1 chunks" in shell.out
    assert _answers(shell)


def test_reembed(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("--set", "embed.model=given:4")
    assert shell.run("search", "notice", *given) == FAILED
    assert "vivace rebuild --reembed" in shell.err
    assert shell.json("rebuild", "--reembed", *given, status=FAILED)["error"]["type"] == (
        EmbeddingError.__name__
    )
    assert _answers(shell)  # as it was
    value = shell.json("rebuild", "--reembed")
    assert (value["embedded"], value["chunks"]) == (1, 1)
    assert shell.run("rebuild", "--reembed") == OK
    assert "1 embedded" in shell.out
    assert _answers(shell)


@pytest.mark.parametrize("command", ["verify", "rebuild", "compact"])
def test_without_a_collection(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--reembed"] if command == "rebuild" else []
    for extra in ([], arguments):
        assert main([command, *extra, "--collection", f"{tmp_path}/none", "--json"]) == FAILED
        value = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert value["error"]["type"] == "CollectionNotFound"
    assert not (tmp_path / "none").exists()
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == OK
    assert "example: vivace" in capsys.readouterr().out
    with pytest.raises(SystemExit) as wrong:
        main([command, "--nonsense"])
    assert wrong.value.code == BAD_INPUT


SLOWLY = """
import signal, sys
# a shell that starts the tests in background makes its children ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)
from vivace.embed.minilm import MiniLM
async def slowly(self, texts, *, kind):
    print("embedding", file=sys.stderr, flush=True)
    import asyncio
    await asyncio.Event().wait()
MiniLM.embed_tokens = slowly
from vivace.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c(shell: Shell, collection: Path) -> None:
    command = [
        sys.executable,
        "-c",
        SLOWLY,
        "rebuild",
        "--reembed",
        "--collection",
        str(collection),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "embedding\n"
        process.send_signal(signal.SIGINT)
        assert "kept" in process.stderr.read()
    assert process.returncode == INTERRUPTED
    assert _answers(shell)
    assert shell.json("rebuild", "--reembed")["embedded"] == 1
