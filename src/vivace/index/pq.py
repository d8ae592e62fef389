"""Product quantisation: 4-bit codes scanned in registers, refined from the exact rows.

Codes: Andre, Kermarrec, Le Scouarnec, "Quicker ADC", 2019, as FAISS's `IndexPQFastScan`.
"""

from __future__ import annotations

from typing import ClassVar, Self

from vivace.index import native, rowfile
from vivace.index.coded import FaissCodes
from vivace.index.flat import FlatIndex
from vivace.types import Capabilities, Footprint

_WIDTH, _WIDTH_EACH = 80, 12
"""Candidates refined at effort 0: a constant, and a number for each of the k."""
_SAMPLE = 20_000
"""Rows the centroids are trained on."""
_CENTROIDS = 16
_SCAN_CODE, _CALL = 0.003, 50.0
"""Microseconds on the machine of the costs in `coded`."""


class PqIndex(FaissCodes):
    """Codes of a quarter of a byte per dimension, scanned 16 times faster than the rows; the
    nearest `width` by code are scored exactly.

    Effort is the number of candidates to refine.
    """

    family: ClassVar[str] = "pq"
    capabilities: ClassVar[Capabilities] = Capabilities(exact=False, effort=True)

    _kind: ClassVar[str] = "IndexPQFastScan"

    @classmethod
    def estimate_bytes(cls, n: int, dim: int, **params: int) -> Footprint:
        """Codes and ids, over the mapped rows of `flat`."""
        return Footprint(n * sub_vectors(dim, **params) // 2 + 8 * n, 2 * n * dim)

    @classmethod
    def estimate_seconds(cls, n: int, dim: int, **params: int) -> float:
        """Trains on a sample, then encodes every row."""
        return dim * (1.5e-7 * min(n, _SAMPLE) + 1.6e-8 * n)

    @classmethod
    def candidates(cls, n: int, dim: int) -> list[dict[str, int]]:
        """Codes of 4 or of 2 dimensions each."""
        return [{}, {"width": 2}]

    @classmethod
    def build(cls, flat: FlatIndex, **params: int) -> Self:
        """Build codes of the rows of `flat`; the same rows make the same codes.

        `params`: `width`, the dimensions a 4-bit code stands for (default 4, or the largest
        divisor of the dimension below).
        """
        import faiss

        native.one_thread()
        dim = flat.vectors.shape[1]
        codes = faiss.IndexPQFastScan(
            dim, sub_vectors(dim, **params), 4, native.measure(flat.metric)
        )
        codes.pq.cp.min_points_per_centroid = 1
        codes.train(rowfile.sample(flat.vectors, _SAMPLE, least=_CENTROIDS))
        for block in rowfile.floats(flat.vectors):
            codes.add(block)
        return cls(flat, codes)

    @property
    def footprint(self) -> Footprint:
        n, dim = self.vectors.shape
        return Footprint(n * self._codes.code_size + 8 * n, 2 * n * dim)

    def efforts(self, k: int) -> tuple[int, int]:
        """From k candidates to a tenth of the rows, at most 64 k."""
        return k, max(k, min(len(self.ids), 64 * k, 1 + len(self.ids) // 10))

    def _usual(self, k: int) -> int:
        return _WIDTH + _WIDTH_EACH * k

    def _width(self, k: int, effort: int) -> int:
        return effort

    def _micros(self, effort: int) -> float:
        return _CALL + len(self.ids) * _SCAN_CODE


def sub_vectors(dim: int, width: int = 4) -> int:
    """The number of codes per row, each of `width` dimensions or the next smaller divisor."""
    while dim % width:
        width -= 1
    return dim // width
