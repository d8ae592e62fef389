from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vivace.embed import minilm
from vivace.embed.local import Text
from vivace.embed.minilm import MiniLM
from vivace.errors import EmbeddingError
from vivace.types import Vectors

ENGLISH = [
    "How do I reset my password?",
    "The cat sat on the mat. " * 12,
    "Paris",
    "Quantum error correction protects information from decoherence, at the price of qubits.",
    "3.14159",
    "",
]


@pytest.fixture(scope="module")
def model() -> Iterator[MiniLM]:
    model = MiniLM(workers=2, batch=8)
    yield model
    model.close()


async def vectors(model: MiniLM, *texts: str) -> Vectors:
    return (await model.embed(texts, kind="passage")).vectors


async def test_vectors_are_float32_of_unit_length(model: MiniLM) -> None:
    found = await vectors(model, *ENGLISH)
    assert found.dtype == np.float32
    assert found.shape == (len(ENGLISH), 384) == (len(ENGLISH), model.dim)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


async def test_no_texts_give_no_vectors(model: MiniLM) -> None:
    found = (await model.embed([], kind="query")).vectors
    assert (found.shape, found.dtype) == ((0, 384), np.dtype(np.float32))


async def test_a_vector_never_depends_on_its_batch_mates(model: MiniLM) -> None:
    together = await vectors(model, *ENGLISH)
    alone = np.concatenate([await vectors(model, text) for text in ENGLISH])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    # Past the batcher, which would choose batch mates of its own: all in one forward pass.
    items = [Text(text, "query") for text in ENGLISH]
    np.testing.assert_allclose(np.stack(model.encode(items)), alone, atol=1e-6)


async def test_a_question_and_a_passage_have_the_same_vector(model: MiniLM) -> None:
    question = (await model.embed(["Paris"], kind="query")).vectors
    np.testing.assert_allclose(question, await vectors(model, "Paris"), atol=1e-6)


async def test_paraphrases_are_nearer_than_strangers(model: MiniLM) -> None:
    a, b, c = await vectors(
        model,
        "How can I change my password?",
        "What are the steps to reset a login password?",
        "The volcano erupted in the summer of 1883.",
    )
    assert a @ b > 0.6 > 0.3 > a @ c


async def test_only_the_first_256_tokens_count(model: MiniLM) -> None:
    long = "word " * 254
    full, longer, shorter = await vectors(model, long, long + "volcano " * 50, "word " * 253)
    np.testing.assert_allclose(full, longer, atol=1e-6)
    assert np.abs(full - shorter).max() > 1e-4
    feed = minilm.MiniLMTokenizer(minilm.FOLDER / "tokenizer.json").feed([long + "more"])
    assert feed["input_ids"].shape == (1, 256)
    assert feed["input_ids"][0, [0, -1]].tolist() == [101, 102]


async def test_a_huge_text_is_cut_before_it_is_tokenised(model: MiniLM) -> None:
    found = await vectors(model, "lorem ipsum " * 500_000)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


async def test_a_lone_surrogate_is_embedded(model: MiniLM) -> None:
    broken, mended = await vectors(model, "caf\ud800e and tea", "caf?e and tea")
    np.testing.assert_allclose(broken, mended, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "维瓦切是一个检索增强生成引擎。",
        "これは日本語の文章です。",
        "안녕하세요",
        "Это русский текст.",
    ],
)
async def test_a_passage_it_cannot_read_has_a_zero_vector(model: MiniLM, text: str) -> None:
    english, unread = await vectors(model, "It reads English.", text)
    assert english.any()
    assert not unread.any()
    question = (await model.embed([text], kind="query")).vectors
    assert question.any()


async def test_unread_passages_do_not_even_load_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(minilm, "open_session", opened.append)
    model = MiniLM(workers=1, batch=8)
    try:
        assert not (await vectors(model, "维瓦切", "检索")).any()
        assert not opened
        assert model.statistics()[0].done == 2
    finally:
        model.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain English", True),
        ("3.14159 + 2", True),
        ("", True),
        ("— … ？！", True),
        ("Où est la bibliothèque ?", True),
        ("维瓦切", False),
        ("Быстрый поиск", False),
        ("Γρήγορα", False),
    ],
)
def test_latin_text_and_text_without_letters_are_readable(text: str, expected: bool) -> None:
    assert minilm.readable(text) is expected


def test_reads_english_only(model: MiniLM) -> None:
    assert model.reads("en")
    assert not any(model.reads(code) for code in ("zh", "ja", "ko", "und"))


def test_tokens_are_counted_without_special_ones_and_without_a_limit(model: MiniLM) -> None:
    assert model.count_tokens(["", "hello", "hello world", "word " * 1_000]) == [0, 1, 2, 1_000]
    assert model.count_tokens([]) == []


async def test_a_closed_embedder_says_so() -> None:
    model = MiniLM(workers=1, batch=8)
    model.close()
    model.close()
    with pytest.raises(EmbeddingError, match="vivace-embed is closed"):
        await model.embed(["x"], kind="query")


async def test_a_failing_runtime_is_an_embedding_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def run(self, *_: object) -> None:
            raise RuntimeError("out of memory")

        def ids(self, _: str) -> list[int]:
            raise RuntimeError("tokenizer panic")

    monkeypatch.setattr(minilm, "open_session", lambda _: Broken())
    model = MiniLM(workers=1, batch=8)
    try:
        with pytest.raises(EmbeddingError, match="out of memory"):
            await model.embed(["x"], kind="query")
    finally:
        model.close()
    monkeypatch.setattr(minilm, "MiniLMTokenizer", lambda _: Broken())
    model = MiniLM(workers=1, batch=8)
    with pytest.raises(EmbeddingError, match="tokenizer panic"):
        model.count_tokens(["x"])
    model.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(minilm.FOLDER, tmp_path / "minilm"))


def test_the_files_are_those_of_the_manifest() -> None:
    minilm.check_files(hashes=True)
    manifest = json.loads((minilm.FOLDER / "manifest.json").read_bytes())
    assert manifest["dim"] == minilm.DIM
    assert manifest["max_tokens"] == minilm.MAX_TOKENS
    assert manifest["languages"] == ["en"]
    for name in ("LICENSE-APACHE-2.0", "LICENSE-MIT", "NOTICE"):
        assert (minilm.FOLDER / name).stat().st_size > 500


def test_a_changed_file_is_found_out(folder: Path) -> None:
    path = folder / "tokenizer.json"
    text = path.read_bytes()
    path.write_bytes(b" " + text[:-1])
    minilm.check_files(folder)
    with pytest.raises(EmbeddingError, match="sha256"):
        minilm.check_files(folder, hashes=True)
    path.write_bytes(text[:-1])
    with pytest.raises(EmbeddingError, match=r"tokenizer\.json: \d+ bytes, not \d+"):
        MiniLM(workers=1, batch=1, folder=folder)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    for hashes in (False, True):
        with pytest.raises(EmbeddingError, match=name):
            minilm.check_files(folder, hashes=hashes)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
async def test_a_damaged_file_of_the_right_size_is_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(b"\xff" * path.stat().st_size)
    model = MiniLM(workers=1, batch=1, folder=folder)
    try:
        with pytest.raises(EmbeddingError, match=name):
            await model.embed(["x"], kind="query")
    finally:
        model.close()


def test_importing_and_making_it_is_cheap_and_loading_it_is_silent() -> None:
    program = """
import asyncio, sys
from vivace.embed.minilm import MiniLM
model = MiniLM(workers=1, batch=8)
assert not {"onnxruntime", "tokenizers"} & set(sys.modules)
asyncio.run(model.embed(["x"], kind="query"))
assert {"onnxruntime", "tokenizers"} < set(sys.modules)
model.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
