"""The public names: sorted, importable, and the same everywhere they are written."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vivace


def typed_names() -> list[str]:
    """The names in `if TYPE_CHECKING` of the package, which editors and mypy see."""
    tree = ast.parse(Path(vivace.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return [
        alias.asname or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]


def test_all_is_sorted_and_complete() -> None:
    assert list(vivace.__all__) == sorted(vivace.__all__)
    assert sorted([*typed_names(), "__version__"]) == vivace.__all__
    assert dir(vivace) == vivace.__all__


@pytest.mark.parametrize("name", vivace.__all__)
def test_every_name_can_be_imported(name: str) -> None:
    assert getattr(vivace, name) is not None


def test_public_things_are_documented() -> None:
    for name in vivace.__all__:
        if name != "__version__":
            assert getattr(vivace, name).__doc__, name


def test_everyday_names_are_few_and_the_others_have_modules() -> None:
    assert 20 <= len(vivace.__all__) <= 30
    code = "import vivace; vivace.errors.BadFilter; vivace.types.Trial; vivace.protocols.Reader"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = vivace.nonsense


def test_importing_is_lazy() -> None:
    code = "import sys, vivace, vivace.cli.parser; print('numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
