"""Segments that merge and forget, against one exact index over what is live."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.collection.dense import _TAIL_RATIO, Dense
from vivace.index.flat import FlatIndex
from vivace.types import Bitmap, Float16Vectors, Ids, Metric

DIM = 8


def rows(rng: np.random.Generator, n: int) -> Float16Vectors:
    made: Float16Vectors = rng.normal(size=(n, DIM)).astype(np.float16)
    return made


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 40), st.floats(0, 0.6)), min_size=1, max_size=12),
    seed=st.integers(0, 2**16),
    filtered=st.booleans(),
)
def test_any_history_answers_as_a_fresh_index(
    steps: list[tuple[int, float]], seed: int, filtered: bool
) -> None:
    rng = np.random.default_rng(seed)
    dense, live, next_id = Dense(), dict[int, np.ndarray[tuple[int], np.dtype[np.float16]]](), 1
    for added, share in steps:
        vectors = rows(rng, added)
        ids = np.arange(next_id, next_id + added, dtype=np.int64)
        gone = np.array([number for number in live if rng.random() < share], np.int64)
        before, copy = dense, dense.search(np.ones((1, DIM), np.float32), 5)
        dense = dense.changed(ids, vectors, gone)
        again = before.search(np.ones((1, DIM), np.float32), 5)
        assert again.ids.tolist() == copy.ids.tolist(), "an old state stays as it was"
        next_id += added
        live.update(zip(ids.tolist(), vectors, strict=True))
        for number in gone.tolist():
            del live[number]
        assert len(dense) == len(live)
        sizes = [len(s.index.ids) for s in dense.segments]
        assert all(a >= b for a, b in zip(sizes, sizes[2:], strict=False)) or len(sizes) < 3
    kept: Ids = np.array(sorted(live), np.int64)
    base = np.array([live[number] for number in kept.tolist()], np.float16).reshape(len(kept), DIM)
    allow: Bitmap | None = rng.random(next_id) < 0.4 if filtered else None
    queries = rng.normal(size=(3, DIM)).astype(np.float32)
    expected = FlatIndex.build(kept, base).search(queries, 12, allow=allow)
    found = dense.search(queries, 12, allow=allow)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.scores.tolist() == expected.scores.tolist()
    some: Ids = np.array([*kept[:5].tolist(), next_id + 5], np.int64)
    np.testing.assert_allclose(
        dense.similarity(queries[:1], some)[:-1],
        FlatIndex.build(kept, base).similarity(queries[:1], some)[:-1],
        rtol=1e-5,
    )
    assert dense.similarity(queries[:1], some)[-1] == -np.inf


def test_copying_stays_within_n_log_n() -> None:
    copied, built = 0, FlatIndex.build

    def counted(ids: Ids, vectors: Float16Vectors, *, metric: Metric) -> FlatIndex:
        nonlocal copied
        copied += len(ids)
        return built(ids, vectors, metric=metric)

    rng = np.random.default_rng(0)
    dense, n = Dense(), 2048
    FlatIndex.build = counted  # type: ignore[method-assign, assignment]
    try:
        for number in range(n):
            dense = dense.changed(np.array([number]), rows(rng, 1), np.empty(0, np.int64))
    finally:
        FlatIndex.build = built  # type: ignore[method-assign]
    assert copied <= _TAIL_RATIO * n * np.log(n) / np.log(_TAIL_RATIO)
    assert len(dense.segments) <= 1 + np.log(n) / np.log(_TAIL_RATIO)
