"""Scores of rows that are known already, to the bit those of a scan."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from vivace.index import native
from vivace.types import Ids, Metric, Scores, Vectors


class Scorer:
    """Scores known rows of a FAISS index in one call; any thread may ask.

    FAISS refines what an index has found. Here that is an index of nothing but zeros in one
    dimension, whose numbers are replaced by the rows to be scored: two thirds of the cost of asking
    for score by score, a quarter of that of copying the rows together.
    """

    def __init__(self, rows: Any, metric: Metric) -> None:
        self._rows = rows
        self._metric = metric
        self._of_thread = threading.local()

    def score(self, query: Vectors, rows: Any) -> tuple[Scores, Ids]:
        """Of one query (1, dim) and distinct rows (m,): both (1, m), by falling score."""
        width = len(rows)
        made = getattr(self._of_thread, "made", None)
        if made is None or made[0] != width:
            made = self._of_thread.made = (width, *_stand_in(self._rows, width))
        made[1][:] = rows
        return native.search(made[2], query, width, self._metric)


def _stand_in(rows: Any, width: int) -> tuple[Ids, Any]:
    """The rows it will find, to be written to, and what refines them."""
    import faiss

    untyped: Any = faiss
    zeros = untyped.IndexFlat(1, rows.metric_type)
    found = untyped.IndexIDMap(zeros)
    zeros.add(np.zeros((width, 1), np.float32))
    found.id_map.resize(width)
    found.d, found.ntotal = rows.d, rows.ntotal
    return untyped.rev_swig_ptr(found.id_map.data(), width), native.refining(found, rows)
