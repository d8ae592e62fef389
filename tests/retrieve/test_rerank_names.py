"""Rerankers as `search.rerank` names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.errors import BadSettings
from vivace.retrieve import rerankers
from vivace.retrieve.rerankers.cross_encoder import CrossEncoder
from vivace.retrieve.rerankers.http import HttpReranker
from vivace.settings import Embed, Remote, Search, Settings

from .test_cross_encoder import write_model, write_tokenizer


def named(name: str, key: str = "") -> Settings:
    return Settings(search=Search(rerank=name), embed=Embed(workers=1), remote=Remote(api_key=key))


@pytest.mark.parametrize("name", ["auto", "off", "maxsim"])
def test_names_of_what_the_search_does_itself_load_nothing(name: str) -> None:
    assert rerankers.load(named(name)) is None


async def test_a_name_at_urls_loads_a_client_of_those_servers() -> None:
    found = rerankers.load(named("BAAI/bge-reranker:v2@http://a:1/v1,https://b/v2*3#tei"))
    assert isinstance(found, HttpReranker)
    try:
        assert found.name == "rerank:BAAI/bge-reranker:v2"
        servers = found.server_statistics().servers
        assert [(one.name, one.weight) for one in servers] == [
            ("http://a:1/v1", 1),
            ("https://b/v2", 3),
        ]
    finally:
        await found.close()


async def test_a_folder_loads_a_cross_encoder(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    write_tokenizer(tmp_path / "tokenizer.json")
    found = rerankers.load(named(f"fastembed:{tmp_path}"))
    assert isinstance(found, CrossEncoder)
    await found.close()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "on",
        "fastembed:",
        "bge@hush",
        "openai:bge@http://h/v1?hush",
        "bge@http://u:hush@h/v1",
        "bge@http://h/v1?hush",
        "bge@http://h/v1,hush",
        "bge@http://h/v1*0",
        "bge@http://h/v1,http://h/v1",
        "bge@http://h/v1#hush",
    ],
)
def test_anything_else_is_refused_with_a_fix_and_without_secrets(name: str) -> None:
    with pytest.raises(BadSettings, match=r"search\.rerank") as raised:
        rerankers.load(named(name))
    assert raised.value.fix
    assert "hush" not in str(raised.value)
    assert "openai:N" not in raised.value.fix


def test_a_key_with_impossible_characters_is_refused_unseen() -> None:
    with pytest.raises(BadSettings, match=r"remote\.api_key") as raised:
        rerankers.load(named("bge@http://h/v1", key="hush\n"))
    assert "hush" not in str(raised.value)
