"""Many chunks from few: the real sentence vectors grown, with short texts and metadata.

SYNTHETIC: grown by the recipe in the data's README, `x + a(nn-x) + b(nn1-nn2) + 0.25*gauss/sqrt(d)`
renormalised (a~U(.2,.8), b~U(.3,.7), nn among 16 real neighbours), which keeps the local intrinsic
dimension near the real one. The same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import DATA
from vivace.types import Chunk

NEIGHBOURS = 16
OF_A_DOCUMENT = 10
_BLOCK = 20_000
_SUBJECTS = ("contract", "invoice", "server", "engine", "garden", "river", "market", "patient")
_VERBS = ("describes", "requires", "reports", "replaces", "cools", "delays", "supports", "opens")
_OBJECTS = ("payment", "shutdown", "backup", "pressure", "harvest", "schedule", "exam", "permit")
_SHARES = ((0.1, 1), (1, 10), (10, 100), (50, 500), (100, 1000))


def vectors(count: int, folder: Path) -> NDArray[np.float16]:
    """(count, 384) float16, mapped from a file in `folder`, which is made on first use."""
    path = folder / f"grown-{count}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        begun = path.with_suffix(".part")
        rows = np.lib.format.open_memmap(begun, mode="w+", dtype=np.float16, shape=(count, 384))
        at = 0
        for block in _blocks(count, folder):
            rows[at : at + len(block)] = block
            at += len(block)
        rows.flush()
        begun.replace(path)
    mapped: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return mapped


def queries() -> NDArray[np.float32]:
    """(500, 384) float32 of unit length; real."""
    rows = np.load(DATA / "ann" / "sentences40k.queries.f16.npy").astype(np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def chunks(first: int, count: int, *, version: int = 0) -> list[Chunk]:
    """Chunks of whole documents, the first of which has the number `first`.

    Metadata `share` is the smallest of 0.1, 1, 10, 50 and 100 percent that the document is in.
    """
    found = []
    for document in range(first, first + -(-count // OF_A_DOCUMENT)):
        metadata = {"share": share(document), "year": 2000 + document % 25}
        parts = range(min(OF_A_DOCUMENT, count - (document - first) * OF_A_DOCUMENT))
        found += [
            Chunk(f"d{document}", text(document, part, version), metadata=metadata)
            for part in parts
        ]
    return found


def share(document: int) -> float:
    """Of every 1,000 documents 1 has 0.1, 9 more 1, 90 more 10, 400 more 50, the rest 100."""
    # a permutation of the thousand, so that a share lies scattered
    place = document * 619 % 1000
    return next(s for s, below in _SHARES if place < below)


def text(document: int, part: int, version: int = 0) -> str:
    """A short sentence: common words, and one that only its document has."""
    seed = document * 31 + part * 7 + version
    again = f" It was revised {version} times." if version else ""
    return (
        f"The {_SUBJECTS[seed % 8]} {_VERBS[seed // 8 % 8]} the {_OBJECTS[seed // 64 % 8]}"
        f" of case k{document} in part {part}.{again}"
    )


def question(document: int) -> str:
    return f"Which {_SUBJECTS[document % 8]} {_VERBS[document // 7 % 8]} case k{document}?"


def _blocks(count: int, folder: Path) -> Iterator[NDArray[np.float16]]:
    base = np.load(DATA / "ann" / "sentences40k.base.f16.npy").astype(np.float32)
    near = _neighbours(base, folder)
    rng = np.random.default_rng(5)
    yield base[:count].astype(np.float16)
    made = len(base)
    while made < count:
        n = min(_BLOCK, count - made)
        at = rng.integers(len(base), size=n)
        picked = near[at[:, None], rng.integers(NEIGHBOURS, size=(n, 3))]
        a = rng.uniform(0.2, 0.8, (n, 1)).astype(np.float32)
        b = rng.uniform(0.3, 0.7, (n, 1)).astype(np.float32)
        noise = rng.standard_normal((n, base.shape[1]), np.float32)
        x = base[at]
        grown = x + a * (base[picked[:, 0]] - x) + b * (base[picked[:, 1]] - base[picked[:, 2]])
        grown += np.float32(0.25 / np.sqrt(base.shape[1])) * noise
        grown /= np.linalg.norm(grown, axis=1, keepdims=True)
        yield grown.astype(np.float16)
        made += n


def _neighbours(base: NDArray[np.float32], folder: Path) -> NDArray[np.int32]:
    """(n, 16): the nearest other rows of each, by inner product."""
    path = folder / "neighbours.npy"
    if path.exists():
        known: NDArray[np.int32] = np.load(path)
        return known
    near = np.empty((len(base), NEIGHBOURS), np.int32)
    for at in range(0, len(base), 1000):
        scores = base[at : at + 1000] @ base.T
        scores[np.arange(len(scores)), np.arange(at, at + len(scores))] = -np.inf
        near[at : at + 1000] = np.argpartition(-scores, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    np.save(path, near)
    return near
