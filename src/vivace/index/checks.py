"""What vectors and ids have to be before an index takes them."""

from __future__ import annotations

from math import isfinite

import numpy as np

from vivace.errors import BadVectors
from vivace.types import Float16Vectors, Ids, Vectors


def ascending(ids: Ids) -> None:
    """Raises `BadVectors` unless ids (n,) strictly ascend and none is negative."""
    if ids.ndim != 1 or np.any(np.diff(ids) <= 0) or (len(ids) and ids[0] < 0):
        raise BadVectors("ids do not ascend", fix="Give each vector its own id, strictly ascending")


def part(vectors: Float16Vectors, dim: int) -> None:
    """Raises `BadVectors` unless vectors (n, dim) are float16 and finite."""
    if vectors.ndim != 2 or vectors.shape[1] != dim or vectors.dtype != np.float16:
        raise BadVectors(
            f"{vectors.dtype} vectors of shape {vectors.shape} where float16 (n, {dim}) is wanted",
            fix="Embed with the collection's embedder and store as float16",
        )
    _finite(vectors)


def queries(vectors: Vectors, dim: int) -> Vectors:
    """Queries (q, dim) as FAISS wants them: float32, contiguous; raises `BadVectors`."""
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise BadVectors(
            f"queries of shape {vectors.shape} for vectors of {dim} dimensions",
            fix="Embed queries with the collection's embedder, one row a query",
        )
    asked: Vectors = np.ascontiguousarray(vectors, np.float32)
    if len(asked) == 1:
        row = asked[0]
        # a sum of squares is finite only where every number is, and takes a fifth of the time
        if isfinite(row.dot(row)):
            return asked
    _finite(asked)
    return asked


def _finite(vectors: Float16Vectors | Vectors) -> None:
    if not np.isfinite(vectors).all():
        raise BadVectors("vectors hold NaN or infinity", fix="Remove or repair those rows")
