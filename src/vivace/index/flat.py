"""Exact search over float16 vectors, in memory or mapped from a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivace.errors import BadVectors
from vivace.index import matches, native, rowfile
from vivace.index.files import FileEntry
from vivace.types import (
    Bitmap,
    Capabilities,
    Float16Vectors,
    Footprint,
    Ids,
    Matches,
    Metric,
    Scores,
    Vectors,
)

_GATHER = 64
_GATHER_SHARE = 0.005
"""Number, or share, of allowed rows up to which copying them together beats a scan that skips the
rest: gathering a row costs as much as skipping some two hundred."""
_SPARE = 8
_SCORED_AT_ONCE = 1_024
_MANY = 24
"""Queries from which on converting float16 rows to float32 costs less than it saves."""
_PRODUCT_BLOCK = 1_024
"""Rows multiplied at a time: they stay in the cache, and BLAS stays on this thread."""
_BLOCKS_MERGED = 16
"""Blocks whose candidates are merged together."""

Scan: TypeAlias = Callable[[Vectors, int], tuple[Scores, Ids]]
"""(queries, k) to scores and rows of the best k; ties at the cut are broken arbitrarily."""


class FlatIndex:
    """Scores every vector; recall is 1 by construction.

    FAISS keeps the float16 rows and scores each alone: a vector's score depends neither on its
    place nor on the other queries of a call, and collections with equal rows answer identically
    however they were built.
    """

    family: ClassVar[str] = "flat"
    capabilities: ClassVar[Capabilities] = Capabilities(exact=True, effort=False)

    def __init__(self, ids: Ids, index: Any, codes: NDArray[np.uint8], metric: Metric) -> None:
        self._ids = ids
        self._index = index
        # as bytes: numpy would copy all rows to gather a few of unaligned, mapped ones
        self._codes = codes
        self._metric: Metric = metric
        self._first = int(ids[0]) if len(ids) else 0
        self._gapless = len(ids) > 0 and int(ids[-1]) - self._first == len(ids) - 1
        """Whether no id is missing between the first and the last: a row is a difference then."""
        self._scorer = native.Scorer(index, metric)

    @classmethod
    def estimate_bytes(cls, n: int, dim: int, **params: int) -> Footprint:
        """Float16 rows and int64 ids, all resident: every search reads all rows."""
        return Footprint(n * (2 * dim + 8), 0)

    @classmethod
    def estimate_seconds(cls, n: int, dim: int, **params: int) -> float:
        """Copies at 0.5 GB/s, the speed of checking, summing and writing rows."""
        return 2e-9 * cls.estimate_bytes(n, dim).total

    @classmethod
    def candidates(cls, n: int, dim: int) -> list[dict[str, int]]:
        """There are no parameters."""
        return [{}]

    @classmethod
    def build(
        cls, ids: Ids, vectors: Float16Vectors, *, metric: Metric = "cosine", **params: int
    ) -> Self:
        """Index vectors (n, dim) float16 in memory under ids (n,), strictly ascending. O(n).

        Raises:
            BadVectors: NaN or infinity, or shapes that do not fit.
        """
        if vectors.ndim != 2 or ids.shape != (len(vectors),):
            raise BadVectors(
                f"{ids.shape} ids do not fit vectors of shape {vectors.shape}",
                fix="Give one vector an id",
            )
        native.check_ids(ids)
        native.check_rows(vectors, vectors.shape[1])
        index = native.halves(vectors.shape[1], metric)
        for block in rowfile.blocks(vectors):
            index.add_sa_codes(block)
        # FAISS owns the codes; this is a view of them, alive as long as the index
        codes = native.array_of(index.codes, vectors.nbytes).reshape(len(vectors), index.code_size)
        return cls(ids.copy(), index, codes, metric)

    @classmethod
    def open(cls, ids: Ids, path: Path, *, dim: int, metric: Metric = "cosine") -> Self:
        """Map the file of these ids' rows that `save` or `rowfile.write` wrote.

        Raises:
            CorruptIndex: missing, cut, or not these rows. `files.damaged` finds flipped bytes.
        """
        index, codes = rowfile.read(path, n=len(ids), dim=dim, metric=metric)
        return cls(ids, index, codes, metric)

    def save(self, path: Path) -> FileEntry:
        """Write the rows, durable once the folder is.

        Raises:
            OSError: it cannot be written.
        """
        n, dim = self.vectors.shape
        return rowfile.write(path, [self.vectors], n=n, dim=dim, metric=self._metric)

    @property
    def footprint(self) -> Footprint:
        return self.estimate_bytes(*self.vectors.shape)

    def efforts(self, k: int) -> tuple[int, int]:
        """There is one way to search."""
        return 0, 0

    @property
    def metric(self) -> Metric:
        return self._metric

    @property
    def ids(self) -> Ids:
        return self._ids

    @property
    def vectors(self) -> Float16Vectors:
        """(n, dim) float16 in the order of `ids`; a view, not a copy, unaligned where mapped."""
        return self._codes.view(np.float16)

    @property
    def native(self) -> Any:
        """The FAISS index of the rows, for families that refine candidates by it."""
        return self._index

    def search(
        self, queries: Vectors, k: int, *, effort: int = 0, allow: Bitmap | None = None
    ) -> Matches:
        """The k nearest allowed ids of each query (q, dim) float32; `effort` has no effect."""
        queries = native.checked_queries(queries, self._index.d)
        if allow is None:
            if len(queries) >= _MANY and 0 < k <= _SCORED_AT_ONCE:
                return self._many(queries, k)
            return self._best(self._scan(), queries, k, len(self._ids))
        mask = mask_of(self._ids, allow)
        allowed = int(np.count_nonzero(mask))
        if allowed == len(self._ids):
            return self._best(self._scan(), queries, k, allowed)
        if allowed <= max(_GATHER, _GATHER_SHARE * len(self._ids)):
            return self.among(queries, np.flatnonzero(mask), k)
        return self._best(self._scan(native.selecting(mask)), queries, k, allowed)

    def exact(self, queries: Vectors, k: int, *, allow: Bitmap | None = None) -> Matches:
        """See `search`."""
        return self.search(queries, k, allow=allow)

    def among(self, queries: Vectors, rows: Ids, k: int) -> Matches:
        """The k nearest of some rows (distinct places in `ids`), by copying them together."""
        few = self._gathered(rows)

        def scan(queries: Vectors, k: int) -> tuple[Scores, Ids]:
            scores, at = native.search(few, queries, k, self._metric)
            return scores, np.where(at < 0, -1, rows[at])

        return self._best(scan, queries, k, len(rows))

    def similarity(self, query: Vectors, ids: Ids) -> Scores:
        """Scores (len(ids),) of one query (1, dim), equal to those of `search`; -inf if absent."""
        query = native.checked_queries(query, self._index.d)
        if self._gapless and 0 < len(ids) <= _SCORED_AT_ONCE:
            rows = ids - self._first
            order = rows.argsort()
            if rows.item(order.item(0)) >= 0 and rows.item(order.item(-1)) < len(self._ids):
                return self._scorer.aligned(query, rows, order)
        scores = np.full(len(ids), -np.inf, np.float32)
        if not len(self._ids):
            return scores
        rows = self._ids.searchsorted(ids)
        here = np.flatnonzero(self._ids.take(rows, mode="clip") == ids)
        for at in range(0, len(here), _SCORED_AT_ONCE):
            places = here[at : at + _SCORED_AT_ONCE]
            scores[places] = self._scorer.aligned(query, rows[places])
        return scores

    def _many(self, queries: Vectors, k: int) -> Matches:
        """As `_best` of a scan, but with candidates from products of matrices.

        The candidates are scored as a scan does. The products are rounded differently: if a row
        that was not kept might be as good as the k-th, the query is scanned after all.
        """
        n, dim = self.vectors.shape
        width = min(n, k + _SPARE)
        if not width:
            return matches.empty(len(queries), k)
        near = _nearest(self._index, queries, width)
        found = matches.stacked(
            [
                matches.of_rows(self._ids, *self._scorer.score(query, rows)[::-1], k)
                for query, rows in zip(queries[:, None], near.rows, strict=True)
            ]
        )
        if width < n:
            error = _rounding(queries, near.longest, dim, self._metric)
            unsure = ~(near.scores[:, -1] + error < found.scores[:, k - 1])
            if unsure.any():
                again = self._best(self._scan(), queries[unsure], k, n)
                found.ids[unsure], found.scores[unsure] = again.ids, again.scores
        return found

    def _gathered(self, rows: Ids) -> Any:
        few = native.halves(self._index.d, self._metric)
        few.add_sa_codes(self._codes[rows])
        return few

    def _scan(self, parameters: Any = None) -> Scan:
        return lambda queries, k: native.search(self._index, queries, k, self._metric, parameters)

    def _best(self, scan: Scan, queries: Vectors, k: int, n: int, spare: int = _SPARE) -> Matches:
        """The k best of n rows, ties to the lower id."""
        if not n or not len(queries) or k < 1:
            return matches.empty(len(queries), max(0, k))
        # FAISS breaks ties at the cut arbitrarily: look beyond it until the last score is worse
        width = min(n, k + spare)
        scores, rows = scan(queries, width)
        found = matches.of_rows(self._ids, rows, scores, k)
        if width == n or (len(queries) == 1 and scores.item(-1) < scores.item(k - 1)):
            return found
        tied = ~(scores[:, -1] < scores[:, k - 1])
        if tied.any():
            again = self._best(scan, queries[tied], k, n, 4 * width)
            found.ids[tied], found.scores[tied] = again.ids, again.scores
        return found


def mask_of(ids: Ids, allow: Bitmap) -> Bitmap:
    """`allow` for each of the ascending ids; ids beyond its end are not allowed."""
    if not len(ids):
        return np.zeros(0, np.bool_)
    first, last = int(ids[0]), int(ids[-1])
    if last - first == len(ids) - 1 and last < len(allow):
        return allow[first : last + 1]  # no id is missing between them
    within = int(np.searchsorted(ids, len(allow)))
    mask = np.zeros(len(ids), np.bool_)
    mask[:within] = allow[ids[:within]]
    return mask


@dataclass(frozen=True, slots=True)
class _Near:
    """Rows (q, width) with their scores (q, width) up to `_rounding`, best first."""

    rows: Ids
    scores: Scores
    longest: float
    """Length of the longest row of the index."""


def _nearest(index: Any, queries: Vectors, width: int) -> _Near:
    """The best `width` rows of a FAISS index of float16 rows, up to rounding; at most all rows.

    Memory: one block of rows as float32, and `width` candidates per query for each of some blocks.
    """
    import faiss

    untyped: Any = faiss
    # FAISS uses BLAS from this many queries on; its default is 128,000. The setting holds for the
    # whole process, and cells of `ivf` gain by it, too
    untyped.cvar.distance_compute_blas_threshold = _MANY
    l2 = index.metric_type == untyped.METRIC_L2
    block = np.empty((_PRODUCT_BLOCK, index.d), np.float32)
    scores = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    best: list[tuple[Scores, Ids]] = [(scores, rows)]
    longest = 0.0
    for at in range(0, index.ntotal, _PRODUCT_BLOCK):
        count = min(_PRODUCT_BLOCK, index.ntotal - at)
        part = block[:count]
        native.one_thread()
        index.reconstruct_n(at, count, part)
        longest = max(longest, float(np.einsum("ij,ij->i", part, part).max()))
        found, here = untyped.knn(queries, part, min(width, count), index.metric_type)
        best.append((-found if l2 else found, here + at))
        if len(best) > _BLOCKS_MERGED:
            best = [_best_of(best, width)]
    scores, rows = _best_of(best, width)
    return _Near(rows, scores, longest**0.5)


def _best_of(parts: list[tuple[Scores, Ids]], width: int) -> tuple[Scores, Ids]:
    scores, rows = np.hstack([p[0] for p in parts]), np.hstack([p[1] for p in parts])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _rounding(queries: Vectors, longest: float, dim: int, metric: Metric) -> NDArray[np.float64]:
    """How far two float32 sums (q,) over `dim` products can differ (Higham, "Accuracy and
    Stability of Numerical Algorithms", 2002, section 3.1)."""
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    size = (lengths + longest) ** 2 if metric == "l2" else lengths * longest
    bound: NDArray[np.float64] = 2 * (dim + 4) * 2.0**-24 * size
    return bound
