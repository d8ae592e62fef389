"""Calls of FAISS that every family shares. FAISS is imported on use: it takes a while to load."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.run.threads import NATIVE
from vivace.types import Bitmap, Ids, Metric, Scores, Vectors


def one_thread() -> None:
    """Keep FAISS, in this thread, to this thread.

    A second OpenMP thread costs a short scan more than it gains, and the search pool has a thread
    a core already. FAISS keeps the number by thread, so this comes before every call.
    """
    import faiss

    faiss.omp_set_num_threads(NATIVE)


def measure(metric: Metric) -> int:
    """FAISS's number of a metric."""
    import faiss

    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def halves(dim: int, metric: Metric) -> Any:
    """An index over float16 rows, without any."""
    import faiss

    kind = faiss.ScalarQuantizer.QT_fp16
    return faiss.IndexScalarQuantizer(dim, kind, measure(metric))


def refining(codes: Any, rows: Any) -> Any:
    """An index that scores what `codes` finds by `rows`; both stay as they are."""
    import faiss

    return faiss.IndexRefine(codes, rows)


def share_rows(graph: Any, rows: Any) -> None:
    """Let a graph without rows walk over those of an index, which stay that index's own."""
    graph.own_fields = False
    graph.storage = rows
    # SWIG takes what is assigned for given away, and nothing would free the rows any more; taking
    # a part out of an index in this way instead was found to corrupt SWIG's own records
    rows.this.own(True)


def refining_width(width: int, k: int, options: Any = None) -> Any:
    """Search parameters that score the first `width` candidates, found by `options`, to find k."""
    import faiss

    native: Any = faiss
    # half a candidate more, so that rounding down what FAISS multiplies gives `width`
    return native.IndexRefineSearchParameters(k_factor=(width + 0.5) / k, base_index_params=options)


def selecting(mask: Bitmap) -> Any:
    """Search parameters that pass over the rows whose bit is not set."""
    import faiss

    # FAISS's Python layer takes an array and keywords where its stubs name the C++ arguments
    native: Any = faiss
    return native.SearchParameters(
        sel=native.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
    )


def search(
    index: Any, queries: Vectors, k: int, metric: Metric, parameters: Any = None
) -> tuple[Scores, Ids]:
    """Scores (q, k) of queries (float32, contiguous), higher being better, in falling order, and
    rows (q, k); -inf and -1, behind the others, where there are fewer."""
    import faiss

    n = len(queries)
    scores, rows = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
    faiss.omp_set_num_threads(NATIVE)  # as `one_thread`
    # what `index.search` ends in; a third of what a short search costs in Python goes before it
    pointer = faiss.swig_ptr
    index.search_c(n, pointer(queries), k, pointer(scores), pointer(rows), parameters)
    if metric == "l2":
        np.subtract(np.float32(0), scores, out=scores)
    if n and k and (rows.item(-1) if n == 1 else rows[:, -1].min()) < 0:
        scores[rows < 0] = -np.inf
    return scores, rows


def array_of(vector: Any, bytes_: int) -> NDArray[np.uint8]:
    """A view of a C++ vector of bytes, alive as long as the index that owns it."""
    import faiss

    if not bytes_:
        return np.empty(0, np.uint8)
    view: NDArray[np.uint8] = faiss.rev_swig_ptr(vector.data(), bytes_)
    return view
