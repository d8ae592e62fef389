from __future__ import annotations

import pytest

from vivace.embed import names
from vivace.embed.minilm import MiniLM
from vivace.embed.precomputed import Precomputed
from vivace.errors import BadSettings, EmbeddingError
from vivace.protocols import Embedder, TokenCounter
from vivace.settings import Embed, Settings


@pytest.mark.parametrize(("workers", "expected"), [(0, 5), (2, 2)])
def test_builtin_names_minilm(workers: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "cores", lambda: 5)
    model = names.load(Settings(embed=Embed(workers=workers)))
    try:
        assert isinstance(model, MiniLM)
        embedder: Embedder = model
        assert embedder.name == "all-MiniLM-L6-v2/int8-row/1"
        assert model.statistics()[0].threads == expected
    finally:
        model.close()


def test_a_dimension_names_the_precomputed_embedder() -> None:
    model = names.load(Settings(embed=Embed(model="given:128")))
    assert isinstance(model, Precomputed)
    assert (model.name, model.dim) == ("given:128", 128)
    model.close()


@pytest.mark.parametrize("model", ["", "Builtin", "given:", "given:0", "given:65537", "bge-small"])
def test_an_unknown_name_names_the_setting(model: str) -> None:
    with pytest.raises(BadSettings, match=r"^embed\.model: .*given:DIM"):
        names.load(Settings(embed=Embed(model=model)))


async def test_given_embeds_nothing() -> None:
    model: Embedder = Precomputed(3)
    assert not model.reads("en")
    with pytest.raises(EmbeddingError, match=r"given:3: .* Pass the vectors, or set embed\.model"):
        await model.embed(["x"], kind="query")


def test_given_counts_words_signs_and_characters() -> None:
    count: TokenCounter = Precomputed(3).count_tokens
    assert count(["", "Hello, world_1!", "检索 fast快", "안녕"]) == [0, 4, 4, 2]
