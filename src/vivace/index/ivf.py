"""Cells of neighbouring rows with 4-bit codes; a search scans the cells nearest to the query.

Inverted file: Jegou, Douze, Schmid, "Product quantization for nearest neighbor search", 2011, as
FAISS's `IndexIVFPQFastScan`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from vivace.errors import BadInput
from vivace.index import native, rowfile
from vivace.index.coded import FaissCodes
from vivace.index.flat import FlatIndex
from vivace.index.pq import sub_vectors
from vivace.types import Capabilities, Footprint

_CELLS = 1.25
"""Cells per square root of the rows: at equal cost, fewer cells miss less than the usual four."""
_SHARE = 0.25
"""Share of the cells scanned at effort 0."""
_WIDTH, _WIDTH_EACH = 30, 4
"""Candidates refined per dimension of a code: a constant, and a number for each of the k."""
_A_CELL = 64
"""Most rows that a cell is trained on."""
_SAMPLE = 20_000
"""Least rows that all cells are trained on."""
_CENTROIDS = 16
_ROUNDS = 10
_SCAN_CODE, _CELL, _CENTRE, _CALL = 0.004, 0.6, 0.03, 40.0
"""Microseconds on the machine of the costs in `coded`."""


class IvfIndex(FaissCodes):
    """The codes of `PqIndex`, of which a search reads only those in the cells nearest to the query.

    Effort is the number of cells to scan (`nprobe`); an effort beyond the number of cells is added
    to the candidates to refine.
    """

    family: ClassVar[str] = "ivf"
    capabilities: ClassVar[Capabilities] = Capabilities(exact=False, effort=True)

    _kind: ClassVar[str] = "IndexIVFPQFastScan"

    @classmethod
    def estimate_bytes(cls, n: int, dim: int, **params: int) -> Footprint:
        """Codes, two ids per row, centres and their tables, over the mapped rows of `flat`."""
        cells, sub = _parameters(n, dim, **params)
        # codes are stored in blocks of 32, and a cell's last block is half empty
        codes = (n + 16 * cells) * _code_bytes(sub)
        centres = cells * dim * 4 + _CENTROIDS * dim * 4
        return Footprint(codes + centres + 16 * n, 2 * n * dim)

    @classmethod
    def estimate_seconds(cls, n: int, dim: int, **params: int) -> float:
        """Trains the cells on a sample, then compares every row with every centre."""
        cells, _ = _parameters(n, dim, **params)
        sample = min(n, _A_CELL * cells)
        return dim * (4e-11 * cells * (_ROUNDS * sample + n) + 1e-7 * sample + 4e-8 * n)

    @classmethod
    def candidates(cls, n: int, dim: int) -> list[dict[str, int]]:
        """Codes of 2 and of 4 dimensions each."""
        return [{}, {"width": 4}]

    @classmethod
    def build(cls, flat: FlatIndex, **params: int) -> Self:
        """Build cells of the rows of `flat`; the same rows make the same cells.

        `params`: `nlist`, the number of cells (default 1.25 times the square root of n);
        `width`, the dimensions a 4-bit code stands for (default 2, or the largest divisor of the
        dimension below).

        Raises:
            BadInput: an unknown parameter, or one out of range.
        """
        import faiss

        rows = flat.vectors
        n, dim = rows.shape
        cells, sub = _parameters(n, dim, **params)
        untyped: Any = faiss
        measure = native.measure(flat.metric)
        flat_centres = untyped.IndexFlat(dim, measure)
        codes = untyped.IndexIVFPQFastScan(flat_centres, dim, cells, sub, 4, measure)
        codes.cp.niter = _ROUNDS
        codes.cp.max_points_per_centroid = _A_CELL
        codes.cp.min_points_per_centroid = codes.pq.cp.min_points_per_centroid = 1
        native.one_thread()
        codes.train(
            rowfile.sample(rows, max(_A_CELL * cells, _SAMPLE), least=max(cells, _CENTROIDS))
        )
        for block in rowfile.floats(rows):
            native.one_thread()
            codes.add(block)
        return cls(flat, codes)

    @property
    def footprint(self) -> Footprint:
        n, dim = self.vectors.shape
        cells = self._codes.nlist
        codes = self._codes.invlists
        blocks = sum(-(-codes.list_size(cell) // 32) for cell in range(cells))
        held = 32 * blocks * _code_bytes(self._codes.pq.M)
        centres = cells * dim * 4 + _CENTROIDS * dim * 4
        return Footprint(held + centres + 16 * n, 2 * n * dim)

    def efforts(self, k: int) -> tuple[int, int]:
        """From one cell to all cells and 64 k further candidates."""
        return 1, int(self._codes.nlist) + 64 * k

    def _usual(self, k: int) -> int:
        return max(1, int(_SHARE * self._codes.nlist))

    def _width(self, k: int, effort: int) -> int:
        # more cells hold more rows whose codes only seem near; beyond all cells, width is all that
        # effort can raise
        beyond = max(0, effort - int(self._codes.nlist))
        return int(self._codes.pq.dsub) * (_WIDTH + _WIDTH_EACH * k) + effort // 2 + beyond

    def _micros(self, effort: int) -> float:
        cells = int(self._codes.nlist)
        looked = min(effort, cells)
        rows = len(self.ids) * looked / cells
        return _CALL + cells * _CENTRE + looked * _CELL + rows * _SCAN_CODE

    def _options(self, effort: int, width: int) -> Any:
        import faiss

        untyped: Any = faiss
        return untyped.IVFSearchParameters(nprobe=max(1, min(effort, self._codes.nlist)))


def _code_bytes(sub: int) -> int:
    """Bytes of a row's codes: two codes per byte."""
    return (sub + 1) // 2


def _parameters(n: int, dim: int, nlist: int = 0, width: int = 2) -> tuple[int, int]:
    cells = nlist or max(1, min(int(_CELLS * n**0.5), n // 39))
    if not 1 <= cells <= max(1, n) or width < 1:
        raise BadInput(
            f"nlist {nlist}, width {width} make no cells of {n} rows",
            fix="Use nlist from 1 to the number of rows, and a width of at least 1",
        )
    return cells, sub_vectors(dim, width)
