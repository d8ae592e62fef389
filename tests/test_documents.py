"""Every command and snippet of the READMEs and of `docs/` runs."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import vivace.errors
import vivace.protocols
import vivace.types
from vivace.cli.parser import COMMANDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = """
import ast, asyncio, inspect, sys
code = compile(open(sys.argv[1], encoding="utf-8").read(), sys.argv[1], "exec",
               ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
result = eval(code, {"__name__": "__main__"})
if inspect.iscoroutine(result):
    asyncio.run(result)
"""
PORT = "8765"
"""As documents write it; the test puts a free one in its place."""


@dataclass(frozen=True)
class Snippet:
    """One fenced block of a document."""

    kind: str
    text: str


def snippets(document: Path) -> list[Snippet]:
    return [Snippet(*found) for found in BLOCK.findall(document.read_text("utf-8"))]


def commands(snippet: Snippet) -> Iterator[str]:
    """Each command of a console block, with its continued lines."""
    lines = snippet.text.splitlines()
    while lines:
        line = lines.pop(0)
        if not line.startswith("$ "):
            continue  # what the command prints
        command = line[2:]
        while command.endswith("\\"):
            command = command[:-1] + lines.pop(0).removeprefix("> ")
        yield command


class Session:
    """A folder where the snippets of one document run one after another, as a reader runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("decisions"))
        shutil.copytree(ROOT / "examples", folder / "examples")
        self.environment = {
            **os.environ,
            "XDG_DATA_HOME": str(folder / "data"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "VIVACE_SERVER__PORT": self.port,
        }
        self.servers: list[subprocess.Popen[bytes]] = []

    def shell(self, command: str) -> None:
        """Run a command; one that ends with `&` is started and waited for until it listens."""
        command = command.replace(PORT, self.port)
        if command.endswith("&"):
            self._start(command.removesuffix("&"))
            return
        self._run(["bash", "-euo", "pipefail", "-c", command])

    def python(self, source: str) -> None:
        """Run a Python block as a program, which may `await` at its top level.

        A first line `# NAME.py` is the name it is saved under, for the commands that follow.
        """
        named = re.match(r"# (\w+\.py)\n", source)
        program = self.folder / (named[1] if named else "program.py")
        program.write_text(source.replace(PORT, self.port), "utf-8")
        self._run([sys.executable, "-c", RUN, str(program)])

    def close(self) -> None:
        for server in self.servers:
            server.terminate()
        for server in self.servers:
            server.wait(30)

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"

    def _start(self, command: str) -> None:
        # exec: the signal has to reach the server, not the shell around it
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment
        )
        self.servers.append(server)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            assert server.poll() is None, f"{command} ended with status {server.returncode}"
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(("127.0.0.1", int(self.port))) == 0:
                    return
            server.poll()
        raise AssertionError(f"{command} does not listen")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    try:
        yield session
    finally:
        session.close()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_runs_from_top_to_bottom(document: Path, session: Session) -> None:
    for snippet in snippets(document):
        match snippet.kind:
            case "console":
                for command in commands(snippet):
                    if not command.startswith("pip install"):
                        session.shell(command)
            case "python":
                session.python(snippet.text)
            case "toml":
                tomllib.loads(snippet.text)
            case "text":
                pass
            case kind:
                raise AssertionError(f"{document.name}: nothing here runs a block of {kind}")


def test_what_the_documents_install_is_installed_by_the_continuous_integration() -> None:
    """`.ci/run` runs the READMEs' lines that begin with `pip install`; there are no others."""
    assert "README.md" in (ROOT / ".ci" / "run").read_text("utf-8")
    for document in DOCUMENTS:
        installs = {
            command
            for snippet in snippets(document)
            if snippet.kind == "console"
            for command in commands(snippet)
            if command.startswith("pip install")
        }
        assert installs <= {"pip install .", "pip install '.[test]' && pytest"}, document.name


@pytest.mark.parametrize("readme", sorted(ROOT.glob("README*.md")), ids=lambda path: path.name)
def test_the_table_of_commands_is_complete(readme: Path) -> None:
    text = next(s.text for s in snippets(readme) if s.kind == "text")
    rows = re.findall(r"^vivace (.*?)  ", text, re.MULTILINE)
    named = set(re.findall(r"[a-z][a-z-]+", " ".join(rows)))
    assert named == {command.name for command in COMMANDS}


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_snippets_are_found() -> None:
    page = textwrap.dedent("""\
        ```console
        $ one \\
        > two
        printed
        ```
        """)
    found = [Snippet(*block) for block in BLOCK.findall(page)]
    assert [list(commands(snippet)) for snippet in found] == [["one two"]]


def test_the_glossary_has_every_public_noun_and_no_other() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    for module in (vivace.types, vivace.protocols, vivace.errors):
        section = text.split(f"(`{module.__name__}`)")[1].split("\n## ")[0]
        listed = re.findall(r"^\| (\w+) \|", section, re.MULTILINE)[1:]
        nouns = {
            name
            for name, value in vars(module).items()
            if inspect.isclass(value)
            and value.__module__.startswith(module.__name__)
            and not name.startswith("_")
        }
        assert listed == sorted(nouns), module.__name__
