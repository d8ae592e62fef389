"""The dense side: immutable exact segments, merged geometrically, so that a state is a tuple."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from vivace.index import matches
from vivace.index.flat import FlatIndex
from vivace.types import Bitmap, Halves, Ids, Matches, Scores, Vectors

_REBUILD_SHARE = 0.25
"""A segment is rebuilt without its removed rows once they are this share of it."""


@dataclass(frozen=True, slots=True)
class Segment:
    index: FlatIndex
    removed: int = 0
    """How many of its rows are no longer live."""


@dataclass(frozen=True, slots=True)
class Dense:
    """One state of the vectors. `changed` makes the next; this one stays as it is."""

    segments: tuple[Segment, ...] = ()
    live: Bitmap | None = None
    """By chunk id; None while nothing has been removed."""

    def __len__(self) -> int:
        return sum(len(s.index.ids) - s.removed for s in self.segments)

    def changed(self, ids: Ids, vectors: Halves, removed: Ids) -> Dense:
        """The state with rows added, ids above all present ones and ascending, and ids removed.

        A row is copied O(log n) times over the life of n additions: neighbours are merged when the
        older is not twice the size of the younger.
        """
        after = self._without(removed) if len(removed) else self
        if not len(ids):
            return after
        segments = [*after.segments, Segment(FlatIndex.build(ids, vectors))]
        while len(segments) > 1 and len(segments[-2].index.ids) < 2 * len(segments[-1].index.ids):
            younger, older = segments.pop(), segments.pop()
            segments.append(_merged([older, younger], after.live))
        return replace(after, segments=tuple(s for s in segments if len(s.index.ids)))

    def search(self, queries: Vectors, k: int, *, allow: Bitmap | None = None) -> Matches:
        """The k nearest live and allowed ids of each query."""
        parts = [
            s.index.search(queries, k, allow=_both(allow, self.live if s.removed else None))
            for s in self.segments
        ]
        return matches.merge(parts, len(queries), k)

    def similarity(self, query: Vectors, ids: Ids) -> Scores:
        """Inner products (len(ids),) with one query (1, dim); -inf where an id is not here."""
        parts = [segment.index.similarity(query, ids) for segment in self.segments]
        if len(parts) == 1:
            return parts[0]
        best: Scores = np.max([np.full(len(ids), -np.inf, np.float32), *parts], axis=0)
        return best

    def _without(self, removed: Ids) -> Dense:
        last = max([int(s.index.ids[-1]) for s in self.segments], default=-1)
        live = np.ones(last + 1, np.bool_)
        if self.live is not None:
            live[: len(self.live)] = self.live[: len(live)]
        live[removed[removed <= last]] = False
        segments = []
        for segment in self.segments:
            gone = len(segment.index.ids) - int(np.count_nonzero(live[segment.index.ids]))
            counted = Segment(segment.index, gone)
            if gone > _REBUILD_SHARE * len(segment.index.ids):
                counted = _merged([counted], live)
            if len(counted.index.ids):
                segments.append(counted)
        return Dense(tuple(segments), live)


def _merged(segments: Iterable[Segment], live: Bitmap | None) -> Segment:
    ids, vectors = [], []
    for segment in segments:
        keep = slice(None) if live is None or not segment.removed else live[segment.index.ids]
        ids.append(segment.index.ids[keep])
        vectors.append(segment.index.vectors[keep])
    return Segment(FlatIndex.build(np.concatenate(ids), np.concatenate(vectors)))


def _both(a: Bitmap | None, b: Bitmap | None) -> Bitmap | None:
    if a is None or b is None:
        return b if a is None else a
    shared = min(len(a), len(b))
    return a[:shared] & b[:shared]
