"""Others' indexes through their own Python interfaces, swept by hand over what matters to each."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ann.contestants import Built, Search
from benchmarks.ann.data import Contest
from vivace.index import native
from vivace.types import Footprint, Ids, Vectors

_EFS = (10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 400, 512, 768, 1024)
_FACTORS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 26, 32, 48, 64, 96, 128)
_CELLS_FACTORS = (1.5, 3, 6, 12, 24, 48)


def numpy_exact(contest: Contest) -> Built:
    """Every row scored in float32 by BLAS."""
    began = time.perf_counter()
    rows = contest.floats()
    squares = np.einsum("ij,ij->i", rows, rows) if contest.metric == "l2" else None
    k = contest.k

    def search(queries: Vectors) -> Ids:
        scores = queries @ rows.T
        if squares is not None:
            scores = 2 * scores - squares
        near = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, near, 1), axis=1)
        return np.take_along_axis(near, order, 1)

    seconds = time.perf_counter() - began
    return Built("numpy exact", {"float32": search}, seconds, Footprint(rows.nbytes, 0))


def faiss_hnsw(contest: Contest) -> Built:
    faiss = _faiss()
    index = _factory(contest, "HNSW32,SQ8")
    index.hnsw.efConstruction = 200
    seconds = _filled(index, contest)
    settings = {
        f"efSearch {ef}": _asked(index, contest, faiss.SearchParametersHNSW(efSearch=ef))
        for ef in _EFS
        if ef >= contest.k
    }
    return Built("FAISS HNSW32,SQ8", settings, seconds, _size(index))


def faiss_pq(contest: Contest) -> Built:
    faiss = _faiss()
    index = _factory(contest, f"PQ{contest.dim // 4}x4fs,RFlat")
    seconds = _filled(index, contest)
    settings = {
        f"k_factor {factor:g}": _asked(
            index, contest, faiss.IndexRefineSearchParameters(k_factor=factor)
        )
        for factor in _FACTORS
    }
    return Built(f"FAISS PQ{contest.dim // 4}x4fs,RFlat", settings, seconds, _size(index))


def faiss_ivf(contest: Contest) -> Built:
    faiss = _faiss()
    cells = max(1, round(4 * sqrt(contest.rows)))
    index = _factory(contest, f"IVF{cells},PQ{contest.dim // 2}x4fs,RFlat")
    seconds = _filled(index, contest)
    settings: dict[str, Search] = {}
    for probes in _geometric(1, max(1, cells // 3), 1.3):
        inner = faiss.SearchParametersIVF(nprobe=probes)
        for factor in _CELLS_FACTORS:
            outer = faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=inner)
            settings[f"nprobe {probes} k_factor {factor:g}"] = _asked(index, contest, outer)
    return Built(
        f"FAISS IVF{cells},PQ{contest.dim // 2}x4fs,RFlat", settings, seconds, _size(index)
    )


def hnswlib(contest: Contest) -> Built:
    library = import_module("hnswlib")
    space = {"cosine": "ip", "ip": "ip", "l2": "l2"}[contest.metric]
    index = library.Index(space=space, dim=contest.dim)
    began = time.perf_counter()
    index.init_index(max_elements=contest.rows, M=16, ef_construction=200)
    index.set_num_threads(1)
    for part in contest.blocks():
        index.add_items(contest.base[part].astype(np.float32), num_threads=1)
    seconds = time.perf_counter() - began

    def asked(ef: int) -> Search:
        def search(queries: Vectors) -> Ids:
            # contestants take turns, and the index remembers one ef: a setter is all it costs
            index.set_ef(ef)
            found = index.knn_query(queries, contest.k, num_threads=1)[0]
            return np.asarray(found).astype(np.int64)

        return search

    settings = {f"ef {ef}": asked(ef) for ef in _EFS if ef >= contest.k}
    return Built("hnswlib M16", settings, seconds, Footprint(index.index_file_size(), 0))


def usearch(contest: Contest) -> Built:
    library = import_module("usearch.index")
    metric = {"cosine": "ip", "ip": "ip", "l2": "l2sq"}[contest.metric]
    index = library.Index(
        ndim=contest.dim, metric=metric, dtype="bf16", connectivity=16, expansion_add=200
    )
    began = time.perf_counter()
    for part in contest.blocks():
        rows = contest.base[part].astype(np.float32)
        index.add(np.arange(part.start, part.start + len(rows)), rows, threads=1)
    seconds = time.perf_counter() - began

    def asked(expansion: int) -> Search:
        def search(queries: Vectors) -> Ids:
            index.expansion_search = expansion
            found = index.search(queries, contest.k, threads=1).keys
            return np.asarray(found).reshape(len(queries), -1).astype(np.int64)

        return search

    settings = {f"expansion {ef}": asked(ef) for ef in _EFS if ef >= contest.k}
    return Built("usearch bf16", settings, seconds, Footprint(int(index.memory_usage), 0))


def symphonyqg(contest: Contest) -> Built:
    """The library itself, without exact rescoring, filters or ties to the lower id."""
    library = import_module("rabitqlib")
    metric = {"cosine": "ip", "ip": "ip", "l2": "l2"}[contest.metric]
    index = library.SymqgIndex(contest.dim, 32, metric=metric)
    rows = contest.floats()
    began = time.perf_counter()
    index.build(rows, ef_construction=200)
    seconds = time.perf_counter() - began
    del rows
    with tempfile.TemporaryDirectory(prefix="vivace-ann-") as folder:
        path = Path(folder) / "graph"
        index.save(str(path))
        size = os.path.getsize(path)

    def asked(ef: int) -> Search:
        return lambda queries: np.asarray(index.search(queries, contest.k, ef)[0], np.int64)

    settings = {f"ef {ef}": asked(ef) for ef in _EFS if ef >= contest.k}
    return Built("SymphonyQG R32", settings, seconds, Footprint(size, 0))


MAKERS: Mapping[str, tuple[str, Callable[[Contest], Built]]] = {
    "hnsw": ("faiss", faiss_hnsw),
    "pq": ("faiss", faiss_pq),
    "ivf": ("faiss", faiss_ivf),
    "hnswlib": ("hnswlib", hnswlib),
    "usearch": ("usearch", usearch),
    "symphonyqg": ("rabitqlib", symphonyqg),
    "numpy": ("numpy", numpy_exact),
}
"""By what `--only` calls them: the library they need, and what makes them."""


def _faiss() -> Any:
    # its stubs lack what its Python layer adds to the classes
    return import_module("faiss")


def _factory(contest: Contest, description: str) -> Any:
    faiss = _faiss()
    native.one_thread()
    return faiss.index_factory(contest.dim, description, native.measure(contest.metric))


def _filled(index: Any, contest: Contest) -> float:
    """Seconds that training and adding take; memory holds one block of float32 rows at a time."""
    native.one_thread()
    sample = contest.base[:: max(1, contest.rows // 100_000)].astype(np.float32)
    seconds, began = 0.0, time.perf_counter()
    index.train(sample)
    seconds += time.perf_counter() - began
    for part in contest.blocks():
        rows = contest.base[part].astype(np.float32)
        began = time.perf_counter()
        index.add(rows)
        seconds += time.perf_counter() - began
    return seconds


def _asked(index: Any, contest: Contest, parameters: Any) -> Search:
    k = contest.k
    return lambda queries: index.search(queries, k, params=parameters)[1]


def _size(index: Any) -> Footprint:
    """Bytes that FAISS writes for it, counted and thrown away."""
    faiss = _faiss()
    counted = 0

    def count(block: bytes) -> int:
        nonlocal counted
        counted += len(block)
        return len(block)

    faiss.write_index(index, faiss.BufferedIOWriter(faiss.PyCallbackIOWriter(count)))
    return Footprint(counted, 0)


def _geometric(first: int, last: int, ratio: float) -> Iterator[int]:
    at = first
    while at < last:
        yield at
        at = max(at + 1, round(at * ratio))
    yield last
