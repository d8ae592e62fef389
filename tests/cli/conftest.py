"""The command line, run in the test's own process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from vivace.cli import main
from vivace.cli.parser import OK


class Shell:
    """Runs commands in this process and reads what they print.

    Args:
        always: appended to every command's arguments.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str], *always: str | Path) -> None:
        self._capsys = capsys
        self._always = always
        self.out = self.err = ""

    def run(self, *arguments: str | Path) -> int:
        """The exit status of one command."""
        try:
            status = main([str(argument) for argument in (*arguments, *self._always)])
        except SystemExit as ended:
            status = int(ended.code or 0)
        self.out, self.err = self._capsys.readouterr()
        return status

    def json(self, *arguments: str | Path, status: int = OK) -> dict[str, Any]:
        """The JSON object that a command prints as its last line."""
        assert self.run(*arguments, "--json") == status, self.err
        value: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return value


MakeShell: TypeAlias = Callable[..., Shell]


@pytest.fixture
def make_shell(capsys: pytest.CaptureFixture[str]) -> MakeShell:
    """Make a shell that appends arguments to every command."""
    return lambda *always: Shell(capsys, *always)


@pytest.fixture
def shell(make_shell: MakeShell) -> Shell:
    return make_shell()


@pytest.fixture
def leave_folder(tmp_path: Path) -> Path:
    """A folder with one document."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "leave.md").write_text("# Leave\n\nThe notice period is six weeks.\n")
    return folder
