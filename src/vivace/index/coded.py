"""What families share that look through codes of the rows, or a graph over them, and then score
what they found exactly by the rows of a `FlatIndex`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from vivace.errors import CorruptIndex
from vivace.index import checks, files, matches, native
from vivace.index.files import FileEntry
from vivace.index.flat import FlatIndex, mask_of
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

SPARE = 8
"""Rows scored beyond k, so that of those that tie at the cut the lowest ids are found."""
_ASKS = 64
_FEW_BARRED = 0.1
"""Share of rows that are not allowed, up to which some more are asked for and those passed over."""

# microseconds, measured at 384 dimensions on one core; only their ratios decide
_SCAN_ROW, _PASS_ROW = 0.065, 0.0012
_KEEP, _REFINE, _REFINE_GATHERED = 0.13, 0.15, 0.45


class Ask(NamedTuple):
    """How one (k, effort) is searched: worked out once, for that costs as much as searching."""

    effort: int
    width: int
    """Candidates scored exactly."""
    kept: int
    """Of them, those that may be among the k."""
    exact: bool
    """A scan of all rows costs less."""
    native: Any
    """Search parameters of FAISS."""


class CodedIndex(ABC):
    """Finds candidates by codes, scores them by the rows.

    Where that would not be cheaper, the rows are searched exactly: few rows, few allowed ones,
    great effort.
    """

    family: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    def __init__(self, flat: FlatIndex) -> None:
        self._flat = flat
        self._dim = flat.vectors.shape[1]
        self._row_ids = flat.ids
        self._metric: Metric = flat.metric
        self._asks: dict[tuple[int, int], Ask] = {}

    @classmethod
    @abstractmethod
    def estimate_bytes(cls, n: int, dim: int, **params: int) -> Footprint: ...

    @classmethod
    @abstractmethod
    def estimate_seconds(cls, n: int, dim: int, **params: int) -> float: ...

    @classmethod
    @abstractmethod
    def candidates(cls, n: int, dim: int) -> list[dict[str, int]]: ...

    @classmethod
    @abstractmethod
    def build(cls, flat: FlatIndex, **params: int) -> Self:
        """Over the rows of `flat`, in memory."""

    @classmethod
    @abstractmethod
    def open(cls, flat: FlatIndex, path: Path) -> Self:
        """What `save` wrote, over the same rows.

        Raises:
            CorruptIndex: missing, cut, or not codes of these rows.
        """

    @abstractmethod
    def save(self, path: Path) -> FileEntry:
        """Write what was built, durable once the folder is.

        Raises:
            OSError: it cannot be written.
        """

    @property
    @abstractmethod
    def footprint(self) -> Footprint: ...

    @abstractmethod
    def efforts(self, k: int) -> tuple[int, int]: ...

    @abstractmethod
    def _usual(self, k: int) -> int:
        """The effort that 0 stands for."""

    @abstractmethod
    def _width(self, k: int, effort: int) -> int:
        """How many candidates are scored; never falls as effort rises."""

    @abstractmethod
    def _micros(self, effort: int) -> float:
        """What finding candidates costs, in microseconds on the machine of the other costs."""

    @abstractmethod
    def _native(self, effort: int, width: int, kept: int) -> Any:
        """What `_refined` passes on to search so."""

    @abstractmethod
    def _refined(self, queries: Vectors, k: int, ask: Ask) -> Matches:
        """The k best of each query; a query for which there were fewer is padded."""

    @abstractmethod
    def _near(self, queries: Vectors, wide: int, effort: int) -> Ids:
        """Rows (q, wide) by falling score of their codes, -1 where there are fewer."""

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
        """As `FlatIndex.similarity`: exact."""
        return self._flat.similarity(query, ids)

    def search(
        self, queries: Vectors, k: int, *, effort: int = 0, allow: Bitmap | None = None
    ) -> Matches:
        """The k nearest allowed ids of each query (q, dim) float32 as far as the codes tell."""
        queries = checks.queries(queries, self._dim)
        ask = self._asks.get((k, effort)) or self._asked(k, effort)
        if ask.exact or not len(queries):
            return self._flat.search(queries, k, allow=allow)
        if allow is None:
            return self._whole(queries, k, ask)
        mask = mask_of(self._row_ids, allow)
        allowed = int(np.count_nonzero(mask))
        if allowed == len(mask):
            return self._whole(queries, k, ask)
        if len(mask) - allowed <= _FEW_BARRED * len(mask):
            found = self._passing(queries, k, effort, allow)
            if found is not None:
                return found
        if not allowed or not self._codes_pay(k, ask, allowed):
            return self._flat.search(queries, k, allow=allow)
        return self._masked(queries, k, ask, allow, mask)

    def _asked(self, k: int, effort: int) -> Ask:
        n, spent = len(self._row_ids), max(0, effort) or self._usual(max(1, k))
        width = min(n, max(k, self._width(k, spent)))
        kept = min(k + SPARE, width)
        exact = k < 1 or n * _SCAN_ROW <= self._micros(spent) + width * _REFINE
        ask = Ask(spent, width, kept, exact, None if exact else self._native(spent, width, kept))
        if len(self._asks) >= _ASKS:
            self._asks.clear()
        self._asks[k, effort] = ask
        return ask

    def _codes_pay(self, k: int, ask: Ask, allowed: int) -> bool:
        """Whether looking through the codes costs less than scanning the allowed rows."""
        n = len(self._row_ids)
        by_codes = self._micros(ask.effort * n // allowed)
        by_codes += _masked_width(k, ask) * (n / allowed * _KEEP + _REFINE_GATHERED)
        return by_codes < n * _PASS_ROW + allowed * _SCAN_ROW

    def _whole(self, queries: Vectors, k: int, ask: Ask) -> Matches:
        found = self._refined(queries, k, ask)
        # codes that tell nothing apart and graphs that fall apart find fewer than there are
        if len(queries) == 1:
            return found if found.ids.item(-1) >= 0 else self._flat.search(queries, k)
        if (short := found.ids[:, -1] < 0).any():
            exact = self._flat.search(queries[short], k)
            found.ids[short], found.scores[short] = exact.ids, exact.scores
        return found

    def _passing(self, queries: Vectors, k: int, effort: int, allow: Bitmap) -> Matches | None:
        """The k best allowed by asking for some more than k, None where those were too few.

        Several times cheaper than by the codes alone, and what a segment with removed rows is asked
        by: few of the nearest are barred.
        """
        wide = k + SPARE + int(2 * _FEW_BARRED * k)
        ask = self._asks.get((wide, effort)) or self._asked(wide, effort)
        if ask.exact or ask.width < wide:
            return None
        found = self._whole(queries, wide, ask)
        ids = found.ids
        passes = (ids < len(allow)) & (ids >= 0)
        passes[passes] = allow[ids[passes]]
        if passes.sum(axis=1).min() < k:
            return None
        # stable: those that pass stay in their order
        order = np.argsort(~passes, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(found.scores, order, axis=1)
        return Matches(np.take_along_axis(ids, order, axis=1), scores)

    def _masked(self, queries: Vectors, k: int, ask: Ask, allow: Bitmap, mask: Bitmap) -> Matches:
        """The codes know no filters: take so many that about `width` of them are allowed."""
        n, allowed = len(mask), int(np.count_nonzero(mask))
        width = min(n, _masked_width(k, ask))
        near = self._near(queries, min(n, width * n // allowed), ask.effort * n // allowed)
        found = []
        for query, rows in zip(queries[:, None], near, strict=True):
            few = rows[rows >= 0]
            few = few[mask[few]][:width]
            # far fewer than expected: what is allowed lies elsewhere than what is near
            if 2 * len(few) < width:
                found.append(self._flat.search(query, k, allow=allow))
            else:
                found.append(self._flat.among(query, few, k))
        return matches.stacked(found)


def _masked_width(k: int, ask: Ask) -> int:
    """Candidates wanted of which a filter takes some: when half of them come, they are enough."""
    return max(ask.width, 2 * k + SPARE)


class FaissCodes(CodedIndex):
    """Candidates come from an index of FAISS that numbers the rows as the `FlatIndex` does."""

    _kind: ClassVar[str]
    """FAISS's class."""

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
        """Search parameters of the codes alone; None is the codes' own way."""
        return None

    def _native(self, effort: int, width: int, kept: int) -> Any:
        return native.refining_width(width, kept, self._options(effort, width))

    def _refined(self, queries: Vectors, k: int, ask: Ask) -> Matches:
        scores, rows = native.search(self._refining, queries, ask.kept, self._metric, ask.native)
        return matches.found(self._row_ids, rows, scores, k)

    def _near(self, queries: Vectors, wide: int, effort: int) -> Ids:
        options = self._options(effort, wide)
        return native.search(self._codes, queries, wide, self._metric, options)[1]
