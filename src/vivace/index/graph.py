"""A graph whose links carry codes, so that a walk reads memory sequentially.

SymphonyQG: Gou, Gao, Xu, Long, "SymphonyQG: towards symphonious integration of quantization and
graph for approximate nearest neighbor search", 2025, as `rabitqlib` has it (extra `graph`).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from vivace.errors import BadInput, CorruptIndex, MissingExtra
from vivace.index import files, matches
from vivace.index.coded import CodedIndex, SearchParameters
from vivace.index.files import FileEntry
from vivace.index.flat import FlatIndex
from vivace.types import Capabilities, Footprint, Ids, Matches, Vectors

_DEGREE, _CONSTRUCTION = 32, 200
_EFFORT, _EFFORT_EACH = 80, 6
"""Nodes kept at effort 0: a constant, and a number for each of the k."""
_GREATEST = 2_048
_SPARE = 2
"""Like `coded.SPARE`."""
_LEAST = 512
"""Rows below which there is no graph: a scan takes less time than a walk."""
_NONE = b"too few rows for a graph\n"
_LEAST_DIM = 64
"""Least dimensions that the rotation of the codes takes; fewer are padded with zeros."""
_NODE, _CALL = 0.7, 40.0
"""Microseconds on the machine of the costs in `coded`."""


def installed() -> bool:
    """Whether the family's library is installed."""
    return find_spec("rabitqlib") is not None


class GraphIndex(CodedIndex):
    """Float32 rows with `degree` links each and a bit per dimension of a link: the fastest family
    to search, with five times the memory of the float16 rows.

    The library knows no filters and does not build the same graph twice. Effort is the number of
    nearest nodes that a walk keeps. Scores are the library's own and exact but for the rounding of
    their sums; those of the other families are bit for bit equal.
    """

    family: ClassVar[str] = "graph"
    capabilities: ClassVar[Capabilities] = Capabilities(
        exact=False, effort=True, rounding=matches.ROUNDING
    )

    def __init__(self, flat: FlatIndex, graph: Any, degree: int) -> None:
        super().__init__(flat)
        self._graph = graph
        self._degree = degree
        # the library's distances are squared lengths, or 1 minus the product
        self._nearest = np.float32(flat.metric != "l2")

    @classmethod
    def estimate_bytes(cls, n: int, dim: int, **params: int) -> Footprint:
        """Float32 rows, links with codes, and ids, over the mapped rows of `flat`."""
        degree, _ = _parameters(**params)
        return _footprint(n, dim, degree)

    @classmethod
    def estimate_seconds(cls, n: int, dim: int, **params: int) -> float:
        """Searches the links of every row in the graph, several times."""
        degree, construction = _parameters(**params)
        return 3.5e-9 * n * (dim + 64) * (construction + 2 * degree)

    @classmethod
    def candidates(cls, n: int, dim: int) -> list[dict[str, int]]:
        """The default degree; none if the library is not installed."""
        return [{}] if installed() else []

    @classmethod
    def build(cls, flat: FlatIndex, **params: int) -> Self:
        """Build a graph over the rows of `flat`, on one thread.

        `params`: `degree` (32; a multiple of 32), links of a node; `efConstruction` (200), nodes
        kept while a row's links are looked for.

        Raises:
            BadInput: an unknown parameter, or one out of range.
            MissingExtra: rabitqlib is not installed.
        """
        degree, construction = _parameters(**params)
        library = _library()
        n, dim = flat.vectors.shape
        if n < _LEAST:
            return cls(flat, None, degree)
        metric = "l2" if flat.metric == "l2" else "ip"
        graph = library.SymqgIndex(max(dim, _LEAST_DIM), degree, metric=metric)
        graph.build(_wide(flat.vectors.astype(np.float32)), ef_construction=construction)
        return cls(flat, graph, degree)

    @classmethod
    def open(cls, flat: FlatIndex, path: Path) -> Self:
        """Read the graph that `save` wrote, over the same rows.

        Raises:
            CorruptIndex: missing, cut, or no graph of these rows.
            MissingExtra: rabitqlib is not installed.
        """
        library = _library()
        n, dim = flat.vectors.shape
        try:
            if n < _LEAST:
                if path.read_bytes() != _NONE:
                    raise CorruptIndex(f"{path} is no graph of few rows", fix="It is rebuilt")
                return cls(flat, None, _DEGREE)
            graph = library.SymqgIndex.load(str(path))
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            raise CorruptIndex(f"{path}: {error}", fix="It is rebuilt") from error
        metric = "l2" if flat.metric == "l2" else "ip"
        if (graph.num_points, graph.dim, graph.metric) != (n, max(dim, _LEAST_DIM), metric):
            raise CorruptIndex(f"{path} holds no graph of these rows", fix="It is rebuilt")
        return cls(flat, graph, graph.max_degree)

    def save(self, path: Path) -> FileEntry:
        """See `CodedIndex.save`; for too few rows, the file says so."""
        if self._graph is None:
            return files.write(path, [_NONE])
        # the library writes the file itself: read it back for the checksum
        try:
            self._graph.save(str(path))
        except RuntimeError as error:
            raise OSError(f"{path}: {error}") from error
        files.sync(path)
        return files.entry(path)

    @property
    def footprint(self) -> Footprint:
        n, dim = self.vectors.shape
        return _footprint(n, dim, self._degree)

    def efforts(self, k: int) -> tuple[int, int]:
        """From just enough nodes to find k to two thousand."""
        least = min(len(self.ids), k + _SPARE)
        return least, max(least, min(len(self.ids), max(_GREATEST, 8 * k)))

    def _usual(self, k: int) -> int:
        return _EFFORT + _EFFORT_EACH * k

    def _width(self, k: int, effort: int) -> int:
        return k + _SPARE

    def _micros(self, effort: int) -> float:
        return _CALL + _NODE * effort if self._graph is not None else np.inf

    def _native(self, effort: int, width: int, kept: int) -> Any:
        return max(effort, width)

    def _near(self, queries: Vectors, wide: int, effort: int) -> Ids:
        effort = min(len(self.ids), max(effort, wide))
        rows, _ = self._graph.search(_wide(queries), wide, effort)
        near: Ids = rows.astype(np.int64)
        near[near >= len(self.ids)] = -1
        return near

    def _refined(self, queries: Vectors, k: int, how: SearchParameters) -> Matches:
        wide = _wide(queries)
        if len(queries) == 1:
            near, far = self._graph.search(wide, how.width, how.native)
            return self._ranked(near, far, k)
        rows, distances = self._graph.search_batch(wide, how.width, how.native)
        each = zip(rows[:, None], distances[:, None], strict=True)
        return matches.stacked([self._ranked(near, far, k) for near, far in each])

    def _ranked(self, rows: Any, distances: Any, k: int) -> Matches:
        """The k best of rows (1, m) for one query; padding if the library found too few."""
        if max(rows[0].tolist()) >= len(self._row_ids):
            return matches.empty(1, k)
        return matches.of_rows(self._row_ids, rows, self._nearest - distances, k)


def _wide(vectors: Vectors) -> Vectors:
    """The vectors, padded to the least dimensions that the library takes."""
    dim = vectors.shape[1]
    if dim >= _LEAST_DIM:
        return vectors
    return np.pad(vectors, ((0, 0), (0, _LEAST_DIM - dim)))


def _footprint(n: int, dim: int, degree: int) -> Footprint:
    if n < _LEAST:
        return Footprint(n * (2 * dim + 8), 0)
    held = max(dim, _LEAST_DIM)
    code = -(-held // 64) * 8
    return Footprint(n * (4 * held + degree * (code + 12) + 8), 2 * n * dim)


def _library() -> Any:
    try:
        import rabitqlib
    except ImportError as error:
        raise MissingExtra("rabitqlib", "graph") from error
    return rabitqlib


def _parameters(
    degree: int = _DEGREE,
    efConstruction: int = _CONSTRUCTION,  # noqa: N803
) -> tuple[int, int]:
    if not 32 <= degree < _LEAST or degree % 32 or not 1 <= efConstruction <= 10_000:
        raise BadInput(
            f"degree {degree}, efConstruction {efConstruction} make no graph",
            fix="Use a degree of 32, 64 ... 480 and efConstruction from 1 to 10000",
        )
    return degree, efConstruction
