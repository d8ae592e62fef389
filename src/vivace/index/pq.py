"""Product quantisation: 4-bit codes scanned in registers, refined from the exact rows.

Codes: Andre, Kermarrec, Le Scouarnec, "Quicker ADC", 2019, as FAISS's `IndexPQFastScan`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from vivace.errors import CorruptIndex
from vivace.index import checks, files, matches, native, rowfile
from vivace.index.files import FileEntry
from vivace.index.flat import FlatIndex, mask_of
from vivace.types import (
    Bitmap,
    Capabilities,
    Footprint,
    Halves,
    Ids,
    Matches,
    Metric,
    Scores,
    Vectors,
)

_WIDTH, _WIDTH_EACH = 80, 12
"""Candidates refined at effort 0: some, and some for each one asked for."""
_SPARE = 8
_SAMPLE = 20_000
"""Rows the centroids are trained on, evenly spaced, so that a build is repeatable."""
_CENTROIDS = 16

# microseconds, measured at 384 dimensions on one core; only their ratios decide
_SCAN_CODE, _SCAN_ROW, _PASS_ROW = 0.003, 0.065, 0.0012
_KEEP, _REFINE, _REFINE_GATHERED, _CALL = 0.13, 0.15, 0.45, 50.0


class PqIndex:
    """Codes over the rows of a `FlatIndex`: a quarter of a byte a dimension, scanned 16 times
    faster than the rows; the nearest `width` by code are scored exactly.

    Where that would not be cheaper, the rows are searched exactly: few rows, few allowed ones.
    """

    family: ClassVar[str] = "pq"
    capabilities: ClassVar[Capabilities] = Capabilities(exact=False, effort=True)

    def __init__(self, flat: FlatIndex, codes: Any) -> None:
        self._flat = flat
        self._codes = codes
        self._refining = native.refining(codes, flat.native)

    @classmethod
    def estimate_bytes(cls, n: int, dim: int, **params: int) -> Footprint:
        """The codes and ids, held in memory, over the mapped rows of `flat`."""
        return Footprint(n * _sub_vectors(dim, **params) // 2 + 8 * n, 2 * n * dim)

    @classmethod
    def estimate_seconds(cls, n: int, dim: int, **params: int) -> float:
        """Training on a sample, then encoding every row."""
        return dim * (1.5e-7 * min(n, _SAMPLE) + 1.6e-8 * n)

    @classmethod
    def candidates(cls, n: int, dim: int) -> list[dict[str, int]]:
        """Codes of 4 and of 2 dimensions each."""
        return [{}, {"width": 2}]

    @classmethod
    def build(cls, flat: FlatIndex, **params: int) -> Self:
        """Codes of the rows of `flat`, in memory; the same rows make the same codes.

        `params`: `width`, the dimensions a 4-bit code stands for (default 4, or the largest
        divisor of the dimension below).
        """
        import faiss

        native.one_thread()
        dim = flat.vectors.shape[1]
        codes = faiss.IndexPQFastScan(
            dim, _sub_vectors(dim, **params), 4, native.measure(flat.metric)
        )
        codes.pq.cp.min_points_per_centroid = 1
        codes.train(_sample(flat.vectors))
        for block in rowfile.blocks(flat.vectors):
            codes.add(block.view(np.float16).astype(np.float32))
        return cls(flat, codes)

    @classmethod
    def open(cls, flat: FlatIndex, path: Path) -> Self:
        """Read the codes that `save` wrote, over the same rows.

        Raises:
            CorruptIndex: missing, cut, or not codes of these rows.
        """
        import faiss

        try:
            codes = faiss.read_index(str(path))
        except RuntimeError as error:
            raise CorruptIndex(f"{path}: {error}", fix="It is rebuilt") from error
        if not isinstance(codes, faiss.IndexPQFastScan) or (
            codes.ntotal,
            codes.d,
            codes.metric_type,
        ) != (*flat.vectors.shape, native.measure(flat.metric)):
            raise CorruptIndex(f"{path} holds no codes of these rows", fix="It is rebuilt")
        return cls(flat, codes)

    def save(self, path: Path) -> FileEntry:
        """Write the codes, durable once the folder is.

        Raises:
            OSError: it cannot be written.
        """
        import faiss

        return files.write(path, [faiss.serialize_index(self._codes).data])

    @property
    def footprint(self) -> Footprint:
        n, dim = self.vectors.shape
        return Footprint(n * self._codes.code_size + 8 * n, 2 * n * dim)

    def efforts(self, k: int) -> tuple[int, int]:
        """From k candidates refined to a tenth of the rows."""
        return k, max(k, min(len(self.ids), 64 * k, 1 + len(self.ids) // 10))

    def adjusted(self, **params: int) -> Self:
        """Itself: there is nothing to adjust."""
        return self

    @property
    def metric(self) -> Metric:
        return self._flat.metric

    @property
    def ids(self) -> Ids:
        return self._flat.ids

    @property
    def vectors(self) -> Halves:
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
        """The k nearest allowed ids of each query (q, dim) float32 as far as the codes tell.

        `effort` is how many candidates are refined, at least k.
        """
        queries = checks.queries(queries, self._codes.d)
        n, width = len(self.ids), max(k, effort or _WIDTH + _WIDTH_EACH * k)
        if n * (_SCAN_ROW - _SCAN_CODE) <= _CALL + width * _REFINE or k < 1 or not len(queries):
            return self._flat.search(queries, k, allow=allow)
        if allow is None:
            return self._refined(queries, k, width)
        mask = mask_of(self.ids, allow)
        allowed = int(np.count_nonzero(mask))
        if allowed == n:
            return self._refined(queries, k, width)
        if not _codes_pay(n, allowed, width):
            return self._flat.search(queries, k, allow=allow)
        return self._masked(queries, k, width, allow, mask)

    def _refined(self, queries: Vectors, k: int, width: int) -> Matches:
        kept = min(k + _SPARE, width)
        options = native.refining_width(width, kept)
        scores, rows = native.search(self._refining, queries, kept, self.metric, options)
        found = matches.best(np.where(rows < 0, -1, self.ids[rows]), scores, k)
        # codes that tell nothing apart, as for a zero query, find fewer than there are
        if (short := rows[:, -1] < 0).any():
            exact = self._flat.search(queries[short], k)
            found.ids[short], found.scores[short] = exact.ids, exact.scores
        return found

    def _masked(self, queries: Vectors, k: int, width: int, allow: Bitmap, mask: Bitmap) -> Matches:
        """The codes know no filters: take so many that about `width` of them are allowed."""
        wide = min(len(mask), width * len(mask) // int(np.count_nonzero(mask)))
        _, rows = native.search(self._codes, queries, wide, self.metric)
        found = []
        for query, near in zip(queries[:, None], rows, strict=True):
            few = near[near >= 0]
            few = few[mask[few]][:width]
            # far fewer than expected: what is allowed lies elsewhere than what is near
            if 2 * len(few) < width:
                found.append(self._flat.search(query, k, allow=allow))
            else:
                found.append(self._flat.among(query, few, k))
        return matches.stacked(found)


def _codes_pay(n: int, allowed: int, width: int) -> bool:
    """Whether looking through the codes costs less than scanning the allowed rows."""
    by_codes = _CALL + n * _SCAN_CODE + width * (n / max(1, allowed) * _KEEP + _REFINE_GATHERED)
    return by_codes < n * _PASS_ROW + allowed * _SCAN_ROW


def _sub_vectors(dim: int, width: int = 4) -> int:
    while dim % width:
        width -= 1
    return dim // width


def _sample(vectors: Halves) -> Vectors:
    rows = vectors[:: max(1, len(vectors) // _SAMPLE)][:_SAMPLE].astype(np.float32)
    if len(rows) < _CENTROIDS:
        rows = np.resize(rows, (_CENTROIDS, vectors.shape[1]))
    return rows
