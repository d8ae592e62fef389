"""Another embedder for an old collection: nothing is lost, and nobody sees half of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.collection.conftest import HashEmbedder
from vivace.collection import upkeep
from vivace.engine import Engine
from vivace.errors import CollectionLocked, CollectionNotFound, EmbedderMismatch, EmbeddingError
from vivace.protocols import Kind
from vivace.settings import load
from vivace.store.connections import WriteLock
from vivace.types import Document, Embedded, UpkeepProgress

DOCUMENTS = [Document(f"d{n}", f"Word{n} is here. And there.", f"Title {n}") for n in range(40)]


class Other(HashEmbedder):
    """Another name and dimension; breaks after so many texts."""

    name = "other"
    dim = 16

    def __init__(self, breaks_after: int = 1_000_000) -> None:
        super().__init__()
        self.breaks_after = breaks_after

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        if len(self.embedded) + len(texts) > self.breaks_after:
            raise EmbeddingError("no more", fix="Wait")
        return await super().embed(texts, kind=kind)


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_BATCH", 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "collection"


@pytest.fixture
async def old(engine: Engine, folder: Path) -> Engine:
    docs = await engine.open(folder)
    await docs.add(DOCUMENTS)
    return engine


def another(monkeypatch: pytest.MonkeyPatch, embedder: HashEmbedder) -> Engine:
    monkeypatch.setattr("vivace.embed.names.load", lambda *_: embedder)
    return Engine(load(chunk={"tokens": 16, "overlap": 0}))


async def test_the_error_names_the_command(
    old: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with another(monkeypatch, Other()) as engine:
        with pytest.raises(EmbedderMismatch, match="vivace rebuild --reembed"):
            await engine.open(folder)


async def test_all_chunks_and_the_answers_of_a_fresh_build(
    old: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[UpkeepProgress] = []
    async with another(monkeypatch, Other()) as engine:
        done = await engine.reembed(folder, progress=steps.append)
        docs = await engine.open(folder, create=False)
        fresh = await engine.open(tmp_path / "fresh")
        await fresh.add(DOCUMENTS)
        assert (await docs.info()).dim == 16
        for question in ("word7", "word31 there", "here"):
            found, expected = [await c.search(question, 5) for c in (docs, fresh)]
            assert [(h.chunk.text, h.score) for h in found.hits] == [
                (h.chunk.text, h.score) for h in expected.hits
            ]
        (decision,) = [d for d in await docs.decisions() if d.what == "reembed"]
        assert decision.evidence["chunks"] == done.chunks
        assert decision.before == {"embedder": "hash", "dim": 32}
        assert await docs.verify() == []
        # and it goes on living
        await docs.add([Document("new", "Something quite new.")])
        assert (await docs.search("quite new", 1)).hits[0].chunk.document_id == "new"
    assert done.embedded == done.chunks == steps[0].total
    assert [step.done for step in steps if step.step == "embed"][:3] == [0, 8, 16]


async def test_who_has_it_open_sees_the_old_state_and_then_an_error(
    old: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = await old.open(folder)
    seen: list[int] = []
    async with another(monkeypatch, Other()) as engine:

        async def searching() -> None:
            while True:  # from memory, mostly: as fast as the loop turns
                seen.append(len((await docs.search("word3")).hits))

        work = asyncio.create_task(engine.reembed(folder))
        asking = asyncio.create_task(searching())
        await work
        with pytest.raises(EmbedderMismatch, match="open it again"):
            await asking
    assert set(seen) == {10}
    with pytest.raises(EmbedderMismatch):
        await docs.add([Document("late", "Too late.")])


async def test_interrupted_it_goes_on(
    old: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Other(breaks_after=30), Other()
    async with another(monkeypatch, first) as engine:
        with pytest.raises(EmbeddingError):
            await engine.reembed(folder)
    docs = await old.open(folder)  # as it was, and writable
    assert (await docs.search("word39", 1)).hits[0].chunk.document_id == "d39"
    await docs.delete("d1")
    await docs.add([Document("d0", "Changed meanwhile.")])
    async with another(monkeypatch, second) as engine:
        done = await engine.reembed(folder)
        assert done.embedded == len(second.embedded) < done.chunks
        assert {"Changed meanwhile."} <= set(second.embedded)
        docs = await engine.open(folder)
        assert (await docs.search("changed meanwhile", 1)).hits[0].chunk.document_id == "d0"
        assert "d1" not in {hit.chunk.document_id for hit in (await docs.search("word1", 50)).hits}


async def test_another_embedder_starts_again(
    old: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with another(monkeypatch, Other(breaks_after=30)) as engine:
        with pytest.raises(EmbeddingError):
            await engine.reembed(folder)
    third = Other()
    third.name = "third"
    async with another(monkeypatch, third) as engine:
        done = await engine.reembed(folder)
    assert done.embedded == done.chunks


async def test_a_cancelled_reembedding_continues(
    old: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with another(monkeypatch, Other()) as engine:
        reached = asyncio.Event()

        def progress(now: UpkeepProgress) -> None:
            if now.done >= 16:
                reached.set()

        work = asyncio.create_task(engine.reembed(folder, progress=progress))
        await reached.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        done = await engine.reembed(folder)
        assert 0 < done.embedded < done.chunks


async def test_with_the_same_embedder_under_an_open_collection(old: Engine, folder: Path) -> None:
    docs = await old.open(folder)
    before = await docs.search("word5", 5)
    await docs.rebuild(reembed=True)
    after = await docs.search("word5", 5)
    assert [(h.chunk.id, h.score) for h in after.hits] == [
        (h.chunk.id, h.score) for h in before.hits
    ]
    embedder = old.resources.embedder
    assert isinstance(embedder, HashEmbedder)

    async def elsewhere(texts: Sequence[str], *, kind: Kind) -> Embedded:
        rows = np.zeros((len(texts), 32), np.float32)
        rows[:, 31] = 1
        return Embedded(rows)

    embedder.embed = elsewhere  # type: ignore[method-assign]
    await old.reembed(folder)
    found = await docs.search("", 50, vector=np.eye(32, dtype=np.float32)[31])
    assert {round(hit.score, 3) for hit in found.hits} == {1.0}


async def test_reembedding_needs_a_collection_and_its_lock(
    old: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with another(monkeypatch, Other()) as engine:
        with pytest.raises(CollectionNotFound):
            await engine.reembed(tmp_path / "nowhere")
        lock = WriteLock(folder)
        lock.acquire()
        with pytest.raises(CollectionLocked):
            await engine.reembed(folder)
        lock.release()
