"""A `vivace.toml` that lies in the working folder: what it may set, and how it is trusted."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Literal, get_args, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.model_server import ModelServerDouble
from tests.support.profiles import fuzzed
from tests.test_settings import KINDS
from vivace import Engine
from vivace.cli import main
from vivace.cli.parser import BAD_INPUT, OK
from vivace.errors import BadSettings
from vivace.settings import describe, is_secret, load, trust, trust_file

KEY = "sk-canary-of-the-environment"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`vivace.toml` of the working folder, not yet written."""
    folder = tmp_path / "a stranger's folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder / "vivace.toml"


def toml(key: str, value: str) -> str:
    section, _, name = key.rpartition(".")
    return f"[{section}]\n{name} = {value}\n" if section else f"{name} = {value}\n"


# -- what a folder may set ------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(trust.FOLDER_KEYS))
def test_a_folder_sets_numbers_switches_and_choices_only(key: str) -> None:
    kind = KINDS[key]
    assert kind in (bool, int, float) or get_origin(kind) is Literal
    assert not is_secret(key)


@pytest.mark.parametrize(
    "key",
    [
        *(key for key, kind in KINDS.items() if kind is str),
        *(
            key
            for key in KINDS
            if key.startswith(("parse.", "admission.", "remote.", "server.max"))
        ),
        "ingest.max_file_mib",
        "server.max_body_mib",
        "search.max_question_chars",
        "generate.max_tokens",
    ],
)
def test_addresses_paths_models_prompts_secrets_and_limits_need_trust(file: Path, key: str) -> None:
    value = {str: '"1"', int: "64", float: "1.0", bool: "true"}.get(KINDS[key])
    if value is None:
        value = f'"{get_args(KINDS[key])[0]}"'
    file.write_text(toml(key, value))
    with pytest.raises(BadSettings) as refused:
        load()
    assert key in str(refused.value)


def test_a_folder_may_tune_what_is_found(file: Path) -> None:
    file.write_text('[chunk]\ntokens = 100\n[index]\nfamily = "hnsw"\n[answer]\npassages = 3\n')
    found = load()
    assert (found.chunk.tokens, found.index.family, found.answer.passages) == (100, "hnsw", 3)


# -- refusal and trust ----------------------------------------------------------------------


def test_the_refusal_names_the_keys_the_file_and_both_ways_out(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text('[cache]\nsql = "notes.txt"\n[generate]\nsystem = "obey"\n')
    assert main(["settings"]) == BAD_INPUT
    error = capsys.readouterr().err
    quoted = "'" + str(file).replace("'", "'\"'\"'") + "'"
    for part in (str(file), "cache.sql and generate.system", f"vivace trust {quoted}"):
        assert part in error
    assert f"--config {quoted}" in error
    assert "obey" not in error


def test_a_file_named_by_config_may_set_everything(file: Path) -> None:
    file.write_text('[generate]\nsystem = "in verse"\n')
    assert load(file).generate.system == "in verse"
    assert main(["settings", "--config", str(file)]) == OK


def test_trust_lasts_until_the_file_changes(file: Path) -> None:
    file.write_text('[generate]\nsystem = "in verse"\n')
    assert main(["trust"]) == OK
    assert load().generate.system == "in verse"
    file.write_text('[generate]\nsystem = "in prose"\n')
    with pytest.raises(BadSettings, match="vivace trust"):
        load()
    assert main(["trust", str(file)]) == OK
    assert load().generate.system == "in prose"


def test_trust_is_of_one_path(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[generate]\nsystem = "in verse"\n')
    trust_file(file)
    other = tmp_path / "other"
    other.mkdir()
    (other / "vivace.toml").write_bytes(file.read_bytes())
    monkeypatch.chdir(other)
    with pytest.raises(BadSettings, match=r"other/vivace\.toml"):
        load()


def test_forgotten_trust(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text('[generate]\nsystem = "in verse"\n')
    assert main(["trust"]) == main(["trust", "--forget"]) == OK
    assert "no longer trusted" in capsys.readouterr().out
    with pytest.raises(BadSettings, match="vivace trust"):
        load()
    assert main(["trust", "--forget", "--json"]) == OK
    assert '"was_trusted":false' in capsys.readouterr().out


def test_trusting_shows_what_needs_it_without_secrets(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(
        f'[generate]\nmodel = "openai:m@https://user:{KEY}@host/v1"\napi_key = "{KEY}"\n'
        "[chunk]\ntokens = 99\n"
    )
    assert main(["trust", "--json"]) == OK
    out = capsys.readouterr().out
    assert msgspec.json.decode(out)["settings"] == {
        "generate.api_key": "***",
        "generate.model": "openai:m@https://***@host/v1",
    }
    file.write_text("[chunk]\ntokens = 99\n")
    assert main(["trust"]) == OK
    assert "nothing in it needs trust" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[embed", '[embed]\nmodle = "x"\n', "\x00"])
def test_what_is_no_settings_file_is_not_trusted(file: Path, content: str) -> None:
    file.write_text(content)
    assert main(["trust"]) == BAD_INPUT
    assert main(["trust", str(file.with_name("none.toml"))]) == BAD_INPUT
    assert not (trust.data_home() / "trusted.json").exists()


def test_the_list_of_trusted_files_is_the_users_own(file: Path) -> None:
    file.write_text('[generate]\nsystem = "in verse"\n')
    trust_file(file)
    home = trust.data_home()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()] == [0o600]


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b"\xff", b'{"a": 1}', b"[" * 100_000])
def test_a_damaged_list_trusts_nothing_and_is_replaced(file: Path, damage: bytes) -> None:
    file.write_text('[generate]\nsystem = "in verse"\n')
    trust_file(file)
    (trust.data_home() / "trusted.json").write_bytes(damage)
    with pytest.raises(BadSettings, match="vivace trust"):
        load()
    trust_file(file)
    assert load().generate.system == "in verse"


def test_a_pipe_or_a_device_is_no_settings_file(file: Path) -> None:
    file.symlink_to("/dev/zero")
    assert load() == load(home="")  # as if there were none
    with pytest.raises(BadSettings, match="KiB"):
        load(file)


# -- where keys go --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml_key", "form", "key_variable"),
    [
        ("generate.model", "openai:m@{}", "VIVACE_GENERATE__API_KEY"),
        ("embed.model", "openai:m@{}#4", "VIVACE_REMOTE__API_KEY"),
        ("search.rerank", "m@{}", "VIVACE_REMOTE__API_KEY"),
    ],
)
def test_a_key_of_the_environment_is_not_sent_where_an_untrusted_file_says(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    toml_key: str,
    form: str,
    key_variable: str,
) -> None:
    monkeypatch.setenv(key_variable, KEY)
    document = file.with_name("leave.md")
    document.write_text("# Leave\n\nThe notice period is six weeks.\n")
    with ModelServerDouble() as server:
        file.write_text(toml(toml_key, f'"{form.format(server.url)}"'))
        command = ["ask", "--docs", str(document.parent), "How long is the notice period?"]
        assert main(command) == BAD_INPUT
        with pytest.raises(BadSettings):
            Engine()
        assert server.opened == 0
        assert KEY not in "".join(capsys.readouterr())
        # the same, trusted: the key does go there, so the silence above was the refusal's
        assert main(["trust"]) == OK
        main(command)
        assert f"Bearer {KEY}" in {r.headers.get("Authorization") for r in server.requests}


# -- fuzz -----------------------------------------------------------------------------------

_VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.booleans().map(lambda value: str(value).lower()),
    st.text(st.characters(exclude_categories=["Cs"])).map(json.dumps),
    st.sampled_from(["[1, 2]", "{a = 1}", "1979-05-27", "nan", "inf", "0x7f", '"""', "'auto'", ""]),
)
_NAMES = st.one_of(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(sorted({key.partition(".")[0] for key in KINDS})),
    st.text("ab.'\"[]-_ ", max_size=9),
)
_LINES = st.one_of(
    st.tuples(_NAMES, _VALUES).map(" = ".join),
    _NAMES.map("[{}]".format),
    _NAMES.map("[[{}]]".format),
    st.text(max_size=20),
)
_FILES = st.one_of(
    st.binary(max_size=200),
    st.lists(_LINES, max_size=12).map(lambda lines: "\n".join(lines).encode("utf-8", "replace")),
)


@pytest.mark.timeout(1200)
@settings(max_examples=fuzzed())
@given(content=_FILES)
def test_any_file_is_read_or_refused_at_once(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(content)
    began = time.process_time()
    try:
        found = load(path)
    except BadSettings:
        return
    finally:
        assert time.process_time() - began < 1
    assert load(path) == found
    assert msgspec.json.encode(describe(found))


@pytest.mark.parametrize(
    "content",
    [
        "a" + ".a" * 30_000 + " = 1",
        "[" + "a." * 30_000 + "a]",
        ("a" + ".a" * 99 + " = 1\n") * 300,
        "a = " + "[" * 60_000,
        "a = " + "{b = " * 9_000,
        "a = " + "9" * 60_000,
        "a = 1." + "9" * 60_000,
        "a = '''" + "'" * 60_000,
        "[[a]]\n" + "[[a.b]]\n" * 7_000,
        "x" * 70_000,
    ],
    ids=range(10),
)
def test_files_made_to_exhaust_the_parser_are_refused_at_once(file: Path, content: str) -> None:
    file.write_text(content)
    began = time.process_time()
    with pytest.raises(BadSettings):
        load()
    assert time.process_time() - began < 1
