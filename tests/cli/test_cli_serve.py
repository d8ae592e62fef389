"""vivace up and serve as processes: the address, the signals, the errors."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from vivace.cli import main
from vivace.cli.parser import BAD_INPUT, FAILED, OK

Start = Callable[..., "subprocess.Popen[str]"]
QUESTION = {"messages": [{"role": "user", "content": "How long is the notice period?"}]}


@pytest.fixture
def folder(leave_folder: Path) -> Path:
    return leave_folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command as a process; it is ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "vivace", *map(str, arguments)],
            env={**os.environ, "XDG_DATA_HOME": str(tmp_path / "xdg")},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    try:
        yield run
    finally:
        for process in running:
            process.kill()
            process.communicate()


def first_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else ""
    value: dict[str, Any] = json.loads(line)
    return value


def stopped(process: subprocess.Popen[str], how: int) -> str:
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == OK, err
    return err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_up_serves_a_folder_until_a_signal(start: Start, folder: Path, how: int) -> None:
    process = start("up", folder, "--port", "0", "--json")
    value = first_line(process)
    assert value["ingest"]["documents"] == 1
    assert value["address"].startswith("http://127.0.0.1:")
    answer = httpx.post(f"{value['address']}/v1/chat/completions", json=QUESTION).json()
    assert "six weeks" in answer["choices"][0]["message"]["content"]
    assert httpx.get(f"{value['address']}/readyz").json()["collections"] == value["collections"]
    assert stopped(process, how) == ""


def test_serve_prints_the_address_of_several_collections(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    assert main(["ingest", str(folder), "--collection", "one"]) == OK
    assert main(["ingest", str(folder), "--collection", str(tmp_path / "two")]) == OK
    collections = ("--collection", "one", "--collection", tmp_path / "two")
    process = start("serve", *collections, "--host", "0.0.0.0", "--port", "0")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Serving one, two at http://0.0.0.0:")
    address = line.split()[-1].replace("0.0.0.0", "127.0.0.1")
    models = httpx.get(f"{address}/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["vivace", "one", "two"]
    search = httpx.post(f"{address}/v1/search", json={"query": "notice", "model": "two"})
    assert search.json()["hits"]
    assert "no keys" in stopped(process, signal.SIGTERM)


def test_startup_errors_name_the_cause(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["up", str(folder), "--port", port]) == BAD_INPUT
    assert "--port 0" in capsys.readouterr().err
    assert main(["serve", "--port", "0", "--json"]) == FAILED
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["type"] == "CollectionNotFound"
    assert "Traceback" not in err
    assert main(["serve", "--port", "70000"]) == BAD_INPUT
    assert "server.port" in capsys.readouterr().err
    assert main(["serve", "--host", "no.such.host.invalid"]) == BAD_INPUT
    assert main(["serve", "--collection", "a", "--collection", "/x/a"]) == BAD_INPUT
    assert "share a name" in capsys.readouterr().err
    assert main(["up", str(folder / "missing"), "--port", "0"]) == BAD_INPUT
