"""What every family does through FAISS: checked inputs, searches, scores of known rows.

FAISS is imported on use: loading it takes a while.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vivace.errors import BadVectors
from vivace.run.threads import NATIVE
from vivace.types import Bitmap, Float16Vectors, Ids, Metric, Scores, Vectors

_ROOM: Final = 128
"""Rows that a `Scorer` has room for at first: twice what a search scores."""


def check_ids(ids: Ids) -> None:
    """Raise `BadVectors` unless ids (n,) strictly ascend and none is negative."""
    if ids.ndim != 1 or np.any(np.diff(ids) <= 0) or (len(ids) and ids[0] < 0):
        raise BadVectors("ids do not ascend", fix="Give each vector its own id, strictly ascending")


def check_rows(vectors: Float16Vectors, dim: int) -> None:
    """Raise `BadVectors` unless vectors (n, dim) are float16 and finite."""
    if vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype != np.float16:
        raise BadVectors(
            f"{vectors.dtype} vectors of shape {vectors.shape} where float16 (n, {dim}) is wanted",
            fix="Embed with the collection's embedder and store as float16",
        )
    _check_finite(vectors)


def checked_queries(vectors: Vectors, dim: int) -> Vectors:
    """Queries (q, dim) as FAISS needs them: float32, contiguous. Raises `BadVectors`."""
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise BadVectors(
            f"queries of shape {vectors.shape} for vectors of {dim} dimensions",
            fix="Embed queries with the collection's embedder, one row a query",
        )
    queries: Vectors = np.ascontiguousarray(vectors, np.float32)
    if len(queries) == 1:
        row = queries[0]
        # the sum of squares is finite only if every number is, and takes a fifth of the time
        if isfinite(row.dot(row)):
            return queries
    _check_finite(queries)
    return queries


def _check_finite(vectors: Float16Vectors | Vectors) -> None:
    if not np.isfinite(vectors).all():
        raise BadVectors("vectors hold NaN or infinity", fix="Remove or repair those rows")


def one_thread() -> None:
    """Limit FAISS, when called by this thread, to this thread.

    A second OpenMP thread costs a short scan more than it gains, and the search pool already has a
    thread per core. FAISS keeps the number per thread, so this precedes every call.
    """
    import faiss

    faiss.omp_set_num_threads(NATIVE)


def measure(metric: Metric) -> int:
    """FAISS's number of a metric."""
    import faiss

    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def halves(dim: int, metric: Metric) -> Any:
    """An empty index of float16 rows."""
    import faiss

    kind = faiss.ScalarQuantizer.QT_fp16
    return faiss.IndexScalarQuantizer(dim, kind, measure(metric))


def refining(codes: Any, rows: Any) -> Any:
    """An index that scores the candidates of `codes` by `rows`; both stay as they are."""
    import faiss

    return faiss.IndexRefine(codes, rows)


def share_rows(graph: Any, rows: Any) -> None:
    """Let a graph without rows walk over those of an index, which keeps owning them."""
    graph.own_fields = False
    graph.storage = rows
    # SWIG takes an assigned object for given away, and nothing would free the rows any more; taking
    # a part out of an index in this way was found to corrupt SWIG's own records
    rows.this.own(True)


def refining_width(width: int, k: int, options: Any = None) -> Any:
    """Search parameters that score the first `width` candidates, found by `options`, to find k."""
    import faiss

    untyped: Any = faiss
    # half a candidate more: FAISS rounds the product down to `width`
    return untyped.IndexRefineSearchParameters(
        k_factor=(width + 0.5) / k, base_index_params=options
    )


def selecting(mask: Bitmap) -> Any:
    """Search parameters that skip the rows whose bit is not set."""
    import faiss

    # FAISS's Python layer takes an array and keywords where its stubs name the C++ arguments
    untyped: Any = faiss
    return untyped.SearchParameters(
        sel=untyped.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
    )


def search(
    index: Any, queries: Vectors, k: int, metric: Metric, parameters: Any = None
) -> tuple[Scores, Ids]:
    """Scores (q, k) in descending order and rows (q, k) for queries (float32, contiguous).

    If there are fewer rows, -inf and -1 fill the end.
    """
    import faiss

    n = len(queries)
    scores, rows = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
    faiss.omp_set_num_threads(NATIVE)  # see `one_thread`
    # the C call inside `index.search`: its Python wrapper takes a third of a short search's time
    pointer = faiss.swig_ptr
    index.search_c(n, pointer(queries), k, pointer(scores), pointer(rows), parameters)
    if metric == "l2":
        np.subtract(np.float32(0), scores, out=scores)
    if n and k and (rows.item(-1) if n == 1 else rows[:, -1].min()) < 0:
        scores[rows < 0] = -np.inf
    return scores, rows


def array_of(vector: Any, size: int) -> NDArray[np.uint8]:
    """A view of a C++ vector of `size` bytes, valid as long as the index that owns it."""
    import faiss

    if not size:
        return np.empty(0, np.uint8)
    view: NDArray[np.uint8] = faiss.rev_swig_ptr(vector.data(), size)
    return view


class Scorer:
    """Scores known rows of a FAISS index in one call, bit for bit as a scan; safe in any thread.

    FAISS refines the candidates of another index. Here that is a stand-in: zeros in one dimension,
    whose candidate numbers are overwritten by the rows to score. This takes two thirds of the time
    of scoring row by row, and a quarter of that of copying the rows together.
    """

    def __init__(self, rows: Any, metric: Metric) -> None:
        self._rows = rows
        self._metric = metric
        self._of_thread = threading.local()

    def score(self, query: Vectors, rows: Ids) -> tuple[Scores, Ids]:
        """Of one query (1, dim) and distinct rows (m,): both (1, m), by descending score."""
        stand_in = self._stand_in(len(rows))
        stand_in.candidates[: len(rows)] = rows
        return search(stand_in.index, query, len(rows), self._metric)

    def aligned(self, query: Vectors, rows: Ids, order: Ids | None = None) -> Scores:
        """Of one query (1, dim) and distinct rows (m,): scores (m,) in their order.

        `order` is `rows.argsort()`, if the caller has it.
        """
        scores, by_score = self.score(query, rows)
        aligned = np.empty(len(rows), np.float32)
        aligned[rows.argsort() if order is None else order] = scores[0, by_score[0].argsort()]
        return aligned

    def _stand_in(self, width: int) -> _StandIn:
        """This thread's stand-in, returning `width` candidates."""
        made: _StandIn | None = getattr(self._of_thread, "made", None)
        if made is None or len(made.candidates) < width:
            made = self._of_thread.made = _make_stand_in(self._rows, max(_ROOM, 2 * width))
        # the zeros beyond exist, but are not searched
        made.zeros.ntotal = width
        return made


@dataclass(frozen=True, slots=True)
class _StandIn:
    candidates: Ids
    """Writable: the rows it will find."""
    zeros: Any
    index: Any
    """Refines the candidates."""


def _make_stand_in(rows: Any, room: int) -> _StandIn:
    import faiss

    untyped: Any = faiss
    zeros = untyped.IndexFlat(1, rows.metric_type)
    mapped = untyped.IndexIDMap(zeros)
    zeros.add(np.zeros((room, 1), np.float32))
    mapped.id_map.resize(room)
    mapped.d, mapped.ntotal = rows.d, rows.ntotal
    view = untyped.rev_swig_ptr(mapped.id_map.data(), room)
    return _StandIn(view, zeros, refining(mapped, rows))
