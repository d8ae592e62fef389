"""vivace fake-llm, and vivace ask with a model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vivace.cli import main
from vivace.testing.fake_llm import FakeModel


@pytest.mark.parametrize("as_json", [False, True])
def test_ask_with_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    (tmp_path / "a.md").write_text("The notice period is six weeks.")
    with FakeModel() as fake:
        arguments = ["ask", "--docs", str(tmp_path), "How long is the notice period?"]
        for setting in (f"model=openai:fake@{fake.url}", "price_prompt=3"):
            arguments += ["--set", f"generate.{setting}"]
        assert main(arguments + ["--json"] * as_json) == 0
    out, err = capsys.readouterr()
    if as_json:
        value = json.loads(out.splitlines()[-1])
        assert value["usage"]["prompt_tokens"] > 0
        assert value["cost"] > 0
        assert value["finish_reason"] == "stop"
        assert value["citations"][0]["text"] == "The notice period is six weeks."
    else:
        assert out.startswith("The notice period is six weeks. [1]\n")
        assert "openai:fake: " in err
        assert "completion tokens, cost 0.00" in err


@pytest.mark.parametrize("as_json", [False, True])
def test_fake_llm_prints_its_address_first_and_stops_when_told(as_json: bool) -> None:
    command = [sys.executable, "-m", "vivace", "fake-llm", "--fault", "500@first=1"]
    with subprocess.Popen(
        command + ["--json"] * as_json, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = json.loads(line)["url"] if as_json else line.strip()
            assert url.startswith("http://127.0.0.1:")
            assert url.endswith("/v1")
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_fault_that_is_none() -> None:
    assert main(["fake-llm", "--fault", "fire"]) == 2


def test_ask_for_another_kind_of_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.md").write_text("The notice period is six weeks.")
    with FakeModel() as fake:
        common = ["ask", "--docs", str(tmp_path), "--set", f"generate.model=openai:fake@{fake.url}"]
        said = []
        for more in (
            ["--template", "auto", "Translate into French: Good day."],
            ["--template", "translation", "--to", "法语", "你好。"],
            ["--template", "summary", "the notice period"],
        ):
            assert main([*common, *more]) == 0
            said.append(capsys.readouterr().out.splitlines()[0])
        assert said == [
            "(French) Good day.",
            "(法语) 你好。",
            "The notice period is six weeks. [1]",
        ]
        assert main([*common, "--json", "How long is the notice period?"]) == 0
        value = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert [one["supported"] for one in value["support"]] == [True]
        assert 0 < value["answerable"] <= 1
        assert main([*common, "--template", "poem", "q?"]) == 2
    assert "Choose one of: " in capsys.readouterr().err
