"""Which questions can be searched, and in what form?"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, sqrt
from typing import Final

import numpy as np

from vivace.errors import BadQuery
from vivace.types import Query, Vector

_MOST_HITS: Final = 10_000


def check(query: Query, max_chars: int) -> None:
    """Refuse a question that cannot be searched.

    Raises:
        BadQuery: it is empty or too long, k < 1, or its vector holds NaN or infinity.
    """
    if not query.text.strip() and query.vector is None:
        raise BadQuery("the question is empty", fix="Ask something")
    if len(query.text) > max_chars:
        raise BadQuery(
            f"the question has {len(query.text):,} characters, more than {max_chars:,}",
            fix="Shorten it, or raise search.max_question_chars",
        )
    if not 1 <= query.k <= _MOST_HITS:
        raise BadQuery(f"k is {query.k}", fix=f"Ask for 1 to {_MOST_HITS:,} hits")
    if query.vector is not None and not _finite(np.asarray(query.vector, np.float32)):
        raise BadQuery("the query's vector holds NaN or infinity", fix="Repair the vector")


def _finite(vector: Vector) -> bool:
    # a sum of squares is finite only where every number is, and takes a fifth of the time
    return isfinite(_squared(vector))


def _squared(vector: Vector) -> float:
    """The square of its length, in float64: those of large components are beyond float32."""
    wide = vector.astype(np.float64).ravel()
    return float(wide.dot(wide))


def encodable(query: Query) -> Query:
    """The query without lone surrogates, which a shell makes of bytes that are no UTF-8."""
    if query.text.isascii():
        return query
    try:
        query.text.encode()
    except UnicodeEncodeError:
        return replace(query, text=query.text.encode("utf-8", "replace").decode())
    return query


def unit(vector: Vector) -> Vector:
    """A given vector as float32 of unit length, as an embedder's are; a zero vector stays zero."""
    row = np.asarray(vector, np.float32)
    length = np.float32(sqrt(_squared(row)))
    return row / length if length > 0 else row
