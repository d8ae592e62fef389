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
def test_fake_llm_prints_its_address_and_stops_on_sigterm(as_json: bool) -> None:
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


def test_an_unknown_fault_is_bad_input() -> None:
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


@pytest.mark.parametrize("name", ["q.txt", "q.jsonl"])
def test_ask_a_file_of_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """In their order, what is the same asked once; other fields come back with the answer."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("The notice period is six weeks. The office is in Bern.")
    texts = ["How long is the notice period?", "Where is the office?"] * 2 + [" "]
    lines = texts
    if name.endswith("l"):
        lines = [json.dumps({"id": at, "question": text}) for at, text in enumerate(texts)]
    (tmp_path / name).write_text("\n".join(["", *lines]))
    with FakeModel() as fake:
        command = ["ask", "--docs", str(docs), "--file", str(tmp_path / name), "--json"]
        status = main([*command, "--set", f"generate.model=openai:fake@{fake.url}"])
        assert fake.statistics().requests == 2
    out, err = capsys.readouterr()
    *rows, ingest = [json.loads(line) for line in out.splitlines()]
    assert ingest["ingest"]["documents"] == 1
    assert [row["question"] for row in rows[:4]] == texts[:4]
    for row, said in zip(rows[:4], ["six weeks", "Bern"] * 2, strict=True):
        assert said in row["text"]
    if name.endswith("l"):
        assert [row["id"] for row in rows] == list(range(5))
        assert (rows[4]["error"]["type"], status) == ("BadQuery", 3)
        assert "5 questions, 1 failed" in err
    else:
        assert (len(rows), status) == (4, 0)


def test_questions_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.md").write_text("The notice period is six weeks.")
    (tmp_path / "q").write_text("How long is the notice period?\n")
    assert main(["ask", "--docs", str(tmp_path), "--file", str(tmp_path / "q")]) == 0
    assert capsys.readouterr().out.startswith("? How long is the notice period?\n")


@pytest.mark.parametrize(
    "lines", ['{"id": 1}', '{"question": 1}', "{", '{"question": "a"}\nnonsense', "\x00\xff"]
)
def test_a_malformed_file_of_questions_is_bad_input(tmp_path: Path, lines: str) -> None:
    (tmp_path / "q.jsonl").write_bytes(lines.encode("latin-1"))
    assert main(["ask", "--docs", str(tmp_path), "--file", str(tmp_path / "q.jsonl")]) == 2


def test_ask_takes_either_a_question_or_a_file(tmp_path: Path) -> None:
    assert main(["ask"]) == 2
    assert main(["ask", "a", "--file", "b"]) == 2
    assert main(["ask", "--docs", str(tmp_path), "--file", str(tmp_path / "none")]) == 2
