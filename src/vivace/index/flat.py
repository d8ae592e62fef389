"""Exact search over float16 vectors."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from vivace.errors import BadVectors
from vivace.index import matches
from vivace.run.threads import NATIVE
from vivace.types import Bitmap, Halves, Ids, Matches, Scores, Vectors

_SCAN_ALLOWED = 0.05
"""Below this share of allowed rows, gathering them is cheaper than scanning past the others."""
_SPARE = 8


class FlatIndex:
    """Scores every vector by inner product; recall is 1 by construction.

    FAISS keeps the float16 rows and scores each of them alone, so a vector's score does not depend
    on its place, and equal collections answer identically however they were built.
    """

    family: ClassVar[str] = "flat"

    def __init__(self, ids: Ids, index: Any, vectors: Halves) -> None:
        self._ids = ids
        self._index = index
        self._vectors = vectors

    @classmethod
    def estimate_bytes(cls, n: int, dim: int) -> int:
        """Resident bytes: float16 rows and int64 ids."""
        return n * (2 * dim + 8)

    @classmethod
    def build(cls, ids: Ids, vectors: Halves) -> FlatIndex:
        """Index vectors (n, dim) float16 under ids (n,), strictly ascending. O(n).

        Raises:
            BadVectors: NaN or infinity, or shapes that do not fit.
        """
        import faiss

        if vectors.ndim != 2 or ids.shape != (len(vectors),) or np.any(np.diff(ids) <= 0):
            raise BadVectors(
                f"{ids.shape} ids do not fit vectors of shape {vectors.shape}",
                fix="Give one vector an id, ids strictly ascending",
            )
        if not np.isfinite(vectors).all():
            raise BadVectors("vectors hold NaN or infinity", fix="Remove or repair those rows")
        index = faiss.IndexScalarQuantizer(
            vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        for at in range(0, len(vectors), 65_536):  # the float32 copy stays small
            index.add(vectors[at : at + 65_536].astype(np.float32))
        # FAISS owns the codes; this is a view of them, alive as long as the index
        codes = faiss.rev_swig_ptr(index.codes.data(), vectors.nbytes) if len(vectors) else b""
        view = np.frombuffer(codes, np.float16).reshape(vectors.shape)
        return cls(ids.copy(), index, view)

    @property
    def ids(self) -> Ids:
        return self._ids

    @property
    def vectors(self) -> Halves:
        """(n, dim) float16 in the order of `ids`; a view, not a copy."""
        return self._vectors

    def search(
        self, queries: Vectors, k: int, *, effort: int = 0, allow: Bitmap | None = None
    ) -> Matches:
        """The k nearest allowed ids of each query (q, dim) float32; `effort` changes nothing."""
        if allow is None:
            return self._scan(queries, k, len(self._ids), None)
        mask = _mask(self._ids, allow)
        allowed = int(np.count_nonzero(mask))
        if allowed == len(self._ids):
            return self._scan(queries, k, allowed, None)
        if allowed <= _SCAN_ALLOWED * len(self._ids):
            rows = np.flatnonzero(mask)
            scores = queries @ self._vectors[rows].astype(np.float32).T
            return matches.best(np.tile(self._ids[rows], (len(queries), 1)), scores, k)
        return self._scan(queries, k, allowed, mask)

    def similarity(self, query: Vectors, ids: Ids) -> Scores:
        """Inner products (len(ids),) of one query (1, dim); -inf where the id is not here."""
        at = self._ids.searchsorted(ids)
        np.minimum(at, len(self._ids) - 1, out=at)
        here = self._ids[at] == ids if len(self._ids) else np.zeros(len(ids), np.bool_)
        if here.all():
            found: Scores = self._vectors[at].astype(np.float32) @ query[0]
            return found
        scores = np.full(len(ids), -np.inf, np.float32)
        scores[here] = self._vectors[at[here]].astype(np.float32) @ query[0]
        return scores

    def _scan(self, queries: Vectors, k: int, n: int, mask: Bitmap | None) -> Matches:
        if n == 0 or len(queries) == 0:
            return matches.none(len(queries), k)
        # FAISS breaks ties by chance at the cut: look past it until the last score is worse
        width = min(n, k + _SPARE)
        while True:
            scores, rows = self._faiss(queries, width, mask)
            if width == n or bool(np.all(scores[:, -1] < scores[:, k - 1])):
                break
            width = min(n, 4 * width)
        return matches.best(np.where(rows < 0, -1, self._ids[rows]), scores, k)

    def _faiss(self, queries: Vectors, k: int, mask: Bitmap | None) -> tuple[Scores, Ids]:
        import faiss

        # OpenMP keeps this a thread; a second one costs a short scan more than it gains,
        # and the search pool has a thread a core already
        faiss.omp_set_num_threads(NATIVE)
        if mask is None:
            return self._index.search(queries, k)  # type: ignore[no-any-return]
        # FAISS's Python layer takes an array and keywords where its stubs name the C++ arguments
        native: Any = faiss
        selector = native.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        parameters = native.SearchParameters(sel=selector)
        scores, rows = self._index.search(queries, k, params=parameters)
        return np.where(rows < 0, np.float32(-np.inf), scores), rows


def _mask(ids: Ids, allow: Bitmap) -> Bitmap:
    """`allow` for each of the ids, which are ascending; ids past its end are not allowed."""
    within = int(np.searchsorted(ids, len(allow)))
    mask = np.zeros(len(ids), np.bool_)
    mask[:within] = allow[ids[:within]]
    return mask
