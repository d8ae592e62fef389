"""The plan of a collection: kept, followed, sealed by, and asked by without building anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivace.collection import plan_state, sealing, segment_directory
from vivace.collection.corpus import Corpus
from vivace.collection.plan_state import (
    FLAT_UP_TO,
    LARGEST,
    LARGEST_NAVIGATED,
    SegmentPolicy,
    StoredPlan,
)
from vivace.errors import CollectionLocked, MissingExtra
from vivace.index import segments
from vivace.index.flat import FlatIndex
from vivace.settings import Index
from vivace.store.connections import WriteLock
from vivace.store.transaction import Change, NewChunk, Put, Remove
from vivace.trace import Trace
from vivace.types import (
    Chunk,
    Decision,
    Document,
    Float16Vectors,
    Matches,
    Objective,
    Plan,
    Vectors,
)

DIM = 16
ROWS = 300
SETTINGS = Index(seal_chunks=ROWS, merge_factor=2)
PQ = StoredPlan(Plan("pq", {"width": 2}, 40), Objective(0.9), rows=ROWS, source="given")


def opened(
    folder: Path, decisions: list[Decision] | None = None, settings: Index = SETTINGS
) -> Corpus:
    decide = (decisions if decisions is not None else []).append
    return Corpus.open(
        folder, embedder="t", dim=DIM, trace=Trace(), settings=settings, decide=decide
    )


def put(number: int) -> Put:
    text = f"word{number} walnut"
    vector: Float16Vectors = np.random.default_rng(number).normal(size=DIM).astype(np.float16)
    chunk = NewChunk(Chunk(f"d{number}", text, 0, len(text)), text.encode(), vector)
    return Put(Document(f"d{number}", text), text.encode(), (chunk,))


def write(corpus: Corpus, changes: list[Change]) -> None:
    with corpus.writing():
        corpus.apply(changes)
    corpus.settle()


def families(corpus: Corpus) -> list[tuple[str, int]]:
    return [(s.index.family, len(s)) for s in corpus.dense.segments]


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Corpus]:
    corpus = opened(tmp_path / "c")
    write(corpus, [put(number) for number in range(ROWS)])
    yield corpus
    corpus.close()


class TestKeeping:
    def test_a_plan_survives_reopening(self, corpus: Corpus) -> None:
        assert corpus.stored_plan is None
        corpus.set_plan(PQ)
        corpus.close()
        again = opened(corpus.folder)
        assert again.stored_plan == PQ
        again.close()

    @pytest.mark.parametrize("harm", ["cut", "flipped", "future", "no json"])
    def test_a_damaged_one_is_put_aside_and_said(self, corpus: Corpus, harm: str) -> None:
        corpus.set_plan(PQ)
        corpus.close()
        file = corpus.folder / plan_state.FILE
        data = file.read_bytes()
        file.write_bytes(
            {
                "cut": data[:-5],
                "flipped": data.replace(b'"effort":40', b'"effort":41'),
                "future": data.replace(b'"oldest":1', b'"oldest":9'),
                "no json": b"\xff" + data,
            }[harm]
        )
        decisions: list[Decision] = []
        again = opened(corpus.folder, decisions)
        assert again.stored_plan is None
        assert [(d.what, d.before, d.after) for d in decisions] == [("plan", plan_state.FILE, None)]
        assert (corpus.folder / plan_state.DAMAGED).exists()
        again.close()
        told_once: list[Decision] = []
        opened(corpus.folder, told_once).close()
        assert told_once == []

    def test_a_reader_follows(self, corpus: Corpus) -> None:
        reader = opened(corpus.folder)
        corpus.set_plan(PQ)
        write(corpus, [put(ROWS)])
        reader.snapshot()
        assert reader.stored_plan == PQ
        reader.close()

    def test_a_reader_follows_also_where_nothing_is_written(
        self, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reader = opened(corpus.folder)
        reader.snapshot()
        corpus.set_plan(PQ)
        monkeypatch.setattr(plan_state, "POLL_SECONDS", 0.0)
        reader.snapshot()
        assert reader.stored_plan == PQ
        reader.close()

    def test_one_that_cannot_be_read_is_left_where_it_is(
        self, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        corpus.set_plan(PQ)
        corpus.close()
        read = Path.read_bytes

        def refused(self: Path) -> bytes:
            if self.name == plan_state.FILE:
                raise PermissionError(13, "Permission denied")
            return read(self)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", refused)
            again = opened(corpus.folder)
            assert again.stored_plan is None
            again.close()
        again = opened(corpus.folder)
        assert again.stored_plan == PQ
        again.close()

    def test_while_another_process_writes_it_holds_here(self, corpus: Corpus) -> None:
        other = WriteLock(corpus.folder)
        other.acquire()
        with pytest.raises(CollectionLocked):
            corpus.set_plan(PQ)
        assert corpus.stored_plan is None
        corpus.adopt_plan(PQ, instead_of=None)
        other.release()
        assert corpus.stored_plan == PQ
        assert corpus.trace.counters()["plan.unwritten"] == 1
        assert not (corpus.folder / plan_state.FILE).exists()


class TestSealing:
    def test_a_layout_follows_size_plan_and_settings(self) -> None:
        large, small = FLAT_UP_TO + 1, 100
        hnsw = StoredPlan(Plan("hnsw", {"m": 16}), rows=FLAT_UP_TO * 2)
        policy = SegmentPolicy(Index(), hnsw)
        assert policy.layout(large).family == "hnsw"
        assert policy.layout(large).params == {"m": 16}
        assert policy.layout(small).family == "flat"
        assert policy.largest == LARGEST_NAVIGATED
        assert SegmentPolicy(Index()).largest == LARGEST
        assert SegmentPolicy(Index(family="pq"), hnsw).layout(large).family == "pq"
        assert SegmentPolicy(Index(), hnsw, frozenset({"hnsw"})).layout(large).family == "pq"
        assert (
            SegmentPolicy(Index(), StoredPlan(Plan("of a later version"))).layout(large).family
            == "pq"
        )

    def test_what_was_measured_on_few_rows_holds_for_few(self) -> None:
        policy = SegmentPolicy(Index(), PQ)
        assert policy.layout(ROWS).family == "pq"
        assert policy.layout(ROWS // 3).family == "flat"

    def test_a_flat_plan_says_nothing_of_many_more_rows(self) -> None:
        policy = SegmentPolicy(Index(), StoredPlan(Plan("flat"), rows=100_000))
        assert policy.layout(150_000).family == "flat"
        assert policy.layout(250_000).family == "pq"

    def test_sealed_segments_are_rewritten_by_the_plan(self, corpus: Corpus) -> None:
        assert families(corpus) == [("flat", ROWS)]
        corpus.set_plan(PQ)
        assert families(corpus) == [("flat", ROWS)]
        corpus.reshape(lambda _: None)
        assert families(corpus) == [("pq", ROWS)]
        sealed = corpus.dense.segments[0].sealed
        assert sealed is not None
        assert sealed.files.params == {"width": 2}
        assert sealing.next_job(corpus.dense, corpus.plans.policy) is None

    def test_a_crash_before_that_is_made_good_in_the_background(self, tmp_path: Path) -> None:
        corpus = opened(tmp_path / "c")
        write(corpus, [put(number) for number in range(ROWS)])
        corpus.set_plan(PQ)
        corpus.close()
        again = opened(tmp_path / "c")
        again.settle()
        assert families(again) == [("pq", ROWS)]
        again.close()

    def test_without_its_extra_the_default_is_used_and_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decisions: list[Decision] = []
        corpus = opened(tmp_path / "c", decisions)
        write(corpus, [put(number) for number in range(ROWS // 2)])
        real = segments.write

        def lacking(*args: Any, **kwargs: Any) -> Any:
            if kwargs["family"] == "pq":
                raise MissingExtra("a library", "graph")
            return real(*args, **kwargs)

        monkeypatch.setattr("vivace.index.segments.write", lacking)
        corpus.set_plan(PQ)
        write(corpus, [put(number) for number in range(ROWS // 2, ROWS)])
        assert families(corpus) == [("flat", ROWS)]
        told = [d for d in decisions if d.before == "pq"]
        assert [d.what for d in told] == ["default"]
        assert "vivace[graph]" in told[0].reason
        corpus.close()


class TestEffort:
    def test_it_changes_live_and_nothing_is_built(self, corpus: Corpus) -> None:
        corpus.set_plan(PQ)
        corpus.reshape(lambda _: None)
        queries = np.random.default_rng(1).normal(size=(50, DIM)).astype(np.float32)
        written = corpus.trace.counters()["segments.rows_written"]
        recalls = []
        for effort in (1, ROWS):
            before = corpus.snapshot()
            corpus.set_plan(StoredPlan(Plan("pq", {"width": 2}, effort), rows=ROWS))
            after = corpus.snapshot()
            assert (after.epoch, after is before) == (before.epoch, False)
            found, exact = after.dense(queries, 5), after.exact(queries, 5)
            pairs = zip(found.ids, exact.ids, strict=True)
            recalls.append(np.mean([len(np.intersect1d(a, b)) / 5 for a, b in pairs]))
        assert recalls[0] <= recalls[1] == 1.0
        assert corpus.trace.counters()["segments.rows_written"] == written

    def test_another_familys_effort_is_not_used(
        self, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        efforts: list[int] = []
        search = FlatIndex.search

        def recorded(self: FlatIndex, queries: Vectors, k: int, **options: Any) -> Matches:
            efforts.append(options["effort"])
            return search(self, queries, k, **options)

        monkeypatch.setattr(FlatIndex, "search", recorded)
        asked = corpus.snapshot()
        assert asked.approximate_plan(10) is None
        assert not asked.approximate
        corpus.set_plan(StoredPlan(Plan("hnsw", {}, 7)))
        corpus.snapshot().dense(corpus.dense.vectors(np.array([1]), DIM), 3)
        assert efforts
        assert set(efforts) == {0}

    def test_a_plan_kept_elsewhere_meanwhile_holds(self, corpus: Corpus) -> None:
        before = corpus.stored_plan
        corpus.plans.__class__(corpus.folder, corpus._settings, corpus.trace, corpus._decide).keep(
            StoredPlan(Plan("hnsw", {}, 7))
        )
        corpus.adopt_plan(PQ, instead_of=before)
        assert corpus.stored_plan is not None
        assert corpus.stored_plan.plan.family == "hnsw"


class TestWholeRows:
    @pytest.mark.parametrize("in_memory", [True, False])
    def test_live_rows_of_several_segments(
        self, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, in_memory: bool
    ) -> None:
        if not in_memory:
            monkeypatch.setattr(segment_directory, "_IN_MEMORY", 0)
        write(corpus, [put(number) for number in range(ROWS, ROWS + 20)])
        write(corpus, [Remove("d7"), Remove(f"d{ROWS + 3}")])
        queries = np.random.default_rng(2).normal(size=(4, DIM)).astype(np.float32)
        with corpus.rows() as flat:
            assert len(flat.ids) == ROWS + 18
            expected = corpus.snapshot().exact(queries, 20)
            assert flat.search(queries, 20).ids.tolist() == expected.ids.tolist()
        assert list(corpus.folder.glob("tuning-*")) == []

    def test_one_sealed_segment_is_used_in_place(self, corpus: Corpus) -> None:
        corpus.set_plan(PQ)
        corpus.reshape(lambda _: None)
        with corpus.rows() as flat:
            assert flat.family == "flat"
            assert flat.ids.tolist() == corpus.dense.segments[0].index.ids.tolist()
            assert isinstance(flat.vectors.base, np.ndarray)
