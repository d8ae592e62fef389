"""A navigable graph over 8-bit codes, refined from the exact rows.

Malkov, Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical
navigable small world graphs", 2018, as FAISS's `IndexHNSWSQ`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from vivace.errors import BadInput
from vivace.index import native, rowfile
from vivace.index.coded import SPARE, FaissCodes
from vivace.index.flat import FlatIndex
from vivace.types import Capabilities, Footprint

_LINKS, _CONSTRUCTION = 32, 40
_EFFORT, _EFFORT_EACH = 80, 4
"""Nodes kept at effort 0: some, and some for each one asked for."""
_GREATEST = 1_024
_SAMPLE = 65_536
"""Rows that the codes' ranges come from."""
_NODE, _CALL = 2.0, 15.0
"""Microseconds, as the costs of `coded`."""


class HnswIndex(FaissCodes):
    """A byte a dimension and `2 * M` links a row; a search walks towards the query.

    Effort is the length of the list of nearest nodes that a walk keeps (`efSearch`).
    """

    family: ClassVar[str] = "hnsw"
    capabilities: ClassVar[Capabilities] = Capabilities(exact=False, effort=True)

    _kind: ClassVar[str] = "IndexHNSWSQ"

    @classmethod
    def estimate_bytes(cls, n: int, dim: int, **params: int) -> Footprint:
        """Codes, links of all levels, ids; held in memory, over the mapped rows of `flat`."""
        links, _ = _parameters(**params)
        # of a level's nodes, one in M is on the next too, with M links there
        above = 4 * links / (links - 1)
        return Footprint(int(n * (dim + 8 * links + above + 12 + 8)), 2 * n * dim)

    @classmethod
    def estimate_seconds(cls, n: int, dim: int, **params: int) -> float:
        """Every row is searched for among those before it; memory gets slower as it fills."""
        links, construction = _parameters(**params)
        steps = construction + 2 * links
        larger: float = max(1.0, n / 40_000) ** 0.2
        return 4.3e-9 * n * (dim + 64) * steps * larger

    @classmethod
    def candidates(cls, n: int, dim: int) -> list[dict[str, int]]:
        """Fewer links take less memory, and more effort for the same recall."""
        return [{}, {"M": 16}]

    @classmethod
    def build(cls, flat: FlatIndex, **params: int) -> Self:
        """A graph over the rows of `flat`, in memory, by one thread, in their order: the same rows
        make the same graph. O(n log n); can be interrupted.

        `params`: `M` (32), links of a node, twice that on the lowest level; `efConstruction` (40),
        nodes kept while a row's links are looked for.

        Raises:
            BadInput: an unknown parameter, or one out of range.
        """
        import faiss

        links, construction = _parameters(**params)
        native.one_thread()
        # FAISS's stubs take a number for the kind of codes in one place and a class in another
        kind: Any = faiss.ScalarQuantizer.QT_8bit
        dim = flat.vectors.shape[1]
        codes = faiss.IndexHNSWSQ(dim, kind, links, native.measure(flat.metric))
        codes.hnsw.efConstruction = construction
        codes.train(rowfile.sample(flat.vectors, _SAMPLE))
        for block in rowfile.floats(flat.vectors):
            native.one_thread()
            codes.add(block)
        return cls(flat, codes)

    @property
    def footprint(self) -> Footprint:
        n, dim = self.vectors.shape
        graph = self._codes.hnsw
        links = 4 * graph.neighbors.size() + 8 * graph.offsets.size() + 4 * graph.levels.size()
        return Footprint(n * (dim + 8) + links, 2 * n * dim)

    def efforts(self, k: int) -> tuple[int, int]:
        """From k nodes kept to a thousand."""
        return k, max(k, min(len(self.ids), max(_GREATEST, 8 * k)))

    def _usual(self, k: int) -> int:
        return _EFFORT + _EFFORT_EACH * k

    def _width(self, k: int, effort: int) -> int:
        # a byte a dimension errs by a place or two: what is far behind the k-th is not among them
        return min(max(k, effort), k + max(k, SPARE))

    def _micros(self, effort: int) -> float:
        return _CALL + _NODE * effort

    def _options(self, effort: int, width: int) -> Any:
        import faiss

        untyped: Any = faiss
        return untyped.SearchParametersHNSW(efSearch=max(effort, width))


def _parameters(M: int = _LINKS, efConstruction: int = _CONSTRUCTION) -> tuple[int, int]:  # noqa: N803
    if not 2 <= M <= 256 or not 1 <= efConstruction <= 10_000:
        raise BadInput(
            f"M {M}, efConstruction {efConstruction} make no graph",
            fix="Use M from 2 to 256 and efConstruction from 1 to 10000",
        )
    return M, efConstruction
