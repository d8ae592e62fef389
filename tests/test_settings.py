"""Where a setting comes from, what wins, and how a mistake is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

from vivace.errors import BadSettings
from vivace.settings import Settings, describe, load, markdown, trust

ROOT = Path(__file__).parents[1]


def kinds(struct: type[msgspec.Struct] = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the tree with its type."""
    for name, kind in get_type_hints(struct).items():
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from kinds(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


KINDS = dict(kinds())


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load().chunk.tokens == 200
    (tmp_path / "vivace.toml").write_text("[chunk]\ntokens = 100\noverlap = 10\n")
    assert load().chunk.tokens == 100
    monkeypatch.setenv("VIVACE_CHUNK__TOKENS", "110")
    assert (load().chunk.tokens, load().chunk.overlap) == (110, 10)
    assert load(chunk__tokens=120).chunk.tokens == 120
    assert load(chunk={"tokens": 130}).chunk.tokens == 130


def test_variables_of_tests_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVACE_TEST_DATA", "/anywhere")
    load()


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().home == str(tmp_path / "xdg" / "vivace")
    monkeypatch.setenv("VIVACE_HOME", "/elsewhere")
    assert load().home == "/elsewhere"
    monkeypatch.delenv("VIVACE_HOME")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert load().home.endswith(".local/share/vivace")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("VIVACE_EMBED__MODLE", "x", r"environment VIVACE_EMBED__MODLE: embed.modle: no such"),
        ("VIVACE_NOTHING", "x", r"nothing: no such setting"),
        ("VIVACE_CHUNK__TOKENS", "many", r"chunk.tokens: Expected `int`"),
        ("VIVACE_CHUNK__TOKENS", "3", r"chunk.tokens: Expected `int` >= 16"),
        ("VIVACE_EMBED", "x", r"embed: Expected `object`"),
        ("VIVACE_CACHE__POLICY", "gdsf", r"cache.policy: .*'gdsf'. Use one of auto, lru, lfu"),
    ],
)
def test_mistakes_name_the_key(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings, match=message):
        load()


def test_mistakes_in_arguments_and_files(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"keyword arguments: search.k: no such"):
        load(search__k=3)
    with pytest.raises(BadSettings, match=r"none.toml"):
        load(tmp_path / "none.toml")
    path = tmp_path / "bad.toml"
    path.write_text("[embed]\nmodel = 3")
    with pytest.raises(BadSettings, match=r"bad.toml: embed.model: Expected `str`"):
        load(path)
    path.write_text("[embed")
    with pytest.raises(BadSettings, match=r"bad.toml"):
        load(path)


def test_the_reference_page_is_true() -> None:
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == markdown()


def test_describe_is_plain() -> None:
    assert describe(load())["embed"]["model"] == "builtin"


def test_every_key_is_classified() -> None:
    both = trust.FOLDER_KEYS & trust.TRUSTED_KEYS
    new = KINDS.keys() - trust.FOLDER_KEYS - trust.TRUSTED_KEYS
    gone = (trust.FOLDER_KEYS | trust.TRUSTED_KEYS) - KINDS.keys()
    assert both | new | gone == set(), (
        "list each key of the settings tree once in settings/trust.py: in FOLDER_KEYS only if a"
        " hostile folder may set it"
    )
