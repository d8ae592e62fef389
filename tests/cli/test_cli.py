"""The commands as a shell sees them: exit status, last line of stdout, stderr."""

from __future__ import annotations

import ctypes
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from vivace.cli.parser import BAD_INPUT, FAILED, INTERRUPTED, OK, SOME_FAILED


@pytest.fixture
def folder(leave_folder: Path) -> Path:
    (leave_folder / "zh.txt").write_text("试用期为三个月。")
    return leave_folder


def test_a_password_opens_a_file_and_is_never_printed(shell: Shell, data: Path) -> None:
    path = data / "documents/pdf/libreoffice-writer-password.pdf"
    report = shell.json("ingest", path, status=SOME_FAILED)
    assert "--password" in report["errors"][0]["fix"]
    assert shell.json("ingest", path, "--password", "not-this-one", status=SOME_FAILED)
    assert "not-this-one" not in shell.out + shell.err
    assert shell.json("ingest", path, "--password", "openpassword")["documents"] == 1


def test_ingest_search_ask_ls_rm(shell: Shell, folder: Path) -> None:
    report = shell.json("ingest", folder)
    assert (report["documents"], report["chunks"], report["errors"]) == (2, 2, [])
    assert shell.json("ingest", folder)["unchanged"] == 2

    found = shell.json("search", "notice period", "-k", "1")
    hit = found["hits"][0]
    assert hit["source"] == (folder / "leave.md").as_posix()
    assert set(hit["stages"]) == {"bm25", "cosine", "fused", "reranked"}

    answer = shell.json("ask", "How long is the notice period?")
    assert answer["found"]
    citation = answer["citations"][0]
    text = (folder / "leave.md").read_text()
    assert text[citation["start"] : citation["end"]] == citation["text"]
    span = answer["spans"][0]
    assert answer["text"][span["start"] : span["end"]] == citation["text"]
    assert answer["hits"]

    listed = shell.json("ls")
    assert (listed["total"], len(listed["documents"])) == (2, 2)
    assert shell.json("rm", folder / "leave.md") == {"removed": 1, "missing": []}
    assert shell.json("ls", "--limit", "5")["total"] == 1
    removed = shell.json("rm", "nobody", folder / "zh.txt", status=BAD_INPUT)
    assert removed == {"removed": 1, "missing": ["nobody"]}


def test_text_output(shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shell.run("ingest", folder) == OK
    assert "2 documents, 2 chunks" in shell.out
    assert shell.run("search", "notice period") == OK
    assert "six weeks" in shell.out
    assert shell.run("ask", "试用期是多久？") == OK
    assert "“试用期为三个月。” [1]" in shell.out
    assert "zh.txt (0-8)" in shell.out
    monkeypatch.setenv("COLUMNS", "300")
    assert shell.run("ls") == OK
    assert "leave.md" in shell.out
    assert shell.run("search", "nothing of the kind", "--min-score", "5") == OK
    assert "nothing found" in shell.out
    assert shell.run("rm", folder / "zh.txt") == OK
    assert "removed 1" in shell.out


def test_markup_and_undecodable_bytes_in_names(shell: Shell, folder: Path) -> None:
    (folder / "odd [red]name.md").write_text("# weird [/tmp] title\n\nOdd words.\n")
    shell.json("ingest", folder)
    assert shell.run("ls") == OK
    assert "weird [/tmp] title" in shell.out
    assert shell.json("search", "caf\udce9 odd")["hits"]
    assert shell.run("rm", "\udcff") == BAD_INPUT


def test_relative_paths_name_the_same_documents(
    shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    shell.json("ingest", "..")
    assert shell.json("rm", "../zh.txt")["removed"] == 1
    first = shell.json("ask", "--docs", "..", "notice period")
    assert shell.json("ask", "--docs", folder, "notice period")["ingest"]["unchanged"] == 2
    assert first["ingest"]["documents"] == 2


def test_ask_docs_ingests_only_what_changed(shell: Shell, folder: Path) -> None:
    ask = ("ask", "--docs", folder, "How long is the notice period?")
    assert shell.json(*ask)["ingest"]["documents"] == 2
    assert shell.json(*ask)["ingest"]["unchanged"] == 2
    (folder / "leave.md").unlink()
    answer = shell.json(*ask)
    assert answer["ingest"]["removed"] == 1
    assert not answer["found"]
    assert shell.run(*ask) == OK
    assert "The documents do not say." in shell.out


def test_folders_of_one_name_have_collections_of_their_own(
    shell: Shell, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "docs"
    other.mkdir(parents=True)
    (other / "x.txt").write_text("Lunch is at noon.")
    shell.json("ask", "--docs", folder, "when is lunch")
    assert shell.json("ask", "--docs", other, "when is lunch")["ingest"]["documents"] == 1


def test_unreadable_sources_give_exit_status_3(shell: Shell, folder: Path) -> None:
    (folder / "bad.txt").write_bytes(b"caf\xe9")
    report = shell.json("ingest", folder, folder / "missing.md", status=SOME_FAILED)
    assert len(report["errors"]) == 2
    assert all(set(error) == {"source", "reason", "fix"} for error in report["errors"])
    assert shell.run("ingest", folder) == SOME_FAILED
    assert "bad.txt" in shell.err
    assert shell.run("ask", "--docs", folder, "notice period?") == SOME_FAILED


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("ask", ""), BAD_INPUT, "BadQuery"),
        (("search", "x" * 100_000), BAD_INPUT, "BadQuery"),
        (("search", "a", "-k", "0"), BAD_INPUT, "BadQuery"),
        (("search", "a", "--filter", "{"), BAD_INPUT, "BadInput"),
        (("search", "a", "--filter", "[1]"), BAD_INPUT, "BadInput"),
        (("search", "a", "--filter", '{"nokey": 1}'), BAD_INPUT, "BadFilter"),
        (("search", "a", "--set", "chunk.tokens"), BAD_INPUT, "BadSettings"),
        (("search", "a", "--set", "chunk.size=3"), BAD_INPUT, "BadSettings"),
        (("search", "a", "--set", "embed.model=nonsense"), BAD_INPUT, "BadSettings"),
        (("search", "a", "--collection", "other"), FAILED, "CollectionNotFound"),
        (("ls", "--set", "embed.model=given:3"), FAILED, "EmbedderMismatch"),
        (("eval", "nowhere"), BAD_INPUT, "BadInput"),
    ],
)
def test_bad_input_is_reported_as_json_with_a_fix(
    shell: Shell, folder: Path, arguments: tuple[str, ...], status: int, error: str
) -> None:
    shell.json("ingest", folder)
    value = shell.json(*arguments, status=status)
    assert value["error"]["type"] == error
    assert value["error"]["message"]
    assert value["error"]["fix"]
    assert "vivace:" in shell.err


def test_empty_folder_and_missing_path(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert shell.run("ingest", tmp_path / "empty") == BAD_INPUT
    assert "nothing to read" in shell.err
    assert shell.run("ask", "--docs", tmp_path / "empty", "what?") == BAD_INPUT
    assert shell.run("ask", "--docs", tmp_path / "missing", "what?") == BAD_INPUT
    assert "missing" in shell.err
    assert shell.run("ingest", tmp_path / "missing") == SOME_FAILED


def test_settings(shell: Shell, tmp_path: Path) -> None:
    assert shell.json("settings", "--set", "chunk.tokens=99")["chunk"]["tokens"] == 99
    config = tmp_path / "my.toml"
    config.write_text("[search]\ncandidates = 7\n")
    assert shell.json("settings", "--config", config)["search"]["candidates"] == 7
    assert shell.run("settings") == OK
    assert "search.candidates" in shell.out
    assert shell.run("settings", "--markdown") == OK
    assert shell.out.startswith("# Settings")


def test_help_has_an_example(shell: Shell) -> None:
    for arguments in (["--help"], ["ask", "--help"], ["eval", "--help"]):
        assert shell.run(*arguments) == OK
        assert "example: vivace" in shell.out
    assert shell.run("--version") == OK
    assert shell.run() == BAD_INPUT
    assert shell.run("nonsense") == BAD_INPUT


def test_keyboard_interrupt_gives_exit_status_130(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("vivace.cli.preferences.run", interrupted)
    assert shell.run("settings") == INTERRUPTED
    assert "kept" in shell.err


class TestEval:
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Path:
        folder = tmp_path / "set"
        folder.mkdir()
        corpus = [
            {"id": "a", "title": "", "text": "Cats purr at night."},
            {"id": "b", "title": "", "text": "Dogs bark at trains."},
            {"id": "c", "title": "", "text": "Birds sing at dawn."},
        ]
        queries = [
            {"id": "1", "text": "which animal purrs"},
            {"id": "2", "text": "who barks"},
            {"id": "3", "text": "unjudged"},
            {"id": "4", "text": ""},
        ]
        for name, rows in (("corpus", corpus), ("queries", queries)):
            lines = [json.dumps(row) + "\n" for row in rows]
            (folder / f"{name}.jsonl").write_text("".join(lines))
        (folder / "qrels.tsv").write_text(
            "query_id\tdoc_id\trel\n1\ta\t1\n2\tc\t0\n2\tb\t2\n4\ta\t1\n"
        )
        return folder

    def test_figures(self, shell: Shell, dataset: Path) -> None:
        report = shell.json("eval", dataset)
        assert (report["documents"], report["queries"]) == (3, 3)
        # the blank question counts as a miss
        assert report["recall@1"] == report["ndcg@10"] == pytest.approx(2 / 3, abs=1e-3)
        for key in ("chunks", "mrr@10", "recall@5", "recall@10", "p50_ms", "p95_ms"):
            assert key in report
        assert report["ingest_seconds"] > 0
        assert report["peak_rss_mb"] > 0
        assert shell.run("eval", dataset, "--limit", "1") == OK
        assert "recall@1" in shell.out

    def test_a_broken_line_is_reported(self, shell: Shell, dataset: Path) -> None:
        with (dataset / "corpus.jsonl").open("a") as corpus:
            corpus.write("broken\n")
        report = shell.json("eval", dataset)
        assert len(report["errors"]) == 1
        assert "left out" in shell.err
        (dataset / "qrels.tsv").write_text("")
        assert "judged" in shell.json("eval", dataset, status=BAD_INPUT)["error"]["message"]

    def test_it_leaves_the_query_log_alone(
        self, shell: Shell, dataset: Path, tmp_path: Path
    ) -> None:
        shell.json("eval", dataset, "--collection", tmp_path / "kept")
        with sqlite3.connect(tmp_path / "kept" / "store.db") as connection:
            assert connection.execute("SELECT COUNT(*) FROM queries").fetchone() == (0,)
        connection.close()

    def test_a_collection_is_used_as_it_is(
        self, shell: Shell, dataset: Path, tmp_path: Path
    ) -> None:
        where = tmp_path / "kept"
        assert shell.json("eval", dataset, "--collection", where)["ingest_seconds"] is not None
        assert shell.json("eval", dataset, "--collection", where)["ingest_seconds"] is None

    @pytest.mark.parametrize(
        ("name", "content"),
        [("qrels.tsv", "1 a 1"), ("qrels.tsv", "1\ta\tx"), ("queries.jsonl", '{"id": 1}')],
    )
    def test_bad_files(self, shell: Shell, dataset: Path, name: str, content: str) -> None:
        (dataset / name).write_text(content)
        value = shell.json("eval", dataset, status=BAD_INPUT)
        assert f"{name}:1" in value["error"]["message"]


def test_as_a_module_in_a_pipe_that_closes(folder: Path) -> None:
    environment = {**os.environ, "XDG_DATA_HOME": str(folder.parent)}
    command = [sys.executable, "-m", "vivace"]
    subprocess.run([*command, "ingest", str(folder)], env=environment, check=True, timeout=60)
    shell = f'{sys.executable} -m vivace search "notice" | true'
    done = subprocess.run(
        shell, shell=True, env=environment, timeout=60, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr


def _bound_by_permissions() -> None:
    """Make a child of root obey permission bits: drop CAP_DAC_OVERRIDE from what exec may gain."""
    if os.geteuid() == 0:
        drop_bounding, dac_override, dac_read_search = 24, 1, 2
        libc = ctypes.CDLL(None)
        for capability in (dac_override, dac_read_search):
            assert libc.prctl(drop_bounding, capability, 0, 0, 0) == 0


def test_a_folder_that_may_only_be_read(shell: Shell, folder: Path, tmp_path: Path) -> None:
    where = tmp_path / "readonly"
    shell.json("ingest", folder, "--collection", where)
    everything = [where, *where.rglob("*")]

    def bound(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vivace", *arguments, "--collection", str(where)]
        return subprocess.run(
            [*command, "--json"],
            preexec_fn=_bound_by_permissions,
            timeout=60,
            capture_output=True,
            text=True,
        )

    try:
        for path in everything:
            path.chmod(0o555 if path.is_dir() else 0o444)
        found = bound("search", "notice period")
        refused = bound("ingest", str(folder))
    finally:
        for path in everything:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert found.returncode == OK, found.stderr
    assert "six weeks" in json.loads(found.stdout)["hits"][0]["text"]
    assert refused.returncode == FAILED
    assert json.loads(refused.stdout)["error"]["type"] == "StoreUnwritable"
