"""The nearest question is the one that brute force finds, whatever was added and removed."""

from __future__ import annotations

import numpy as np
import pytest

from vivace.cache.semantic.index import NearestQuestion
from vivace.types import Vector


def _unit(rng: np.random.Generator, dim: int, near: Vector | None = None) -> Vector:
    vector = rng.standard_normal(dim).astype(np.float32)
    if near is not None:
        vector = near + vector * np.float32(rng.uniform(0, 0.6) / dim**0.5)
    unit: Vector = vector / np.linalg.norm(vector)
    return unit


@pytest.mark.parametrize(("dim", "steps"), [(4, 400), (96, 1500), (384, 3000)])
def test_it_finds_what_brute_force_finds(dim: int, steps: int) -> None:
    rng = np.random.default_rng(dim)
    index = NearestQuestion(dim)
    kept: dict[int, Vector] = {}
    for step in range(steps):
        if kept and rng.random() < 0.2:
            gone = int(rng.choice(list(kept)))
            index.remove(gone)
            del kept[gone]
        else:
            key = int(rng.integers(0, steps))
            near = kept[int(rng.choice(list(kept)))] if kept and rng.random() < 0.5 else None
            kept[key] = _unit(rng, dim, near)
            index.add(key, kept[key])
        if step % 7 or not kept:
            continue
        asked = _unit(rng, dim, kept[int(rng.choice(list(kept)))])
        scores = {key: float(vector @ asked) for key, vector in kept.items()}
        best = max(scores.values())
        for floor in (0.5, 0.9, 0.97):
            found = index.nearest(asked, floor)
            if best < floor - 1e-5:
                assert found is None
            elif best > floor + 1e-5:
                assert found is not None
                assert found[1] == pytest.approx(best, abs=1e-5)
                assert scores[found[0]] == pytest.approx(best, abs=1e-5)
    assert len(index) == len(kept)


def test_an_empty_one_finds_nothing() -> None:
    index = NearestQuestion(8)
    vector = np.ones(8, np.float32) / np.float32(8**0.5)
    assert index.nearest(vector, 0.0) is None
    index.add(3, vector)
    index.remove(4)
    found = index.nearest(vector, 0.9)
    assert found is not None
    assert found[0] == 3
    assert found[1] == pytest.approx(1.0)
    index.remove(3)
    assert index.nearest(vector, 0.0) is None
    assert index.nbytes > 0


def test_its_room_follows_what_is_there() -> None:
    """Many scopes hold a question or two; and one that was large may become small."""
    rng = np.random.default_rng(0)
    index = NearestQuestion(96)
    vectors = {key: _unit(rng, 96) for key in range(3000)}
    index.add(0, vectors[0])
    small = index.nbytes
    assert small <= 8 * 96 * 4
    for key, vector in vectors.items():
        index.add(key, vector)
    large = index.nbytes
    for step, key in enumerate(list(vectors)[::-1]):
        if key == 0:
            break
        index.remove(key)
        if step % 50 == 0:
            found = index.nearest(vectors[key // 2], 0.9)
            assert found is not None
            assert found[0] == key // 2
            assert index.nbytes <= max(small, 4 * large * max(key, 2) / 2048)
    assert index.nbytes == small
    for key, vector in vectors.items():
        index.add(key, vector)
    assert index.nbytes == large
    found = index.nearest(vectors[1234], 0.9)
    assert found is not None
    assert found[0] == 1234
