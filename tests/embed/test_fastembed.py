"""Models of the fastembed library, with the built-in weights in a folder of their own."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vivace.embed import minilm, names
from vivace.embed.fastembed import FastEmbed
from vivace.embed.minilm import MiniLM
from vivace.errors import BadSettings, EmbeddingError, MissingExtra
from vivace.settings import Embed, Settings


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "fastembed", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vivace\[models\]'"):
        names.load(Settings(embed=Embed(model=f"fastembed:{tmp_path}")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("fastembed")
    folder = tmp_path_factory.mktemp("models") / "mini"
    folder.mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        shutil.copy(minilm.FOLDER / name, folder)
    config = {"model_max_length": 256, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[FastEmbed]:
    model = FastEmbed(str(folder), workers=2, batch=4)
    yield model
    model.close()


async def test_a_folder_with_a_model_is_an_embedder(model: FastEmbed, folder: Path) -> None:
    assert re.fullmatch(r"fastembed:mini/[0-9a-f]{16}", model.name)
    assert model.dim == 384
    texts = ["How do I reset my password?", "The volcano erupted.", "", "caf\ud800e"] * 3
    found = (await model.embed(texts, kind="passage")).vectors
    assert found.shape == (12, 384)
    assert found.dtype == np.float32
    ours = MiniLM(workers=1, batch=8)
    try:
        expected = (await ours.embed(texts, kind="query")).vectors
    finally:
        ours.close()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (await model.embed([], kind="query")).vectors.shape == (0, 384)
    assert model.reads("zh")
    assert model.count_tokens(["检索"]) == [2]


def test_what_vectors_depend_on_is_in_the_name(
    model: FastEmbed, folder: Path, tmp_path: Path
) -> None:
    """A model trained further has the size of the first, and other vectors."""

    def name(copy: Path) -> str:
        made = FastEmbed(str(copy), workers=1, batch=1)
        made.close()
        return made.name

    copy = tmp_path / "elsewhere" / "mini"
    shutil.copytree(folder, copy)
    assert name(copy) == model.name
    weights = bytearray((copy / "model.onnx").read_bytes())
    at = len(weights) // 2
    weights[at : at + 4] = weights[at + 4 : at + 8]
    assert len(weights) == (folder / "model.onnx").stat().st_size
    (copy / "model.onnx").write_bytes(weights)
    trained = name(copy)
    assert trained != model.name
    (copy / "1_Pooling").mkdir()
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert name(copy) not in (trained, model.name)


async def test_a_closed_embedder_says_so(folder: Path) -> None:
    model = FastEmbed(str(folder), workers=1, batch=1)
    model.close()
    model.close()
    with pytest.raises(EmbeddingError, match="is closed"):
        await model.embed(["x"], kind="query")


def test_an_unknown_name_is_rejected() -> None:
    pytest.importorskip("fastembed")
    with pytest.raises(
        BadSettings, match=r"no model named 'nonsense', and there is no such folder"
    ):
        FastEmbed("nonsense", workers=1, batch=1)


def test_broken_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"holds no model\.onnx"):
        FastEmbed(str(tmp_path), workers=1, batch=1)
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(EmbeddingError, match=r"model\.onnx"):
        FastEmbed(str(tmp_path), workers=1, batch=1)
