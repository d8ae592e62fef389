"""Embedders behind the wire."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.model_server import DIM, ModelServerDouble, Reply
from vivace.embed import names
from vivace.embed.openai import OpenAIEmbedder
from vivace.engine import Engine
from vivace.errors import BadSettings, EmbeddingError
from vivace.run import work
from vivace.run.breaker import Tolerance
from vivace.run.model_servers import ModelServer
from vivace.run.work import Priority, work_context
from vivace.settings import Embed, Remote, Settings, load
from vivace.testing.fake_llm import FakeModel
from vivace.testing.faults import Fault
from vivace.types import Document


@pytest.fixture
def fake() -> Iterator[FakeModel]:
    with FakeModel(dim=16) as fake:
        yield fake


def embedder(fake: FakeModel, dim: str = "", **remote: Any) -> OpenAIEmbedder:
    return OpenAIEmbedder(ModelServer("e5", fake.url, dim), Remote(**{"retries": 0, **remote}))


async def test_batches_in_order_and_of_unit_length(fake: FakeModel) -> None:
    model = embedder(fake, batch=3, concurrency=2)
    try:
        assert (model.name, model.dim) == ("openai:e5", 16)
        texts = [f"text number {n}" for n in range(10)]
        texts[4] = "  "
        found = (await model.embed(texts, kind="passage")).vectors
        assert found.shape == (10, 16)
        assert found.dtype == np.float32
        lengths = np.linalg.norm(found, axis=1)
        np.testing.assert_allclose(lengths, np.array([n != 4 for n in range(10)], float), atol=1e-5)
        for n in (0, 9):
            alone = (await model.embed([texts[n]], kind="query")).vectors
            np.testing.assert_allclose(alone[0], found[n], atol=1e-6)
        assert fake.statistics().requests == 1 + 3 + 2  # the probe, nine texts by three, two alone
        assert (await model.embed([], kind="query")).vectors.shape == (0, 16)
        assert (await model.embed(["a \ud800"], kind="query")).vectors.any()
    finally:
        model.close()
    assert fake.wait(lambda s: s.connections == 0).cancelled == 0


async def test_a_dimension_given_spares_the_question(fake: FakeModel) -> None:
    model = embedder(fake, dim="16")
    try:
        assert (model.dim, fake.statistics().requests) == (16, 0)
    finally:
        model.close()


async def test_another_dimension_is_an_error(fake: FakeModel) -> None:
    model = embedder(fake, dim="8")
    try:
        with pytest.raises(EmbeddingError, match=r"answered 16 dimensions, not 8"):
            await model.embed(["x"], kind="query")
    finally:
        model.close()


@pytest.mark.parametrize("dim", ["0", "65537", "-1", "x", "١٢"])
def test_no_dimension(fake: FakeModel, dim: str) -> None:
    with pytest.raises(BadSettings, match="no dimension"):
        embedder(fake, dim=dim)


def test_reads_every_language_and_estimates_tokens(fake: FakeModel) -> None:
    model = embedder(fake, dim="16")
    try:
        assert all(model.reads(code) for code in ("en", "zh", "ja", "ko", "und"))
        assert model.count_tokens(["", "检索", "plain words"]) == [0, 2, 3]
    finally:
        model.close()


@pytest.mark.parametrize(
    ("kind", "said"),
    [("429", "openai:e5"), ("malformed", "no embeddings"), ("empty", "0 embeddings")],
)
def test_a_dimension_that_cannot_be_had_leaves_no_thread(kind: str, said: str) -> None:
    before = threading.active_count()
    with FakeModel(faults=[Fault(kind)]) as fake:
        with pytest.raises(EmbeddingError, match=said):
            embedder(fake, seconds=0.2)
        done = fake.wait(lambda s: s.running == 0 and s.connections == 0)
        assert done.requests == 1
    assert threading.active_count() == before


async def test_a_question_does_not_wait_for_a_stalled_server() -> None:
    """Documents have all the time that the settings give; a question has its own."""
    with FakeModel(faults=[Fault("slow")]) as fake:
        model = embedder(fake, dim="64", seconds=600, retries=9, query_seconds=0.2)
        try:
            with pytest.raises(EmbeddingError, match=r"no answer to a question in 0.2 s"):
                await model.embed(["x"], kind="query")
            late = pytest.raises(EmbeddingError, match=r"to a question in 0(\.0\d+)? s")
            with work.work_context(seconds=0.05), late:
                await model.embed(["x"], kind="query")
            await asyncio.to_thread(fake.wait, lambda s: s.running == 0)
            with work.work_context(work.Priority.BATCH):
                task = asyncio.create_task(model.embed(["x"], kind="query"))
            others = asyncio.create_task(model.embed(["x"], kind="passage"))
            await asyncio.to_thread(fake.wait, lambda s: s.running == 2)
            with pytest.raises(EmbeddingError, match="to a question"):
                await model.embed(["y"], kind="query")
            assert not task.done()
            assert not others.done()
            for waiting in (task, others):
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
        finally:
            model.close()


@pytest.fixture
def odd() -> Iterator[ModelServerDouble]:
    with ModelServerDouble() as odd:
        yield odd


def coded(*values: float) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


@pytest.mark.parametrize("as_text", [True, False])
async def test_the_index_orders_and_either_format_is_read(
    odd: ModelServerDouble, as_text: bool
) -> None:
    def reversed_rows(body: dict[str, Any]) -> Any:
        rows = [
            {"index": n, "embedding": coded(3, n) if as_text else [3, n]}
            for n in range(len(body["input"]))
        ]
        return {"data": rows[::-1]}

    odd.answer = reversed_rows
    model = OpenAIEmbedder(ModelServer("m", odd.url, "2"), Remote())
    try:
        found = (await model.embed(["a", "b"], kind="query")).vectors
        np.testing.assert_allclose(found, np.array([[1, 0], [3 / 10**0.5, 1 / 10**0.5]]), atol=1e-6)
    finally:
        model.close()


@pytest.mark.parametrize(
    "row",
    [
        {"index": 0, "embedding": []},
        {"index": 5, "embedding": [1]},
        {"index": 0, "embedding": "!!!"},
        {"index": 0, "embedding": "AAA="},
        {"index": 0, "embedding": coded(float("nan"))},
        {"index": 0, "embedding": coded(float("-inf"))},
        {"index": 0, "embedding": coded(3e38)},
        {"index": 0, "embedding": [3e38]},
        {"index": 0, "embedding": [1e300]},
        {"index": 0, "embedding": ["1"]},
        {"index": 0, "embedding": {"a": 1}},
        {"index": 0},
    ],
)
async def test_what_is_no_embedding(odd: ModelServerDouble, row: dict[str, Any]) -> None:
    odd.answer = lambda _: {"data": [row]}
    model = OpenAIEmbedder(ModelServer("m", odd.url, "1"), Remote())
    try:
        with pytest.raises(EmbeddingError):
            await model.embed(["a"], kind="query")
    finally:
        model.close()


def test_by_name(fake: FakeModel) -> None:
    model = names.load(Settings(embed=Embed(model=f"openai:bge-m3:latest@{fake.url}#16")))
    try:
        assert (model.name, model.dim) == ("openai:bge-m3:latest", 16)
    finally:
        model.close()


def test_a_bad_name_shows_no_secret() -> None:
    for name in ("openai:m@http://u:hush@h/v1", "openai:m@h/v1#hush"):
        with pytest.raises(BadSettings) as raised:
            names.load(Settings(embed=Embed(model=name)))
        assert "hush" not in str(raised.value)


async def test_a_collection_embedded_over_the_wire(fake: FakeModel) -> None:
    async with Engine(load(embed__model=f"openai:e5@{fake.url}", remote__retries=0)) as engine:
        docs = await engine.open("wire")
        await docs.add([Document("a", "Grass is green."), Document("b", "年假为三十天。")])
        for question, wanted in (("green grass", "a"), ("年假", "b")):
            hit = (await docs.search(question)).hits[0]
            assert hit.chunk.document_id == wanted
            assert hit.stages["cosine"] > 0.3
        fake.stop()
        degraded = await docs.search("green grass, again")
        assert degraded.hits
        assert "openai:e5" in degraded.degraded[0]


async def test_ingestion_waits_for_ejected_servers() -> None:
    short, refused = Tolerance(in_row=1, first=0.05), Reply(500, headers={"retry-after-ms": "1"})
    with ModelServerDouble(refused, refused) as server:
        model = OpenAIEmbedder(
            ModelServer("e5", server.url, str(DIM)), Remote(retries=8), tolerance=short
        )
        try:
            with work_context(Priority.INGEST):
                assert (await model.embed(["x"], kind="passage")).vectors.any()
            assert model.server_statistics().servers[0].ejections == 2
        finally:
            model.close()


def test_several_by_name(fake: FakeModel) -> None:
    with FakeModel(dim=16) as other:
        name = f"openai:bge@{fake.url}*2,{other.url}#16"
        model = names.load(Settings(embed=Embed(model=name)))
        try:
            assert isinstance(model, OpenAIEmbedder)
            assert (model.name, model.dim) == ("openai:bge", 16)
            assert [s.weight for s in model.server_statistics().servers] == [2, 1]
        finally:
            model.close()
