"""Cross-encoders from a folder: a real ONNX model, made here, that counts shared tokens."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivace.errors import BadSettings, MissingExtra, RerankError
from vivace.retrieve.rerankers.cross_encoder import MAX_TOKENS, CrossEncoder
from vivace.run import work
from vivace.types import Chunk, Hit, Query

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "how", "reset", "password", "volcano", "erupted", "a"]


def hits(*texts: str) -> list[Hit]:
    return [Hit(Chunk("d", text, id=at), 1.0) for at, text in enumerate(texts)]


def write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(pad_id=0, length=64)
    tokenizer.save(str(path))


def write_model(path: Path, outputs: int = 1, factor: float = 1.0) -> None:
    """score = factor * how many (question token, passage token) pairs are equal and real words."""
    onnx = pytest.importorskip("onnx")
    helper, proto = onnx.helper, onnx.TensorProto
    names = ("input_ids", "attention_mask", "token_type_ids")
    node = helper.make_node
    nodes = [
        node("Unsqueeze", ["input_ids", "two"], ["as_rows"]),
        node("Unsqueeze", ["input_ids", "one"], ["as_columns"]),
        node("Equal", ["as_rows", "as_columns"], ["equal"]),
        node("Greater", ["input_ids", "specials"], ["words"]),
        node("Cast", ["words"], ["word"], to=proto.INT64),
        node("Mul", ["word", "attention_mask"], ["real"]),
        node("Mul", ["real", "token_type_ids"], ["second"]),
        node("Sub", ["real", "second"], ["first"]),
        node("Unsqueeze", ["first", "two"], ["first_rows"]),
        node("Unsqueeze", ["second", "one"], ["second_columns"]),
        node("Mul", ["first_rows", "second_columns"], ["across"]),
        node("Cast", ["equal"], ["same"], to=proto.INT64),
        node("Mul", ["across", "same"], ["shared"]),
        node("ReduceSum", ["shared", "both"], ["count"], keepdims=0),
        node("Cast", ["count"], ["number"], to=proto.FLOAT),
        node("Mul", ["number", "factor"], ["scaled"]),
        node("Unsqueeze", ["scaled", "one"], ["column"]),
        node("Concat", ["column"] * outputs, ["logits"], axis=1),
    ]
    integers = {"one": [1], "two": [2], "both": [1, 2], "specials": [3]}
    constants = [helper.make_tensor(k, proto.INT64, [len(v)], v) for k, v in integers.items()]
    constants.append(helper.make_tensor("factor", proto.FLOAT, [], [factor]))
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info(name, proto.INT64, ["n", "t"]) for name in names],
        [helper.make_tensor_value_info("logits", proto.FLOAT, ["n", outputs])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    write_model(folder / "onnx" / "model.onnx")
    write_tokenizer(folder / "tokenizer.json")
    return folder


@pytest.fixture
async def model(folder: Path) -> AsyncIterator[CrossEncoder]:
    model = CrossEncoder(str(folder), workers=2, batch=4)
    yield model
    await model.close()


async def test_the_right_passage_wins(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastembed", None)  # a folder needs none
    passages = hits("a volcano erupted", "reset a password", "", "how", "caf\ud800e")
    found = await model.score(Query("how reset password"), passages)
    assert found.dtype == np.float32
    assert found.tolist() == [0, 2, 0, 1, 0]
    assert model.name == "fastembed:tiny"
    assert (await model.score(Query("how"), [])).shape == (0,)
    assert (await model.score(Query("volcano \ud800"), passages)).tolist() == [1, 0, 0, 0, 0]


async def test_scores_do_not_depend_on_batch_mates(model: CrossEncoder) -> None:
    texts = ["password " * n + "a " * (40 - n) for n in range(1, 30)]
    questions = [Query("reset password"), Query("how"), Query("password")]
    together = await asyncio.gather(*(model.score(query, hits(*texts)) for query in questions))
    assert together[0].tolist() == list(range(1, 30))
    assert not together[1].any()
    for text, score in zip(texts[::7], together[2][::7], strict=True):
        assert (await model.score(questions[2], hits(text))).tolist() == [score]


async def test_a_long_pair_is_cut_on_its_longer_side(model: CrossEncoder) -> None:
    found = await model.score(Query("password"), hits("password " * 800, "a " * 800 + "password"))
    assert found.tolist() == [MAX_TOKENS - 4, 0]


async def test_closed_or_late_is_a_rerank_error(model: CrossEncoder) -> None:
    with work.work_context(seconds=0), pytest.raises(RerankError, match="fastembed:tiny"):
        await model.score(Query("how"), hits("how"))
    await model.close()
    await model.close()
    with pytest.raises(RerankError, match="closed"):
        await model.score(Query("how"), hits("how"))


def test_a_folder_without_a_cross_encoder_is_refused(tmp_path: Path, folder: Path) -> None:
    def load(where: Path) -> Any:
        return CrossEncoder(str(where), workers=1, batch=1)

    with pytest.raises(BadSettings, match="holds no model"):
        load(tmp_path)
    write_model(folder / "model.onnx", outputs=3)
    with pytest.raises(RerankError, match=r"shape \(1, 3\)"):
        load(folder)
    (folder / "model.onnx").write_bytes(b"rubbish")
    with pytest.raises(RerankError, match=r"model\.onnx"):
        load(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(RerankError, match=r"tokenizer\.json"):
        load(folder)


def test_a_model_that_gives_nan_is_refused(folder: Path) -> None:
    write_model(folder / "model.onnx", factor=float("nan"))
    with pytest.raises(RerankError, match="NaN"):
        CrossEncoder(str(folder), workers=1, batch=1)


def test_an_unknown_name_or_a_missing_fastembed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastembed")
    with pytest.raises(BadSettings, match="no reranker named 'no/such'"):
        CrossEncoder("no/such", workers=1, batch=1)
    monkeypatch.setitem(sys.modules, "fastembed.rerank.cross_encoder", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vivace\[models\]'"):
        CrossEncoder("no/such", workers=1, batch=1)


async def test_a_named_model_is_scored_by_fastembed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model can be downloaded here: the library's class stands in, with its own signature."""
    module = pytest.importorskip("fastembed.rerank.cross_encoder")
    library = module.TextCrossEncoder
    monkeypatch.setattr(library, "__init__", lambda self, name, **options: None)
    monkeypatch.setattr(
        library,
        "rerank_pairs",
        lambda self, pairs, batch_size: (float(len(passage)) for _, passage in pairs),
    )
    name = library.list_supported_models()[0]["model"]
    model = CrossEncoder(name, workers=1, batch=8)
    try:
        assert (await model.score(Query("q"), hits("a", "abc"))).tolist() == [1, 3]
        assert model.name == f"fastembed:{name}"
    finally:
        await model.close()
