"""Sealing, merging, publishing, following, forgetting; and what is done about damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from vivace.collection import sealing
from vivace.collection.corpus import Corpus
from vivace.collection.dense import Dense
from vivace.collection.plan_state import FLAT_UP_TO, SegmentPolicy
from vivace.collection.segment_directory import MANIFEST, read_manifest
from vivace.errors import CorruptIndex, EmbedderMismatch, StoreError
from vivace.settings import Index
from vivace.store.store import Store
from vivace.store.transaction import Change, NewChunk, Put, Remove
from vivace.trace import Trace
from vivace.types import Chunk, Decision, Document, Float16Vectors, Query

DIM = 8
SETTINGS = Index(family="flat", seal_chunks=10, merge_factor=2, terms_chunks=7)


def opened(
    folder: Path, decisions: list[Decision] | None = None, settings: Index = SETTINGS
) -> Corpus:
    decide = (decisions if decisions is not None else []).append
    return Corpus.open(
        folder, embedder="t", dim=DIM, trace=Trace(), settings=settings, decide=decide
    )


def put(number: int, version: int = 0) -> Put:
    rng = np.random.default_rng([number, version])
    text = f"word{number} version{version} walnut"
    vector: Float16Vectors = rng.normal(size=DIM).astype(np.float16)
    chunk = NewChunk(Chunk(f"d{number}", text, 0, len(text)), text.encode(), vector)
    return Put(Document(f"d{number}", text, metadata={"id": number}), text.encode(), (chunk,))


def write(corpus: Corpus, *groups: Sequence[Change]) -> None:
    with corpus.writing():
        for changes in groups:
            corpus.apply(changes)
    corpus.settle()


def answers(corpus: Corpus, n: int = 1000) -> list[object]:
    """All there is to find, by both sides."""
    snapshot = corpus.snapshot()
    queries = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)
    dense = snapshot.dense(queries, n)
    words = snapshot.keyword(["walnut"], n).ids.ravel()
    ids = dense.ids[0][dense.ids[0] >= 0]
    assert sorted(ids.tolist()) == sorted(words.tolist())
    return [dense.ids.tolist(), dense.scores.tolist(), len(snapshot.chunks(ids.tolist()))]


def rebuilt(decisions: Sequence[Decision]) -> list[str]:
    return [d.before for d in decisions if d.what == "rebuild"]


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Corpus]:
    corpus = opened(tmp_path / "c")
    yield corpus
    corpus.close()


def filled(folder: Path) -> list[object]:
    """A closed collection with sealed segments, removed rows and a tail."""
    corpus = opened(folder)
    write(corpus, [put(number) for number in range(25)], [put(number) for number in range(25, 44)])
    write(corpus, [Remove("d3"), put(30, 1)])
    assert len(corpus.dense.tail) > 0
    assert any(s.sealed and s.removed for s in corpus.dense.segments)
    expected = answers(corpus)
    corpus.close()
    return expected


class TestSealing:
    def test_rows_written_stay_within_n_log_n(self, corpus: Corpus) -> None:
        n = 320
        for at in range(0, n, 10):
            write(corpus, [put(number) for number in range(at, at + 10)])
        written = corpus.trace.counters()["segments.rows_written"]
        assert written <= n * (1 + np.log2(n / SETTINGS.seal_chunks))
        assert len(corpus.dense.segments) <= 2 + np.log2(n / SETTINGS.seal_chunks)
        assert len(list((corpus.folder / "segments").iterdir())) == len(corpus.dense.segments)

    def test_a_compaction_answers_as_a_fresh_build(self, corpus: Corpus, tmp_path: Path) -> None:
        for at in range(0, 60, 12):
            write(corpus, [put(number) for number in range(at, at + 12)])
        write(corpus, [Remove(f"d{number}") for number in range(0, 60, 7)])
        corpus.compact(lambda _: None)
        assert [s.removed for s in corpus.dense.segments] == [0]
        fresh = opened(tmp_path / "fresh")
        kept = [put(number) for number in range(60) if number % 7]
        write(fresh, kept)

        def by_document(corpus: Corpus) -> list[tuple[str, float, float]]:
            snapshot = corpus.snapshot()
            query = np.random.default_rng(5).normal(size=(1, DIM)).astype(np.float32)
            dense, words = snapshot.dense(query, 100), snapshot.keyword(["walnut", "word8"], 100)
            bm25 = dict(zip(words.ids[0].tolist(), words.scores[0].tolist(), strict=True))
            chunks = snapshot.chunks(i for i in dense.ids[0].tolist() if i >= 0)
            return [
                (chunks[number].document_id, score, bm25[number])
                for number, score in zip(
                    dense.ids[0].tolist(), dense.scores[0].tolist(), strict=True
                )
                if number >= 0
            ]

        assert by_document(corpus) == by_document(fresh)
        fresh.close()

    def test_what_is_removed_while_a_segment_is_written(self, corpus: Corpus) -> None:
        with corpus.writing():
            corpus.apply([put(number) for number in range(9)])
            job = sealing.Job(corpus.dense.segments, corpus.dense.live, "seal")
            new = sealing.write(
                job,
                corpus.folder / "segments",
                dim=DIM,
                metric="cosine",
                policy=SegmentPolicy(SETTINGS),
            )
            corpus.apply([Remove("d4"), put(20)])
            dense = corpus.dense.replaced(job.first, job.last, new)
        assert [len(s) for s in dense.segments] == [8, 1]
        queries = np.ones((1, DIM), np.float32)
        expected = corpus.dense.search(queries, 20)
        assert dense.search(queries, 20).ids.tolist() == expected.ids.tolist()

    def test_a_family_follows_size_and_settings(self) -> None:
        auto = SegmentPolicy(Index())
        assert auto.layout(FLAT_UP_TO).family == "flat"
        assert auto.layout(FLAT_UP_TO + 1).family == "pq"
        assert SegmentPolicy(Index(family="pq")).layout(5).family == "pq"
        assert sealing.next_job(Dense(), auto) is None

    def test_a_full_disk_loses_nothing(
        self, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("vivace.index.segments.write", full)
            write(corpus, [put(number) for number in range(12)])
        assert corpus.trace.counters()["segments.failed"] >= 1
        before = answers(corpus)
        write(corpus, [put(12)], [Remove("d12")])
        assert any(s.sealed for s in corpus.dense.segments)
        assert answers(corpus) == before


class TestReopening:
    def test_nothing_is_read_twice(self, tmp_path: Path) -> None:
        expected = filled(tmp_path / "c")
        decisions: list[Decision] = []
        corpus = opened(tmp_path / "c", decisions)
        assert answers(corpus) == expected
        assert decisions == []
        assert corpus.verify(lambda _: None) == []
        corpus.close()

    @pytest.mark.parametrize(
        "harm", ["missing", "cut", "flipped", "no manifest", "future", "flipped manifest"]
    )
    def test_damage_is_named_and_mended(self, tmp_path: Path, harm: str) -> None:
        expected = filled(tmp_path / "c")
        folder = sorted((tmp_path / "c" / "segments").iterdir())[0]
        manifest = tmp_path / "c" / "manifest.json"
        data = (folder / "vectors.faiss").read_bytes()
        if harm == "missing":
            shutil.rmtree(folder)
        elif harm == "cut":
            (folder / "vectors.faiss").write_bytes(data[:-1])
        elif harm == "flipped":
            (folder / "vectors.faiss").write_bytes(data[:-9] + b"\x11" + data[-8:])
        elif harm == "no manifest":
            manifest.unlink()
        elif harm == "future":
            manifest.write_bytes(manifest.read_bytes().replace(b'"oldest":1', b'"oldest":9'))
        else:
            manifest.write_bytes(manifest.read_bytes().replace(b'"epoch":', b'"epocj":'))
        named = "segment" if harm in ("missing", "cut", "flipped") else "manifest"
        decisions: list[Decision] = []
        corpus = opened(tmp_path / "c", decisions)
        assert answers(corpus) == expected
        assert len(rebuilt(decisions)) == 1
        assert named in rebuilt(decisions)[0]
        assert corpus.verify(lambda _: None) == []
        corpus.close()
        again: list[Decision] = []
        corpus = opened(tmp_path / "c", again)
        assert answers(corpus) == expected
        assert again == []
        corpus.close()

    def test_a_writer_elsewhere_leaves_a_reader_to_mend_in_memory(self, tmp_path: Path) -> None:
        expected = filled(tmp_path / "c")
        writer = opened(tmp_path / "c")
        with writer.writing():
            shutil.rmtree(sorted((tmp_path / "c" / "segments").iterdir())[0])
            reader = opened(tmp_path / "c")
            assert answers(reader) == expected
            assert reader.trace.counters()["segments.missing"] == 1
            assert reader.trace.counters()["segments.left_to_others"] == 1
        reader.close()
        writer.close()

    @pytest.mark.parametrize("written_to", [False, True])
    def test_a_backup_older_than_the_indexes(self, tmp_path: Path, written_to: bool) -> None:
        corpus = opened(tmp_path / "c")
        write(corpus, [put(number) for number in range(15)])
        corpus.close()
        backup = tmp_path / "backup"
        shutil.copytree(tmp_path / "c", backup)
        corpus = opened(tmp_path / "c")
        write(corpus, [put(number) for number in range(15, 40)])
        corpus.close()
        for name in ("segments", "terms"):
            shutil.rmtree(backup / name)
            shutil.copytree(tmp_path / "c" / name, backup / name)
        if written_to:
            # by something that knows the store alone: the epochs are equal again
            store = Store.open(backup, embedder="t", dim=DIM)
            store.commit([put(number) for number in range(60, 85)])
            store.close()
        shutil.copy(tmp_path / "c" / "manifest.json", backup / "manifest.json")
        decisions: list[Decision] = []
        corpus = opened(backup, decisions)
        reasons = " ".join(d.reason for d in decisions)
        assert ("another history" if written_to else "the store is at 1") in reasons
        assert sorted(rebuilt(decisions)) == ["manifest.json", "terms"]
        found = corpus.snapshot().keyword(["word20", "word70"], 5).ids.size
        assert found == int(written_to)
        answers(corpus)
        assert corpus.verify(lambda _: None) == []
        corpus.close()

    def test_leftovers_are_removed_by_the_next_writer(self, tmp_path: Path) -> None:
        filled(tmp_path / "c")
        left = tmp_path / "c" / "segments" / "000000000001-deadbeef"
        left.mkdir()
        corpus = opened(tmp_path / "c")
        assert left.exists()
        write(corpus, [put(99)])
        assert not left.exists()
        corpus.close()


class TestFollowing:
    def test_a_reader_follows_seals_merges_and_deletes(self, tmp_path: Path) -> None:
        writer, reader = opened(tmp_path / "c"), opened(tmp_path / "c")
        for at in range(0, 100, 5):
            write(writer, [put(number) for number in range(at, at + 5)], [Remove(f"d{at // 2}")])
            assert answers(reader) == answers(writer)
        assert writer.store.trimmed() > 0
        assert reader.trace.counters() == {}
        reader.close()
        writer.close()

    def test_a_reader_that_slept_through_the_trimming(self, tmp_path: Path) -> None:
        writer, reader = opened(tmp_path / "c"), opened(tmp_path / "c")
        write(writer, [put(number) for number in range(8)])
        answers(reader)
        write(writer, [Remove("d1")], [put(number) for number in range(8, 40)])
        assert writer.store.trimmed() >= 2
        assert writer.store.removed().tolist() == []
        assert answers(reader) == answers(writer)
        reader.close()
        writer.close()

    def test_another_embedder_is_noticed(self, tmp_path: Path) -> None:
        writer, reader = opened(tmp_path / "c"), opened(tmp_path / "c")
        writer.store._write(
            lambda c: c.execute("UPDATE meta SET value = 'other' WHERE key = 'embedder'")
        )
        writer.store.commit([put(1)])
        with pytest.raises(EmbedderMismatch, match="re-embedded with other"):
            reader.snapshot()
        reader.close()
        writer.close()

    def test_words_are_found_before_the_term_index_commits(self, corpus: Corpus) -> None:
        with corpus.writing():
            corpus.apply([put(1)])
            assert corpus.keywords.pending == 1
            assert corpus.snapshot().keyword(["word1"], 5).ids.size == 1
            corpus.apply([Remove("d1")])
            assert corpus.snapshot().keyword(["word1"], 5).ids.size == 0
        assert corpus.keywords.pending == 0

    def test_a_commit_of_the_terms_that_was_cut_off(self, tmp_path: Path) -> None:
        corpus = opened(tmp_path / "c")
        write(corpus, [put(1)])
        shown = (tmp_path / "c" / "terms" / "shown.json").read_bytes()
        write(corpus, [put(2), Remove("d1")])
        corpus.close()
        (tmp_path / "c" / "terms" / "shown.json").write_bytes(shown)
        decisions: list[Decision] = []
        corpus = opened(tmp_path / "c", decisions)
        answers(corpus)
        assert decisions == []
        assert json.loads((tmp_path / "c" / "terms" / "shown.json").read_bytes())["epoch"] == 2
        corpus.close()


class TestTheStoresOwnDamage:
    @pytest.mark.parametrize("what", ["text", "title", "vector"])
    def test_a_flipped_byte_is_named(self, tmp_path: Path, what: str) -> None:
        corpus = opened(tmp_path / "c")
        write(corpus, [put(1), put(2)])
        sql = {
            "text": "UPDATE chunks SET text = 'wrong' WHERE id = 1",
            "title": "UPDATE documents SET title = 'wrong' WHERE id = 'd1'",
            "vector": "UPDATE vectors SET vector = zeroblob(16) WHERE id = 1",
        }[what]
        corpus.store._write(lambda connection: connection.execute(sql))
        if what == "vector":
            with pytest.raises(StoreError, match="vector of chunk 1 is damaged"):
                list(corpus.store.vectors())
        else:
            with pytest.raises(StoreError, match="chunk 1 of document 'd1' is damaged"):
                corpus.snapshot().chunks([1, 2])
        found = corpus.verify(lambda _: None)
        assert [f.where for f in found if "checksum" in f.what] == ["store.db"]
        corpus.close()

    def test_a_lost_row_is_no_empty_answer(self, corpus: Corpus) -> None:
        write(corpus, [put(1)])
        corpus.store._write(lambda connection: connection.execute("DELETE FROM chunks"))
        with pytest.raises(StoreError, match="lost chunk 1"):
            corpus.snapshot().chunks([1])


def test_a_snapshot_of_one_epoch_keeps_its_filters(corpus: Corpus) -> None:
    write(corpus, [put(number) for number in range(5)])
    before = corpus.snapshot()
    bitmap = before.allowed(Query("x", filters={"id": 3}))
    corpus.compact(lambda _: None)
    assert corpus.snapshot() is not before
    assert corpus.snapshot().allowed(Query("x", filters={"id": 3})) is bitmap


def test_the_manifest_names_what_it_cannot_read(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / MANIFEST).write_bytes(b"{}")
    with pytest.raises(CorruptIndex, match="cannot be read"):
        read_manifest(tmp_path)
