"""Every family of vector indexes, in memory and opened from files, keeps to the conformance."""

from __future__ import annotations

import gc
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.errors import BadInput, MissingExtra
from vivace.index import graph, matches, segments
from vivace.index.flat import FlatIndex
from vivace.index.graph import GraphIndex
from vivace.index.hnsw import HnswIndex
from vivace.index.ivf import IvfIndex
from vivace.index.pq import PqIndex
from vivace.protocols import VectorIndex
from vivace.testing.conformance import VectorIndexConformance, questions, vectors
from vivace.types import Float16Vectors, Ids, Matches, Metric, Vectors


class TestFlat(VectorIndexConformance):
    def build(self, folder: Path, ids: Ids, vectors: Float16Vectors, metric: Metric) -> VectorIndex:
        return FlatIndex.build(ids, vectors, metric=metric)


class TestPq(VectorIndexConformance):
    def build(self, folder: Path, ids: Ids, vectors: Float16Vectors, metric: Metric) -> VectorIndex:
        return PqIndex.build(FlatIndex.build(ids, vectors, metric=metric))


class TestHnsw(VectorIndexConformance):
    rows = 8_000

    def build(self, folder: Path, ids: Ids, vectors: Float16Vectors, metric: Metric) -> VectorIndex:
        return HnswIndex.build(FlatIndex.build(ids, vectors, metric=metric))


class TestHnswOverCodes(VectorIndexConformance):
    rows = 8_000

    def build(self, folder: Path, ids: Ids, vectors: Float16Vectors, metric: Metric) -> VectorIndex:
        return HnswIndex.build(FlatIndex.build(ids, vectors, metric=metric), bits=8)


class TestIvf(VectorIndexConformance):
    rows = 8_000

    def build(self, folder: Path, ids: Ids, vectors: Float16Vectors, metric: Metric) -> VectorIndex:
        return IvfIndex.build(FlatIndex.build(ids, vectors, metric=metric))


@pytest.mark.skipif(not graph.installed(), reason="rabitqlib is not installed")
class TestGraph(VectorIndexConformance):
    def build(self, folder: Path, ids: Ids, vectors: Float16Vectors, metric: Metric) -> VectorIndex:
        return GraphIndex.build(FlatIndex.build(ids, vectors, metric=metric))


class _Opened(VectorIndexConformance):
    family = "flat"

    def build(self, folder: Path, ids: Ids, vectors: Float16Vectors, metric: Metric) -> VectorIndex:
        parts = np.array_split(vectors, 3) if len(vectors) > 2 else [vectors]
        dim = vectors.shape[1]
        made = segments.write(folder, ids, parts, dim=dim, metric=metric, family=self.family)
        return segments.open_segment(folder, made)


class TestFlatOpened(_Opened):
    family = "flat"


class TestPqOpened(_Opened):
    family = "pq"


class TestIvfOpened(_Opened):
    family = "ivf"
    rows = 8_000


@pytest.mark.skipif(not graph.installed(), reason="rabitqlib is not installed")
class TestGraphOpened(_Opened):
    family = "graph"


class TestHnswOpened(_Opened):
    family = "hnsw"
    rows = 8_000


METRICS: list[Metric] = ["cosine", "ip", "l2"]


def recall(found: Matches, expected: Matches) -> float:
    pairs = zip(found.ids.tolist(), expected.ids.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(set(b)) for a, b in pairs]))


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 300), max_size=4),
    metric=st.sampled_from(METRICS),
    k=st.integers(1, 400),
    coarse=st.booleans(),
)
def test_merged_parts_answer_bit_for_bit_as_the_whole(
    cuts: list[int], metric: Metric, k: int, coarse: bool
) -> None:
    ids, base = np.arange(300), vectors(300)
    if coarse:  # many ties
        base = np.round(base * 2).astype(np.float16)
    asked = vectors(3, seed=1).astype(np.float32)
    whole = FlatIndex.build(ids, base, metric=metric).search(asked, k)
    edges = sorted([0, *cuts, 300])
    parts = [
        FlatIndex.build(ids[a:b], base[a:b], metric=metric).search(asked, k)
        for a, b in pairwise(edges)
    ]
    merged = matches.merge(parts, 3, k)
    assert merged.ids.tolist() == whole.ids.tolist()
    assert merged.scores.tolist() == whole.scores.tolist()


@pytest.fixture(scope="module", params=["cosine", "l2"])
def indexes(request: pytest.FixtureRequest, ann: Path) -> tuple[FlatIndex, PqIndex]:
    base = np.load(ann / "sentences40k.base.f16.npy")
    flat = FlatIndex.build(np.arange(len(base)), base, metric=request.param)
    return flat, PqIndex.build(flat)


@pytest.fixture(scope="module")
def asked(ann: Path) -> Vectors:
    queries: Vectors = np.load(ann / "sentences40k.queries.f16.npy")[:60].astype(np.float32)
    return queries


class TestRealSentences:
    """40,000 embedded sentences: what the default effort finds."""

    @pytest.mark.parametrize("k", [1, 10, 50])
    def test_default_effort_reaches_the_recall_floor(
        self, indexes: tuple[FlatIndex, PqIndex], asked: Vectors, k: int
    ) -> None:
        flat, pq = indexes
        assert recall(pq.search(asked, k), flat.search(asked, k)) >= 0.985

    @pytest.mark.parametrize("share", [0.99, 0.5, 0.2, 0.1, 0.01, 0.001])
    def test_recall_among_the_allowed(
        self, indexes: tuple[FlatIndex, PqIndex], asked: Vectors, share: float
    ) -> None:
        flat, pq = indexes
        allow = np.random.default_rng(0).random(len(flat.ids)) < share
        found, expected = (i.search(asked[:40], 10, allow=allow) for i in (pq, flat))
        assert recall(found, expected) >= 0.97

    def test_flat_is_exact(self, indexes: tuple[FlatIndex, PqIndex], ann: Path) -> None:
        flat, _ = indexes
        asked = np.load(ann / "sentences40k.queries.f16.npy")[:50].astype(np.float32)
        known = np.load(ann / "sentences40k.neighbours.i32.npy")[:50, :10]
        # the known ones come from float32 vectors, these from their float16
        assert recall(flat.search(asked, 10), Matches(known, known)) >= 0.98

    def test_codes_are_repeatable(self, indexes: tuple[FlatIndex, PqIndex], tmp_path: Path) -> None:
        flat, pq = indexes
        assert pq.save(tmp_path / "a").crc32 == PqIndex.build(flat).save(tmp_path / "b").crc32

    def test_batches_answer_as_single_queries(
        self, indexes: tuple[FlatIndex, PqIndex], asked: Vectors
    ) -> None:
        flat, _ = indexes
        for k in (1, 10, 100):
            whole = flat.search(asked, k)
            single = matches.stacked([flat.search(query, k) for query in asked[:, None]])
            assert whole.ids.tolist() == single.ids.tolist()
            assert whole.scores.tolist() == single.scores.tolist()

    @pytest.mark.parametrize(
        ("family", "params"),
        [
            ("ivf", {}),
            ("hnsw", {"M": 16}),
            ("hnsw", {"M": 16, "bits": 8}),
        ],
    )
    def test_default_effort_of_the_other_families(
        self,
        indexes: tuple[FlatIndex, PqIndex],
        asked: Vectors,
        family: str,
        params: dict[str, int],
    ) -> None:
        flat, _ = indexes
        other = segments.build(flat, family, params)
        assert recall(other.search(asked, 10), flat.search(asked, 10)) >= 0.95
        greatest = other.efforts(10)[1]
        assert recall(other.search(asked, 10, effort=greatest), flat.search(asked, 10)) >= 0.98


@pytest.mark.parametrize(
    ("family", "params"),
    [("hnsw", {"M": 1}), ("hnsw", {"bits": 4}), ("ivf", {"nlist": 10**6}), ("ivf", {"width": 0})],
)
def test_parameters_out_of_range_are_refused(family: str, params: dict[str, int]) -> None:
    flat = FlatIndex.build(np.arange(300), vectors(300))
    with pytest.raises(BadInput):
        segments.build(flat, family, params)


def test_without_its_library_the_graph_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rabitqlib", None)
    with pytest.raises(MissingExtra, match=r"vivace\[graph\]"):
        GraphIndex.build(FlatIndex.build(np.arange(900), vectors(900)))


def test_a_graph_leaves_the_rows_to_their_index() -> None:
    flat = FlatIndex.build(np.arange(2_000, dtype=np.int64), vectors(2_000))
    graph = HnswIndex.build(flat)
    asked = questions(3)
    found = graph.search(asked, 5, effort=200).ids
    assert flat.native.thisown
    del graph
    gc.collect()
    assert (flat.search(asked, 5).ids == found).mean() > 0.8


def test_a_few_removed_rows_are_passed_over() -> None:
    flat = FlatIndex.build(np.arange(12_000, dtype=np.int64), vectors(12_000))
    codes, asked = PqIndex.build(flat), questions(20)
    allow = np.ones(12_000, np.bool_)
    first = codes.search(asked, 10).ids
    allow[first[:, 0]] = False
    found = codes.search(asked, 10, allow=allow)
    assert allow[found.ids].all()
    exact = flat.search(asked, 10, allow=allow)
    assert (found.ids == exact.ids).mean() > 0.95
    assert (codes.search(asked[:1], 10, allow=allow).ids[0] == found.ids[0]).all()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("step", [1, 3])
def test_the_score_of_a_known_id_is_that_of_a_search(metric: Metric, step: int) -> None:
    """Whether ids follow each other, where a row is found by subtracting, or have gaps."""
    ids = np.arange(100, 100 + 50 * step, step, dtype=np.int64)
    flat = FlatIndex.build(ids, vectors(50), metric=metric)
    query = questions(1)
    found = flat.search(query, 50)
    order = np.random.default_rng(0).permutation(50)
    some = found.ids[0][order]
    assert flat.similarity(query, some).tolist() == found.scores[0][order].tolist()
    strangers = np.array([99, 100 + 50 * step, 10_000, 0], np.int64)
    assert np.isneginf(flat.similarity(query, strangers)).all()
    mixed = flat.similarity(query, np.concatenate([some[:3], strangers]))
    assert mixed.tolist() == [*found.scores[0][order][:3].tolist(), *[-np.inf] * 4]
    assert flat.similarity(query, some[:0]).shape == (0,)
