"""From ingest to snapshot: which chunks have token signs, and what reading them costs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.collection.conftest import HashEmbedder
from vivace.collection import snapshot
from vivace.embed import passages
from vivace.embed.passages import token_signs as signs_of
from vivace.engine import Collection, Engine
from vivace.protocols import Kind
from vivace.settings import Settings, load
from vivace.types import Chunk, Document, Embedded, Signs, Vectors

TEXT = "One two three. Four five six seven. " * 8
MANY = [Document(f"d{n}", f"Word{n} is here. {TEXT}") for n in range(12)]


class TokenEmbedder(HashEmbedder):
    """A word's direction is its token vector; a text about nothing has no tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def tokens(self, text: str) -> Vectors:
        rows = np.zeros((0, self.dim), np.float32)
        for word in text.lower().replace(".", "").split():
            if word == "nothing":
                return rows[:0]
            seed = sum(word.encode())
            row = np.random.default_rng(seed).standard_normal((1, self.dim), np.float32)
            rows = np.concatenate([rows, row / np.linalg.norm(row)])
        return rows

    async def embed_tokens(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        self.calls.append(len(texts))
        vectors = (await self.embed(texts, kind=kind)).vectors
        return Embedded(vectors, tuple(self.tokens(text) for text in texts))


@pytest.fixture
def embedder() -> TokenEmbedder:
    return TokenEmbedder()


def an_engine(
    embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> Engine:
    monkeypatch.setattr("vivace.embed.names.load", lambda *_: embedder)
    return Engine(settings)


def settings(tokens: str = "signs") -> Settings:
    return load(chunk={"tokens": 16, "overlap": 0}, embed__tokens=tokens)


@pytest.fixture
async def engine(embedder: TokenEmbedder, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    async with an_engine(embedder, monkeypatch, settings()) as engine:
        yield engine


async def kept(docs: Collection) -> dict[str, Signs]:
    """By the text of the chunk, as a search gets them."""
    source = docs.corpus.snapshot()
    found = source.signs(range(2_000))
    chunks = source.chunks(found)
    return {chunks[number].text: signs for number, signs in found.items()}


async def texts(docs: Collection) -> set[str]:
    return {
        chunk.text
        for document, _ in await docs.list(limit=100)
        for chunk in await docs.chunks(document.id)
    }


def agree(embedder: TokenEmbedder, found: dict[str, Signs], *, pooled: bool = False) -> None:
    for text, signs in found.items():
        assert np.array_equal(signs, signs_of(embedder.tokens(text), pooled=pooled))


async def test_every_chunk_has_its_own(docs: Collection, embedder: TokenEmbedder) -> None:
    await docs.add(MANY)
    found = await kept(docs)
    assert found.keys() == await texts(docs)
    agree(embedder, found)
    stored = docs.corpus.snapshot().signs(range(2_000)).values()
    assert (await docs.info()).signs_bytes == sum(signs.nbytes for signs in stored)


async def test_few_token_vectors_are_held_at_once(
    docs: Collection, embedder: TokenEmbedder, tmp_path: Path
) -> None:
    await docs.add(MANY)
    (tmp_path / "more.txt").write_text("Whole sentences are packed. " * 2_000)
    await docs.ingest(tmp_path / "more.txt")
    assert len(embedder.calls) > 2
    assert max(embedder.calls) <= passages.PIECE


async def test_an_edited_document_keeps_those_of_unchanged_chunks(
    docs: Collection, embedder: TokenEmbedder
) -> None:
    await docs.add([Document("d", TEXT)])
    before = len(embedder.embedded)
    await docs.add([Document("d", f"{TEXT}\n\nSomething new at the end.")])
    assert 0 < len(embedder.embedded) - before < len(await texts(docs))
    found = await kept(docs)
    assert found.keys() == await texts(docs)
    agree(embedder, found)
    await docs.delete("d")
    assert (await docs.info()).signs_bytes == 0


async def test_chunks_without_vectors_get_them_and_given_vectors_have_none(
    docs: Collection, embedder: TokenEmbedder
) -> None:
    await docs.add([Chunk("a", "Ready made."), Chunk("b", "And another.")])
    await docs.add([Chunk("c", "With a vector.")], np.ones((1, embedder.dim), np.float32))
    found = await kept(docs)
    assert found.keys() == {"Ready made.", "And another."}
    agree(embedder, found)


async def test_a_text_without_tokens_has_none(docs: Collection) -> None:
    await docs.add([Document("a", "Nothing."), Document("b", "Something.")])
    assert (await kept(docs)).keys() == {"Something."}


async def test_pooled_takes_half(
    embedder: TokenEmbedder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with an_engine(embedder, monkeypatch, settings("pooled")) as engine:
        docs = await engine.open(tmp_path / "pooled")
        await docs.add(MANY)
        found = await kept(docs)
        assert found.keys() == await texts(docs)
        agree(embedder, found, pooled=True)


@pytest.mark.parametrize("plain", [False, True], ids=["off", "an embedder without"])
async def test_without_token_signs_search_works_by_vectors(
    plain: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    embedder = HashEmbedder() if plain else TokenEmbedder()
    wanted = settings("signs" if plain else "off")
    async with an_engine(embedder, monkeypatch, wanted) as engine:
        docs = await engine.open(tmp_path / "none")
        await docs.add(MANY)
        assert await kept(docs) == {}
        assert (await docs.search("word3", 1)).hits[0].chunk.document_id == "d3"
        await docs.rebuild(reembed=True)
        assert await kept(docs) == {}


@pytest.mark.parametrize("is_open", [False, True])
async def test_reembedding_replaces_token_signs(
    is_open: bool, embedder: TokenEmbedder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    async with an_engine(embedder, monkeypatch, settings("off")) as engine:
        await (await engine.open(folder)).add(MANY)
    async with an_engine(embedder, monkeypatch, settings("pooled")) as engine:
        if is_open:
            docs = await engine.open(folder)
            assert await kept(docs) == {}
            await docs.rebuild(reembed=True)
        else:
            await engine.reembed(folder)
            docs = await engine.open(folder)
        found = await kept(docs)
        assert found.keys() == await texts(docs)
        agree(embedder, found, pooled=True)
        assert await docs.verify() == []


async def test_what_was_read_comes_from_memory(
    docs: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await docs.add(MANY)
    asked: list[list[int]] = []
    store = docs.corpus.store
    read = store.signs

    def counting(ids: Iterable[int]) -> dict[int, Signs]:
        asked.append(list(ids))
        return read(asked[-1])

    monkeypatch.setattr(store, "signs", counting)
    source = docs.corpus.snapshot()
    first = source.signs([3, 1, 999])
    assert source.signs([1, 3]).keys() == first.keys() == {1, 3}
    assert source.signs([999]) == {}
    source.signs([1, 2])
    assert asked == [[3, 1, 999], [2]]
    assert not first[1].flags.writeable
    monkeypatch.setattr(snapshot, "_SIGNS_KEPT", 2_000)
    source.signs(range(4, 10))
    source.signs([1])
    assert asked[2:] == [list(range(4, 10)), [1]]
    assert source._signs.bytes <= 2_000
    await docs.add([Document("later", "Another epoch.")])
    docs.corpus.snapshot().signs([1])
    assert asked[-1] == [1]
