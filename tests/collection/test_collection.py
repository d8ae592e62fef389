"""Adding, searching, deleting, reopening; what damage and other processes do."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.collection.conftest import HashEmbedder
from vivace.collection.corpus import Corpus
from vivace.engine import Collection, Engine, collection_path
from vivace.errors import (
    BadFilter,
    BadInput,
    BadQuery,
    BadVectors,
    CollectionLocked,
    CollectionNotFound,
    EmbedderMismatch,
    StoreError,
    StoreUnwritable,
)
from vivace.index.terms import TantivyTerms
from vivace.settings import load
from vivace.store.connections import WriteLock
from vivace.store.store import Store
from vivace.trace import Trace
from vivace.types import Chunk, Document, Embedded, Query, SearchResult

ANIMALS = [
    Document("cat", "Cats purr loudly.", "On cats", metadata={"legs": 4, "kind": "pet"}),
    Document("dog", "Dogs bark at trains.", metadata={"legs": 4, "kind": "pet"}),
    Document("bird", "Birds sing and fly.", metadata={"legs": 2}),
    Document("猫", "猫喜欢在夜里活动。", metadata={"legs": 4}),
]


async def ids(docs: Collection, question: str, **options: object) -> list[str]:
    result = await docs.search(question, **options)  # type: ignore[arg-type]
    return [hit.chunk.document_id for hit in result.hits]


class TestAdd:
    async def test_documents_replace_by_id(self, docs: Collection) -> None:
        assert (await docs.add(ANIMALS)).documents == 4
        await docs.add([Document("cat", "Cats sleep.")])
        assert (await docs.info()).documents == 4
        assert not any("purr" in h.chunk.text for h in (await docs.search("purr")).hits)
        assert (await ids(docs, "cats sleep"))[0] == "cat"

    async def test_adding_nothing_changes_nothing(self, docs: Collection) -> None:
        assert (await docs.add([])).documents == 0
        assert (await docs.search("anything")).hits == ()

    @pytest.mark.parametrize("bad", [Document("", "text"), Document("a", " \n")])
    async def test_documents_without_id_or_text_are_rejected(
        self, docs: Collection, bad: Document
    ) -> None:
        with pytest.raises(BadInput, match="nothing was added"):
            await docs.add([ANIMALS[0], bad])
        assert (await docs.info()).documents == 0

    async def test_chunks_with_their_own_vectors(self, docs: Collection) -> None:
        chunks = [Chunk("x", "first part"), Chunk("x", "second part"), Chunk("y", "other")]
        vectors = np.eye(3, 32) * 5
        report = await docs.add(chunks, vectors)
        assert (report.documents, report.chunks) == (2, 3)
        result = await docs.search("", vector=vectors[1].astype(np.float32) / 5)
        assert result.hits[0].chunk.text == "second part"
        assert result.hits[0].score == pytest.approx(1.0, abs=1e-3)
        document = await docs.get("x")
        assert document is not None
        for chunk in await docs.chunks("x"):
            assert document.text[chunk.start : chunk.end] == chunk.text

    async def test_chunks_with_offsets_keep_them(self, docs: Collection) -> None:
        await docs.add([Chunk("x", "lo wo", 3, 8), Chunk("x", "world", 6, 11)])
        document = await docs.get("x")
        assert document is not None
        assert document.text == "   lo world"

    @pytest.mark.parametrize(
        ("vectors", "message"),
        [
            (np.zeros((1, 31)), r"\(1, 31\)"),
            (np.zeros((2, 32)), r"1 chunks need \(1, 32\)"),
            (np.full((1, 32), np.nan), "vector 0 holds NaN"),
            (np.full((1, 32), 3e38), "vector 0 is longer than a float32"),
        ],
    )
    async def test_bad_vectors_are_rejected(
        self, docs: Collection, vectors: np.ndarray, message: str
    ) -> None:
        with pytest.raises(BadVectors, match=message):
            await docs.add([Chunk("x", "text")], vectors)
        assert (await docs.info()).documents == 0

    @pytest.mark.parametrize(
        ("chunks", "message"),
        [
            ([Chunk("", "text")], "no document id"),
            ([Chunk("x", " ")], "no text"),
            ([Chunk("x", "abc", 0, 5)], "spans 0-5"),
            ([Chunk("x", "abc", 0, 3), Chunk("x", "xyz", 1, 4)], "disagree about the text"),
            ([Chunk("x", "abc", 10**10 - 3, 10**10)], "spans"),
            ([Chunk("x", "a", metadata={"p": 1}), Chunk("x", "b")], "disagree about title"),
        ],
    )
    async def test_bad_chunks_are_rejected(
        self, docs: Collection, chunks: list[Chunk], message: str
    ) -> None:
        with pytest.raises(BadInput, match=message):
            await docs.add(chunks)

    async def test_documents_with_vectors_are_refused(self, docs: Collection) -> None:
        with pytest.raises(BadInput, match="Vectors belong to chunks"):
            await docs.add(ANIMALS, np.zeros((4, 32)))

    async def test_metadata_without_json_form_fails_alone(self, docs: Collection) -> None:
        with pytest.raises(BadInput, match="no JSON form"):
            await docs.add([Document("a", "text", metadata={"x": object()})])
        assert (await docs.add(ANIMALS)).documents == 4


class TestSearch:
    async def test_both_sides_and_stages(self, docs: Collection) -> None:
        await docs.add(ANIMALS)
        result = await docs.search("dogs bark")
        assert result.hits[0].chunk.document_id == "dog"
        assert result.hits[0].stages["bm25"] > 0
        assert list(result.hits) == sorted(result.hits, key=lambda h: -h.score)

    async def test_a_language_the_model_cannot_read_uses_keywords(self, docs: Collection) -> None:
        await docs.add(ANIMALS)
        result = await docs.search("猫在什么时候活动？")
        assert [h.chunk.document_id for h in result.hits] == ["猫"]
        assert set(result.hits[0].stages) == {"bm25"}
        assert result.degraded == ()

    async def test_filters_restrict_both_sides(self, docs: Collection) -> None:
        await docs.add(ANIMALS)
        assert set(await ids(docs, "cats dogs birds", filters={"legs": 2})) == {"bird"}
        pets = await ids(docs, "cats dogs", filters={"kind": {"$in": ["pet"]}})
        assert set(pets) == {"cat", "dog"}
        assert await ids(docs, "cats", filters={"legs": {"$gt": 9}}) == []
        with pytest.raises(BadFilter, match="'color'"):
            await docs.search("cats", filters={"color": "red"})

    async def test_min_score_and_k_bound_the_hits(self, docs: Collection) -> None:
        await docs.add(ANIMALS)
        assert len((await docs.search("cats", 1)).hits) == 1
        assert (await docs.search("cats", min_score=2.0)).hits == ()

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (Query(""), "empty"),
            (Query("  \n"), "empty"),
            (Query("a", k=0), "k is 0"),
            (Query("x" * 100_000), "100,000 characters"),
            (Query("a", vector=np.full(32, np.nan, np.float32)), "NaN"),
        ],
    )
    async def test_bad_queries_are_rejected(
        self, docs: Collection, query: Query, message: str
    ) -> None:
        with pytest.raises(BadQuery, match=message):
            await docs.search(query)

    async def test_a_vector_of_another_dimension(self, docs: Collection) -> None:
        await docs.add(ANIMALS)
        with pytest.raises(BadVectors, match="3 dimensions"):
            await docs.search("a", vector=np.ones(3, np.float32))

    async def test_many_in_order_and_one_failure_alone(self, docs: Collection) -> None:
        await docs.add(ANIMALS)
        found = await docs.search_many(["dogs bark", Query("x", k=0), "birds sing"])
        assert isinstance(found[0], SearchResult)
        assert found[0].hits[0].chunk.document_id == "dog"
        assert isinstance(found[1], BadQuery)
        assert isinstance(found[2], SearchResult)
        assert found[2].hits[0].chunk.document_id == "bird"

    async def test_a_broken_embedder_degrades(
        self, docs: Collection, embedder: HashEmbedder
    ) -> None:
        await docs.add(ANIMALS)
        embedder.broken = True
        result = await docs.search("dogs bark")
        assert result.hits[0].chunk.document_id == "dog"
        assert result.degraded == ("dense side skipped: the embedder is broken",)
        assert docs.trace.counters()["search.embedding_failed"] == 1

    async def test_questions_are_logged(self, docs: Collection) -> None:
        await docs.add(ANIMALS)
        for at in range(70):
            await docs.search(f"question {at}")
        await docs.close()
        assert docs.trace.counters()["queries.logged"] == 70

    async def test_the_log_leaves_the_write_lock_to_others(
        self, docs: Collection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await docs.add(ANIMALS)
        writings: list[int] = []
        written = Store.log_queries

        def log_queries(
            store: Store, entries: Sequence[tuple[float, str, int, str, str, float]], keep: int
        ) -> None:
            writings.append(len(entries))
            written(store, entries, keep)

        monkeypatch.setattr(Store, "log_queries", log_queries)
        for _ in range(2_000):  # of a fraction of a second
            await docs.search("a dog")
        await docs.close()
        assert sum(writings) == 2_000
        assert len(writings) <= 5


class TestDelete:
    async def test_gone_from_both_sides(self, docs: Collection) -> None:
        await docs.add(ANIMALS)
        assert await docs.delete(["dog", "nobody"]) == 1
        assert "dog" not in await ids(docs, "dogs bark at trains")
        assert await docs.get("dog") is None
        assert await docs.delete("nobody") == 0

    async def test_many_rounds_equal_a_fresh_build(
        self, docs: Collection, engine: Engine, tmp_path: Path
    ) -> None:
        rng = np.random.default_rng(0)
        live: dict[str, Document] = {}
        words = [f"w{n}" for n in range(60)]
        for _ in range(25):
            batch = [
                Document(f"d{rng.integers(80)}", " ".join(rng.choice(words, 12)))
                for _ in range(int(rng.integers(1, 12)))
            ]
            await docs.add(batch)
            live.update({d.id: d for d in batch})
            gone = [name for name in list(live) if rng.random() < 0.2]
            await docs.delete(gone)
            for name in gone:
                del live[name]
        fresh = await engine.open(tmp_path / "fresh")
        await fresh.add(list(live.values()))
        assert (await docs.info()).documents == len(live)
        for question in ("w1 w2", "w30 w31 w32", "w59"):
            a, b = await docs.search(question, 500), await fresh.search(question, 500)
            assert a.hits
            assert {h.chunk.document_id for h in a.hits} <= set(live)
            assert {h.chunk.document_id: pytest.approx(h.stages["cosine"]) for h in a.hits} == {
                h.chunk.document_id: h.stages["cosine"] for h in b.hits
            }


class TestReopening:
    async def test_a_reopened_collection_answers_the_same(
        self, docs: Collection, engine: Engine, tmp_path: Path
    ) -> None:
        await docs.add(ANIMALS)
        await docs.delete("bird")
        expected = await docs.search("cats and dogs")
        assert await engine.open(tmp_path / "collection") is docs
        await docs.close()
        again = await engine.open(tmp_path / "collection")
        assert await again.search("cats and dogs") == expected

    @pytest.mark.parametrize("harm", ["missing", "damaged", "stale"])
    async def test_the_term_index_is_rebuilt(
        self, docs: Collection, engine: Engine, tmp_path: Path, harm: str
    ) -> None:
        await docs.add(ANIMALS[:2])
        old = tmp_path / "old"
        shutil.copytree(tmp_path / "collection" / "terms", old)
        await docs.add(ANIMALS[2:])
        await docs.delete("dog")
        await docs.close()
        terms = tmp_path / "collection" / "terms"
        if harm == "damaged":
            path = next(terms.glob("*.term"))
            path.write_bytes(path.read_bytes()[:-40] + b"\0" * 40)
        else:
            shutil.rmtree(terms)
            if harm == "stale":
                shutil.copytree(old, terms)
        again = await engine.open(tmp_path / "collection")
        # an older state of the same history is no damage: the tail covers what came after it
        assert again.trace.counters().get(f"terms.{harm}", 0) == (harm != "stale")
        assert (await ids(again, "猫"))[0] == "猫"
        hits = (await again.search("dogs bark birds sing")).hits
        assert "dog" not in {h.chunk.document_id for h in hits}
        assert [h.chunk.document_id for h in hits if h.stages["bm25"] > 0] == ["bird"]

    async def test_a_term_index_of_older_terms_is_rebuilt(
        self, docs: Collection, engine: Engine, tmp_path: Path
    ) -> None:
        await docs.add(ANIMALS)
        await docs.close()
        shown = tmp_path / "collection" / "terms" / "shown.json"
        told = json.loads(shown.read_bytes())
        del told["terms"]  # as before the terms had a version
        shown.write_text(json.dumps(told))
        again = await engine.open(tmp_path / "collection")
        assert again.trace.counters()["terms.stale"] == 1
        assert (await ids(again, "貓"))[0] == "猫"
        await again.close()
        anew = await engine.open(tmp_path / "collection")
        assert "terms.stale" not in anew.trace.counters()

    async def test_a_failing_term_index_does_not_fail_an_ingest(
        self, docs: Collection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await docs.add(ANIMALS[:2])
        commit = TantivyTerms.commit

        def fail(self: TantivyTerms, epoch: int) -> None:
            if not self.in_memory:
                raise ValueError("no space left")
            commit(self, epoch)

        monkeypatch.setattr(TantivyTerms, "commit", fail)
        await docs.add(ANIMALS[2:])
        assert docs.trace.counters()["terms.commit_failed"] == 1
        assert (await ids(docs, "birds sing"))[0] == "bird"

    async def test_another_embedder_is_rejected(self, docs: Collection, tmp_path: Path) -> None:
        await docs.close()
        with pytest.raises(EmbedderMismatch, match="made with the embedder hash"):
            Corpus.open(tmp_path / "collection", embedder="other", dim=32, trace=Trace())

    async def test_a_missing_collection_is_not_created_unasked(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        with pytest.raises(CollectionNotFound):
            await engine.open(tmp_path / "none", create=False)

    async def test_a_closed_collection_rejects_documents(self, docs: Collection) -> None:
        await docs.close()
        await docs.close()
        with pytest.raises(StoreError, match="closed"):
            await docs.add(ANIMALS)


WRITE = """
import asyncio, sys
from pathlib import Path
from vivace.collection.corpus import Corpus
from vivace.store.transaction import NewChunk, Put, Remove
from vivace.trace import Trace
from vivace.types import Chunk, Document
import numpy as np
corpus = Corpus.open(Path(sys.argv[1]), embedder="hash", dim=32, trace=Trace())
with corpus.writing():
    chunk = NewChunk(Chunk("new", "Zebras gallop.", 0, 14), b"z", np.zeros(32, np.float16))
    corpus.apply([Put(Document("new", "Zebras gallop."), b"z", (chunk,)), Remove("dog")])
corpus.close()
"""


async def test_another_process_is_followed(docs: Collection, tmp_path: Path) -> None:
    await docs.add(ANIMALS)
    command = [sys.executable, "-c", WRITE, str(tmp_path / "collection")]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)
    assert "new" in await ids(docs, "zebras gallop")
    assert "dog" not in await ids(docs, "dogs bark")
    await docs.add([Document("ant", "Ants march.")])
    assert "ant" in await ids(docs, "ants march")


def test_a_name_or_a_path_leads_to_a_collection(tmp_path: Path) -> None:
    settings = load(home=str(tmp_path))
    assert collection_path("handbook", settings) == tmp_path / "collections" / "handbook"
    assert collection_path("./handbook", settings) == Path.cwd() / "handbook"
    assert collection_path(tmp_path / "x", settings) == tmp_path / "x"
    for bad in ("", ".hidden"):
        with pytest.raises(CollectionNotFound, match="names no collection"):
            collection_path(bad, settings)


@pytest.mark.parametrize("harm", ["missing", "stale"])
async def test_terms_in_memory_where_the_folder_cannot_be_written(
    docs: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    await docs.add(ANIMALS[:2])
    shutil.copytree(tmp_path / "collection" / "terms", tmp_path / "old")
    await docs.add(ANIMALS[2:])
    await docs.close()
    shutil.rmtree(tmp_path / "collection" / "terms")
    if harm == "stale":
        shutil.copytree(tmp_path / "old", tmp_path / "collection" / "terms")

    def unwritable(_: object) -> None:
        raise StoreUnwritable("read-only")

    monkeypatch.setattr(WriteLock, "acquire", unwritable)
    reader = Corpus.open(tmp_path / "collection", embedder="hash", dim=32, trace=Trace())
    assert reader.keywords.in_memory == (harm == "missing")
    assert reader.snapshot().keyword(["bird", "sing"], 5).ids.size == 1
    reader.close()


async def test_a_reader_sees_the_words_of_what_the_term_index_has_not_committed(
    docs: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await docs.add(ANIMALS[:2])
    reader = Corpus.open(tmp_path / "collection", embedder="hash", dim=32, trace=Trace())
    seen: list[int] = []
    commit = TantivyTerms.commit

    def late(self: TantivyTerms, epoch: int) -> None:
        # the moment between the two commits of the writer
        assert reader.snapshot().epoch == 2
        seen.append(reader.snapshot().keyword(["bird", "sing"], 5).ids.size)
        commit(self, epoch)

    monkeypatch.setattr(TantivyTerms, "commit", late)
    await docs.add(ANIMALS[2:])
    assert seen == [1]
    assert reader.snapshot().keyword(["bird", "sing"], 5).ids.size == 1
    reader.close()


async def test_a_reader_with_terms_in_memory_follows_too(
    docs: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await docs.add(ANIMALS[:1])
    shutil.rmtree(tmp_path / "collection" / "terms")

    def locked(_: object) -> None:
        raise CollectionLocked("somebody writes")

    with monkeypatch.context() as patch:
        patch.setattr(WriteLock, "acquire", locked)
        reader = Corpus.open(tmp_path / "collection", embedder="hash", dim=32, trace=Trace())
    await docs.add(ANIMALS[2:])
    assert reader.snapshot().keyword(["bird", "sing"], 5).ids.size == 1
    reader.close()


async def test_two_opens_at_once_are_one_collection(engine: Engine, tmp_path: Path) -> None:
    first, second = await asyncio.gather(
        engine.open(tmp_path / "x"), engine.open(tmp_path / "y" / ".." / "x")
    )
    assert first is second


async def test_closing_waits_for_searches(docs: Collection) -> None:
    await docs.add(ANIMALS)
    searches = [asyncio.create_task(docs.search(f"cats {n}")) for n in range(20)]
    await asyncio.sleep(0)
    await docs.close()
    results = await asyncio.gather(*searches)
    assert all(result.hits for result in results)
    with pytest.raises(StoreError, match="closed"):
        await docs.search("cats")


async def test_a_question_with_lone_surrogates(docs: Collection) -> None:
    await docs.add(ANIMALS)
    assert (await docs.search("cats \udce9")).hits
    await docs.close()
    assert docs.trace.counters()["queries.logged"] == 1


async def test_a_huge_k_is_refused(docs: Collection) -> None:
    await docs.add(ANIMALS)
    with pytest.raises(BadQuery, match="1 to 10,000"):
        await docs.search("cats", 10**9)
    assert len((await docs.search("cats", 10_000)).hits) == 4


async def test_hits_share_chunks_that_nobody_can_change(docs: Collection) -> None:
    await docs.add(ANIMALS)
    hit = (await docs.search("cats")).hits[0]
    with pytest.raises(TypeError):
        hit.chunk.metadata["legs"] = 5  # type: ignore[index]


@pytest.mark.parametrize("bad", [["text"], [ANIMALS[0], 3]])
async def test_only_documents_and_chunks_can_be_added(docs: Collection, bad: list[object]) -> None:
    with pytest.raises(BadInput, match="item"):
        await docs.add(bad)  # type: ignore[arg-type]
    assert (await docs.add(document for document in ANIMALS)).documents == 4  # type: ignore[arg-type]


async def test_an_embedder_that_answers_nan_adds_nothing(
    docs: Collection, embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nan(texts: list[str], *, kind: str) -> Embedded:
        return Embedded(np.full((len(texts), 32), np.nan, np.float32))

    with monkeypatch.context() as patch:
        patch.setattr(embedder, "embed", nan)
        with pytest.raises(BadVectors, match="NaN"):
            await docs.add(ANIMALS)
    assert (await docs.add(ANIMALS)).documents == 4


async def test_a_concurrent_delete_does_not_fail_an_update(
    docs: Collection, embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(f"Sentence number {n} stands here for good." for n in range(12))
    await docs.add([Document("a", text)])
    embed = embedder.embed

    async def meanwhile(texts: list[str], *, kind: str) -> Embedded:
        if kind == "passage":
            await docs.delete("a")
        return await embed(texts, kind="passage")

    with monkeypatch.context() as patch:
        patch.setattr(embedder, "embed", meanwhile)
        await docs.add([Document("a", text + " One more at the end.")])
    document = await docs.get("a")
    assert document is not None
    assert document.text.endswith("One more at the end.")
    assert (await docs.search("sentence number 3")).hits


async def test_a_given_vector_is_scaled_as_stored_ones_are(docs: Collection) -> None:
    await docs.add([Chunk("x", "one"), Chunk("y", "two")], np.eye(2, 32))
    result = await docs.search("", vector=np.eye(2, 32, dtype=np.float32)[1] * 7)
    assert result.hits[0].chunk.document_id == "y"
    assert result.hits[0].stages["cosine"] == pytest.approx(1.0)


@pytest.mark.parametrize(("metric", "first"), [("cosine", "x"), ("ip", "y"), ("l2", "x")])
async def test_vectors_are_ranked_by_the_collections_metric(
    tmp_path: Path, metric: str, first: str
) -> None:
    vectors = np.array([[1.0, 0.1], [3.0, 3.0]])
    settings = load(embed__model="given:2", index={"metric": metric})
    async with Engine(settings) as engine:
        docs = await engine.open(tmp_path / "c")
        await docs.add([Chunk("x", "one"), Chunk("y", "two")], vectors)
        found = (await docs.search("", vector=np.array([1, 0.2], np.float32))).hits
        assert found[0].chunk.document_id == first
        assert found[0].score > found[1].score
        if metric != "cosine":
            with pytest.raises(BadVectors, match="beyond 65,504"):
                await docs.add([Chunk("z", "three")], np.array([[1e6, 0]]))
