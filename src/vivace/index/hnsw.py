"""A navigable graph over the exact rows, or over 8-bit codes of them refined from the rows.

Malkov, Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical
navigable small world graphs", 2018, as FAISS's `IndexHNSWSQ`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from vivace.errors import BadInput
from vivace.index import files, native, rowfile
from vivace.index.coded import SPARE, FaissCodes
from vivace.index.files import FileEntry
from vivace.index.flat import FlatIndex
from vivace.types import Capabilities, Footprint

_LINKS, _CONSTRUCTION, _BITS = 32, 40, 16
_EFFORT, _EFFORT_EACH = 80, 4
"""Nodes kept at effort 0: a constant, and a number for each of the k."""
_GREATEST = 1_024
_SAMPLE = 65_536
"""Rows that the ranges of the codes are trained on."""
_NODE, _CALL = 2.8, 30.0
"""Microseconds on the machine of the costs in `coded`."""


class HnswIndex(FaissCodes):
    """A graph with `2 * M` links per row; a search walks along them towards the query.

    With 16 bits per dimension it walks over the rows of the `FlatIndex`: nothing is stored twice or
    refined, but the rows must stay in memory. With 8 bits it walks over codes of its own.

    Effort is the length of the list of nearest nodes that a walk keeps (`efSearch`).
    """

    family: ClassVar[str] = "hnsw"
    capabilities: ClassVar[Capabilities] = Capabilities(exact=False, effort=True)

    _kind: ClassVar[str] = "IndexHNSWSQ"

    def __init__(self, flat: FlatIndex, codes: Any) -> None:
        super().__init__(flat, codes)
        self._coded = codes.storage is not None
        if not self._coded:
            native.share_rows(codes, flat.native)
            self._refining = codes

    @classmethod
    def estimate_bytes(cls, n: int, dim: int, **params: int) -> Footprint:
        """Links of all levels, ids, and the rows or else codes over mapped rows."""
        links, _, bits = _parameters(**params)
        # one in M nodes of a level is on the next one, too, with M links there
        graph = int(n * (8 * links + 4 * links / (links - 1) + 12))
        if bits == 8:
            return Footprint(graph + n * (dim + 8), 2 * n * dim)
        return Footprint(graph + n * (2 * dim + 8), 0)

    @classmethod
    def estimate_seconds(cls, n: int, dim: int, **params: int) -> float:
        """Searches every row among those before it; memory gets slower as it fills."""
        links, construction, _ = _parameters(**params)
        larger: float = max(1.0, n / 40_000) ** 0.2
        return 4.3e-9 * n * (dim + 64) * (construction + 2 * links) * larger

    @classmethod
    def candidates(cls, n: int, dim: int) -> list[dict[str, int]]:
        """Over the rows, or over codes, which take less memory."""
        return [{}, {"bits": 8}]

    @classmethod
    def build(cls, flat: FlatIndex, **params: int) -> Self:
        """Build a graph over the rows of `flat`, on one thread, in their order: the same rows make
        the same graph. O(n log n); can be interrupted.

        `params`: `M` (32), links of a node, twice that on the lowest level; `efConstruction` (40),
        nodes kept while a row's links are looked for; `bits` (16 or 8) a dimension to walk over.

        Raises:
            BadInput: an unknown parameter, or one out of range.
        """
        import faiss

        links, construction, bits = _parameters(**params)
        # FAISS's stubs disagree about the type of a kind of codes
        kinds: Any = faiss.ScalarQuantizer
        kind = kinds.QT_8bit if bits == 8 else kinds.QT_fp16
        dim = flat.vectors.shape[1]
        codes: Any = faiss.IndexHNSWSQ(dim, kind, links, native.measure(flat.metric))
        codes.hnsw.efConstruction = construction
        native.one_thread()
        codes.train(rowfile.sample(flat.vectors, _SAMPLE))
        for block in rowfile.floats(flat.vectors):
            native.one_thread()
            codes.add(block)
        if bits == 16:
            # keep only the links: it walks over the rows of `flat`, not over a copy of them
            codes = faiss.deserialize_index(
                faiss.serialize_index(codes, faiss.IO_FLAG_SKIP_STORAGE)
            )
        return cls(flat, codes)

    def save(self, path: Path) -> FileEntry:
        """See `CodedIndex.save`; shared rows are not written again."""
        import faiss

        flags = 0 if self._coded else faiss.IO_FLAG_SKIP_STORAGE
        return files.write(path, [faiss.serialize_index(self._codes, flags).data])

    @property
    def footprint(self) -> Footprint:
        n, dim = self.vectors.shape
        links = self._codes.hnsw
        graph = 4 * links.neighbors.size() + 8 * links.offsets.size() + 4 * links.levels.size()
        if self._coded:
            return Footprint(graph + n * (dim + 8), 2 * n * dim)
        return Footprint(graph + n * (2 * dim + 8), 0)

    def efforts(self, k: int) -> tuple[int, int]:
        """From k nodes kept to a thousand."""
        return k, max(k, min(len(self.ids), max(_GREATEST, 8 * k)))

    def _usual(self, k: int) -> int:
        return _EFFORT + _EFFORT_EACH * k

    def _width(self, k: int, effort: int) -> int:
        # 8-bit codes misplace a row by a place or two: rows far behind the k-th are not among the k
        return min(max(k, effort), k + max(k, SPARE))

    def _micros(self, effort: int) -> float:
        return _CALL + _NODE * effort

    def _options(self, effort: int, width: int) -> Any:
        import faiss

        untyped: Any = faiss
        return untyped.SearchParametersHNSW(efSearch=max(effort, width))

    def _native(self, effort: int, width: int, kept: int) -> Any:
        if self._coded:
            return super()._native(effort, width, kept)
        return self._options(effort, kept)


def _parameters(
    M: int = _LINKS,  # noqa: N803
    efConstruction: int = _CONSTRUCTION,  # noqa: N803
    bits: int = _BITS,
) -> tuple[int, int, int]:
    if not 2 <= M <= 256 or not 1 <= efConstruction <= 10_000 or bits not in (8, 16):
        raise BadInput(
            f"M {M}, efConstruction {efConstruction}, bits {bits} make no graph",
            fix="Use M from 2 to 256, efConstruction from 1 to 10000 and bits 8 or 16",
        )
    return M, efConstruction, bits
