"""Exact search over float16 vectors, in memory or mapped from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivace.errors import BadVectors
from vivace.index import checks, matches, native, products, rowfile
from vivace.index.files import FileEntry
from vivace.index.scoring import Scorer
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
"""Allowed rows up to which, or up to which share, copying them together beats a scan past the rest:
a gathered row costs as much as passing over some two hundred."""
_SPARE = 8
_SCORED_AT_ONCE = 1_024

Scan: TypeAlias = Callable[[Vectors, int], tuple[Scores, Ids]]
"""(queries, k) to scores and rows of the best k; those that tie at the cut are left to chance."""


class FlatIndex:
    """Scores every vector; recall is 1 by construction.

    FAISS keeps the float16 rows and scores each of them alone, so a vector's score does not depend
    on its place or on what is asked with it, and equal collections answer identically however they
    were built.
    """

    family: ClassVar[str] = "flat"
    capabilities: ClassVar[Capabilities] = Capabilities(exact=True, effort=False)

    def __init__(self, ids: Ids, index: Any, codes: NDArray[np.uint8], metric: Metric) -> None:
        self._ids = ids
        self._index = index
        # bytes: mapped float16 rows are unaligned, and numpy would copy them all to gather a few
        self._codes = codes
        self._metric: Metric = metric
        self._first = int(ids[0]) if len(ids) else 0
        self._gapless = len(ids) > 0 and int(ids[-1]) - self._first == len(ids) - 1
        """No id is missing between the first and the last: a row is found by subtracting."""
        self.scorer = Scorer(index, metric)
        """For a family that knows which rows it wants scored."""

    @classmethod
    def estimate_bytes(cls, n: int, dim: int, **params: int) -> Footprint:
        """Float16 rows and int64 ids: every search reads all rows, so all of it is resident."""
        return Footprint(n * (2 * dim + 8), 0)

    @classmethod
    def estimate_seconds(cls, n: int, dim: int, **params: int) -> float:
        """A copy at 0.5 GB/s: what checking, summing and writing the rows leaves."""
        return 2e-9 * cls.estimate_bytes(n, dim).total

    @classmethod
    def candidates(cls, n: int, dim: int) -> list[dict[str, int]]:
        """There is nothing to choose."""
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
        checks.ascending(ids)
        checks.part(vectors, vectors.shape[1])
        index = native.halves(vectors.shape[1], metric)
        for block in rowfile.blocks(vectors):
            index.add_sa_codes(block)
        # FAISS owns the codes; this is a view of them, alive as long as the index
        codes = native.array_of(index.codes, vectors.nbytes).reshape(len(vectors), index.code_size)
        return cls(ids.copy(), index, codes, metric)

    @classmethod
    def open(cls, ids: Ids, path: Path, *, dim: int, metric: Metric = "cosine") -> Self:
        """Map the file that `save` or `rowfile.write` made of the rows under these ids.

        Raises:
            CorruptIndex: missing, cut, or not these rows; flipped bytes are for `files.damaged`.
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
        """All the same."""
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
        """The FAISS index over the rows, for a family that refines from it."""
        return self._index

    def search(
        self, queries: Vectors, k: int, *, effort: int = 0, allow: Bitmap | None = None
    ) -> Matches:
        """The k nearest allowed ids of each query (q, dim) float32; `effort` changes nothing."""
        queries = checks.queries(queries, self._index.d)
        if allow is None:
            if len(queries) >= products.WORTH and 0 < k <= _SCORED_AT_ONCE:
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
        """As `search`."""
        return self.search(queries, k, allow=allow)

    def among(self, queries: Vectors, rows: Ids, k: int) -> Matches:
        """The k nearest of some rows (places in `ids`, distinct), by copying them together."""
        few = self._gathered(rows)

        def scan(queries: Vectors, k: int) -> tuple[Scores, Ids]:
            scores, at = native.search(few, queries, k, self._metric)
            return scores, np.where(at < 0, -1, rows[at])

        return self._best(scan, queries, k, len(rows))

    def similarity(self, query: Vectors, ids: Ids) -> Scores:
        """Scores (len(ids),) of one query (1, dim), as `search` gives; -inf for one not here."""
        query = checks.queries(query, self._index.d)
        if self._gapless and 0 < len(ids) <= _SCORED_AT_ONCE:
            rows = ids - self._first
            order = rows.argsort()
            if rows.item(order.item(0)) >= 0 and rows.item(order.item(-1)) < len(self._ids):
                return self.scorer.aligned(query, rows, order)
        scores = np.full(len(ids), -np.inf, np.float32)
        if not len(self._ids):
            return scores
        rows = self._ids.searchsorted(ids)
        here = np.flatnonzero(self._ids.take(rows, mode="clip") == ids)
        for at in range(0, len(here), _SCORED_AT_ONCE):
            places = here[at : at + _SCORED_AT_ONCE]
            scores[places] = self.scorer.aligned(query, rows[places])
        return scores

    def _many(self, queries: Vectors, k: int) -> Matches:
        """As `_best` of a scan, by products of matrices; what they find is scored as a scan does.

        The products are rounded otherwise. So where a row that was not kept might be as good as the
        k-th, the query is scanned for after all.
        """
        n, dim = self.vectors.shape
        width = min(n, k + _SPARE)
        if not width:
            return matches.none(len(queries), k)
        near = products.nearest(self._index, queries, width)
        found = matches.stacked(
            [
                matches.found(self._ids, *self.scorer.score(query, rows)[::-1], k)
                for query, rows in zip(queries[:, None], near.ids, strict=True)
            ]
        )
        if width < n:
            error = products.rounding(queries, near.longest, dim, self._metric)
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
            return matches.none(len(queries), max(0, k))
        # FAISS breaks ties by chance at the cut: look past it until the last score is worse
        width = min(n, k + spare)
        scores, rows = scan(queries, width)
        found = matches.found(self._ids, rows, scores, k)
        if width == n or (len(queries) == 1 and scores.item(-1) < scores.item(k - 1)):
            return found
        tied = ~(scores[:, -1] < scores[:, k - 1])
        if tied.any():
            again = self._best(scan, queries[tied], k, n, 4 * width)
            found.ids[tied], found.scores[tied] = again.ids, again.scores
        return found


def mask_of(ids: Ids, allow: Bitmap) -> Bitmap:
    """`allow` for each of the ids, which are ascending; ids past its end are not allowed."""
    if not len(ids):
        return np.zeros(0, np.bool_)
    first, last = int(ids[0]), int(ids[-1])
    if last - first == len(ids) - 1 and last < len(allow):
        return allow[first : last + 1]  # nothing is missing between them: no need to look up each
    within = int(np.searchsorted(ids, len(allow)))
    mask = np.zeros(len(ids), np.bool_)
    mask[:within] = allow[ids[:within]]
    return mask
