"""The base of families that find candidates by codes of the rows, or by a graph over them, and
score the candidates exactly by the rows of a `FlatIndex`."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from vivace.errors import CorruptIndex
from vivace.index import files, matches, native
from vivace.index.files import FileEntry
from vivace.index.flat import FlatIndex, mask_of
from vivace.protocols import VectorIndex
from vivace.types import Bitmap, Float16Vectors, Ids, Matches, Metric, Scores, Vectors

SPARE = 8
"""Rows scored beyond k, so that the lowest ids are found among those that tie at the cut."""
_CACHED = 64
_FEW_BARRED = 0.1
"""Share of rows not allowed up to which a search finds some more than k and drops those."""

# microseconds at 384 dimensions on one core; only their ratios matter
_SCAN_ROW, _PASS_ROW = 0.065, 0.0012
_KEEP, _REFINE, _REFINE_GATHERED = 0.13, 0.15, 0.45


class SearchParameters(NamedTuple):
    """How to search for one (k, effort). Cached: computing them costs as much as a search."""

    effort: int
    width: int
    """Candidates scored exactly."""
    kept: int
    """Candidates that may be among the k."""
    exact: bool
    """Whether a scan of all rows costs less."""
    native: Any
    """The library's own search parameters."""


class CodedIndex(VectorIndex):
    """Finds candidates by codes and scores them by the rows.

    Where that would not be cheaper it searches the rows exactly: with few rows, few allowed rows,
    or a high effort.
    """

    def __init__(self, flat: FlatIndex) -> None:
        self._flat = flat
        self._dim = flat.vectors.shape[1]
        self._row_ids = flat.ids
        self._metric: Metric = flat.metric
        self._parameters: dict[tuple[int, int], SearchParameters] = {}

    @classmethod
    @abstractmethod
    def build(cls, flat: FlatIndex, **params: int) -> Self:
        """Build an index over the rows of `flat`, in memory."""

    @classmethod
    @abstractmethod
    def open(cls, flat: FlatIndex, path: Path) -> Self:
        """Read what `save` wrote, over the same rows.

        Raises:
            CorruptIndex: missing, cut, or not codes of these rows.
        """

    @abstractmethod
    def save(self, path: Path) -> FileEntry:
        """Write the codes; durable once the folder is.

        Raises:
            OSError: it cannot be written.
        """

    @abstractmethod
    def _usual(self, k: int) -> int:
        """The effort that 0 stands for."""

    @abstractmethod
    def _width(self, k: int, effort: int) -> int:
        """How many candidates to score; never falls as effort rises."""

    @abstractmethod
    def _micros(self, effort: int) -> float:
        """The cost of finding candidates, in microseconds on the machine of the other costs."""

    @abstractmethod
    def _native(self, effort: int, width: int, kept: int) -> Any:
        """`SearchParameters.native`."""

    @abstractmethod
    def _refined(self, queries: Vectors, k: int, how: SearchParameters) -> Matches:
        """The k best of each query, padded if there are fewer."""

    @abstractmethod
    def _near(self, queries: Vectors, wide: int, effort: int) -> Ids:
        """Rows (q, wide) by descending score of their codes, -1 if there are fewer."""

    @property
    def metric(self) -> Metric:
        return self._metric

    @property
    def ids(self) -> Ids:
        return self._row_ids

    @property
    def vectors(self) -> Float16Vectors:
        return self._flat.vectors

    def exact(self, queries: Vectors, k: int, *, allow: Bitmap | None = None) -> Matches:
        """The k nearest by brute force over the rows."""
        return self._flat.search(queries, k, allow=allow)

    def similarity(self, query: Vectors, ids: Ids) -> Scores:
        """Exact: see `FlatIndex.similarity`."""
        return self._flat.similarity(query, ids)

    def search(
        self, queries: Vectors, k: int, *, effort: int = 0, allow: Bitmap | None = None
    ) -> Matches:
        """The k nearest allowed ids of each query (q, dim) float32, up to the codes' recall."""
        queries = native.checked_queries(queries, self._dim)
        how = self._parameters.get((k, effort)) or self._parameters_for(k, effort)
        if how.exact or not len(queries):
            return self._flat.search(queries, k, allow=allow)
        if allow is None:
            return self._whole(queries, k, how)
        mask = mask_of(self._row_ids, allow)
        allowed = int(np.count_nonzero(mask))
        if allowed == len(mask):
            return self._whole(queries, k, how)
        if len(mask) - allowed <= _FEW_BARRED * len(mask):
            found = self._passing(queries, k, effort, allow)
            if found is not None:
                return found
        if not allowed or not self._codes_pay(k, how, allowed):
            return self._flat.search(queries, k, allow=allow)
        return self._masked(queries, k, how, allow, mask)

    def _parameters_for(self, k: int, effort: int) -> SearchParameters:
        n, spent = len(self._row_ids), max(0, effort) or self._usual(max(1, k))
        width = min(n, max(k, self._width(k, spent)))
        kept = min(k + SPARE, width)
        exact = k < 1 or n * _SCAN_ROW <= self._micros(spent) + width * _REFINE
        options = None if exact else self._native(spent, width, kept)
        how = SearchParameters(spent, width, kept, exact, options)
        if len(self._parameters) >= _CACHED:
            self._parameters.clear()
        self._parameters[k, effort] = how
        return how

    def _codes_pay(self, k: int, how: SearchParameters, allowed: int) -> bool:
        """Whether searching the codes costs less than scanning the allowed rows."""
        n = len(self._row_ids)
        by_codes = self._micros(how.effort * n // allowed)
        by_codes += _masked_width(k, how) * (n / allowed * _KEEP + _REFINE_GATHERED)
        return by_codes < n * _PASS_ROW + allowed * _SCAN_ROW

    def _whole(self, queries: Vectors, k: int, how: SearchParameters) -> Matches:
        found = self._refined(queries, k, how)
        # equal codes and disconnected graphs find fewer rows than there are
        if len(queries) == 1:
            return found if found.ids.item(-1) >= 0 else self._flat.search(queries, k)
        if (short := found.ids[:, -1] < 0).any():
            exact = self._flat.search(queries[short], k)
            found.ids[short], found.scores[short] = exact.ids, exact.scores
        return found

    def _passing(self, queries: Vectors, k: int, effort: int, allow: Bitmap) -> Matches | None:
        """The k best allowed ids among somewhat more than k; None if those were too few.

        Several times cheaper than `_masked`, and the usual way for a segment with removed rows: few
        of the nearest are barred.
        """
        wide = k + SPARE + int(2 * _FEW_BARRED * k)
        how = self._parameters.get((wide, effort)) or self._parameters_for(wide, effort)
        if how.exact or how.width < wide:
            return None
        found = self._whole(queries, wide, how)
        ids = found.ids
        passes = (ids < len(allow)) & (ids >= 0)
        passes[passes] = allow[ids[passes]]
        if passes.sum(axis=1).min() < k:
            return None
        # stable: the allowed ones stay in their order
        order = np.argsort(~passes, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(found.scores, order, axis=1)
        return Matches(np.take_along_axis(ids, order, axis=1), scores)

    def _masked(
        self, queries: Vectors, k: int, how: SearchParameters, allow: Bitmap, mask: Bitmap
    ) -> Matches:
        """Codes know no filters: take so many candidates that about `width` are allowed."""
        n, allowed = len(mask), int(np.count_nonzero(mask))
        width = min(n, _masked_width(k, how))
        near = self._near(queries, min(n, width * n // allowed), how.effort * n // allowed)
        found = []
        for query, rows in zip(queries[:, None], near, strict=True):
            few = rows[rows >= 0]
            few = few[mask[few]][:width]
            # far fewer than expected: the allowed rows are not near the query
            if 2 * len(few) < width:
                found.append(self._flat.search(query, k, allow=allow))
            else:
                found.append(self._flat.among(query, few, k))
        return matches.stacked(found)


def _masked_width(k: int, how: SearchParameters) -> int:
    """How many allowed candidates to look for; half as many are enough."""
    return max(how.width, 2 * k + SPARE)


class FaissCodes(CodedIndex):
    """Takes candidates from a FAISS index that numbers the rows as the `FlatIndex` does."""

    _kind: ClassVar[str]
    """The name of FAISS's class."""

    def __init__(self, flat: FlatIndex, codes: Any) -> None:
        super().__init__(flat)
        self._codes = codes
        self._refining = native.refining(codes, flat.native)

    @classmethod
    def open(cls, flat: FlatIndex, path: Path) -> Self:
        import faiss

        try:
            codes = faiss.read_index(str(path))
        except RuntimeError as error:
            raise CorruptIndex(f"{path}: {error}", fix="It is rebuilt") from error
        if type(codes).__name__ != cls._kind or (
            codes.ntotal,
            codes.d,
            codes.metric_type,
        ) != (*flat.vectors.shape, native.measure(flat.metric)):
            raise CorruptIndex(f"{path} holds no codes of these rows", fix="It is rebuilt")
        return cls(flat, codes)

    def save(self, path: Path) -> FileEntry:
        import faiss

        return files.write(path, [faiss.serialize_index(self._codes).data])

    def _options(self, effort: int, width: int) -> Any:
        """Search parameters of the codes alone; None for their default."""
        return None

    def _native(self, effort: int, width: int, kept: int) -> Any:
        return native.refining_width(width, kept, self._options(effort, width))

    def _refined(self, queries: Vectors, k: int, how: SearchParameters) -> Matches:
        scores, rows = native.search(self._refining, queries, how.kept, self._metric, how.native)
        return matches.of_rows(self._row_ids, rows, scores, k)

    def _near(self, queries: Vectors, wide: int, effort: int) -> Ids:
        options = self._options(effort, wide)
        return native.search(self._codes, queries, wide, self._metric, options)[1]
