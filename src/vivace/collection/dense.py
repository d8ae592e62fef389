"""The dense side: immutable segments in the order of their ids, sealed ones first, then the
tail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from vivace.index import matches
from vivace.index.flat import FlatIndex
from vivace.index.segments import SegmentFiles
from vivace.protocols import VectorIndex
from vivace.types import Bitmap, Float16Vectors, Ids, Matches, Metric, Plan, Scores, Vectors

_REBUILD_SHARE = 0.25
"""A segment in memory is rebuilt once more than this share of its rows is removed."""

_TAIL_RATIO: Final = 32
"""Neighbours in the tail are merged below this ratio of their sizes. Every segment costs a search
100 microseconds, a third of its time with three segments; copying a row costs half a microsecond,
and embedding it some twenty thousand."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A segment on disk: the name of its folder and the files that must be in it."""

    name: str
    files: SegmentFiles


@dataclass(frozen=True, slots=True)
class Segment:
    index: VectorIndex
    removed: int = 0
    """How many of its rows have been removed."""
    sealed: Sealed | None = None
    """None while it exists in memory only."""

    @property
    def first(self) -> int:
        return int(self.index.ids[0])

    @property
    def last(self) -> int:
        return int(self.index.ids[-1])

    def __len__(self) -> int:
        """Live rows."""
        return len(self.index.ids) - self.removed


@dataclass(frozen=True, slots=True)
class Dense:
    """One immutable state of the vectors; `changed` and `replaced` make the next one."""

    segments: tuple[Segment, ...] = ()
    """No segment is empty; the ids of each are below those of the next."""
    live: Bitmap = field(default_factory=lambda: np.zeros(0, np.bool_))
    """By chunk id: whether the chunk exists. Holds for the keyword side, too."""
    metric: Metric = "cosine"
    plan: Plan | None = None
    """How to search segments of its family; others are searched with their default effort."""

    def __len__(self) -> int:
        return sum(len(s) for s in self.segments)

    @property
    def tail(self) -> tuple[Segment, ...]:
        """The segments after the last sealed one."""
        at = len(self.segments)
        while at and self.segments[at - 1].sealed is None:
            at -= 1
        return self.segments[at:]

    def changed(self, ids: Ids, vectors: Float16Vectors, removed: Ids) -> Dense:
        """The state after adding rows, with ascending ids above all present ones, and removing ids.

        Neighbours in the tail are merged unless the older is many times as large as the younger: a
        row is copied O(log tail) times, and the tail has few segments.
        """
        after = self._without(removed) if len(removed) else self
        if not len(ids):
            return after
        live = np.zeros(int(ids[-1]) + 1, np.bool_)
        live[: len(after.live)] = after.live
        live[ids] = True
        segments = [*after.segments, Segment(FlatIndex.build(ids, vectors, metric=self.metric))]
        while len(segments) > 1 and _to_merge(segments[-2], segments[-1]):
            younger, older = segments.pop(), segments.pop()
            segments += self._joined([older, younger], live)
        return replace(after, segments=tuple(segments), live=live)

    def replaced(self, first: int, last: int, by: Segment | None) -> Dense:
        """The state with one segment for the live rows with ids from first to last.

        Rows that were removed while `by` was written count as removed in it.
        """
        before = [s for s in self.segments if s.last < first]
        after = [s for s in self.segments if s.first > last]
        behind: list[Segment] = []
        for segment in self.segments:
            if segment.first <= last < segment.last:
                # a segment of the tail that has grown meanwhile
                behind += self._joined([segment], self.live, above=last)
        middle = []
        if by is not None:
            gone = len(by.index.ids) - int(np.count_nonzero(self.live[by.index.ids]))
            if gone < len(by.index.ids):
                middle = [replace(by, removed=gone)]
        return replace(self, segments=(*before, *middle, *behind, *after))

    def with_plan(self, plan: Plan | None) -> Dense:
        """The same state, searched by another plan; builds nothing."""
        return self if plan is self.plan else replace(self, plan=plan)

    @property
    def approximate(self) -> bool:
        """Whether some segment may miss true neighbours."""
        return any(not segment.index.capabilities.exact for segment in self.segments)

    def approximate_plan(self, k: int) -> tuple[Plan, tuple[int, int]] | None:
        """The plan of the largest approximate segment, and its least and greatest effort for k.

        None if every segment is exact.
        """
        approximate = [s for s in self.segments if not s.index.capabilities.exact]
        if not approximate:
            return None
        largest = max(approximate, key=len)
        family = largest.index.family
        if self.plan is not None and self._as_planned(largest):
            plan = self.plan
        else:
            plan = Plan(family, largest.sealed.files.params if largest.sealed else {})
        return plan, largest.index.efforts(k)

    def search(
        self, queries: Vectors, k: int, *, allow: Bitmap | None = None, hurried: bool = False
    ) -> Matches:
        """The k nearest live and allowed ids of each query, up to the segments' recall.

        `hurried` searches every segment with its family's least effort.
        """
        parts = []
        for segment, mask in self._masked(allow):
            effort = segment.index.efforts(k)[0] if hurried else self._effort(segment)
            parts.append(segment.index.search(queries, k, effort=effort, allow=mask))
        return matches.merge(parts, len(queries), k)

    def exact(self, queries: Vectors, k: int, *, allow: Bitmap | None = None) -> Matches:
        """The k nearest live and allowed ids of each query, by brute force."""
        parts = [s.index.exact(queries, k, allow=mask) for s, mask in self._masked(allow)]
        return matches.merge(parts, len(queries), k)

    def _masked(self, allow: Bitmap | None) -> Iterator[tuple[Segment, Bitmap | None]]:
        """Each segment with the bitmap of ids that may be found in it; None for all."""
        restricted: Bitmap | None = None
        for segment in self.segments:
            if segment.removed and restricted is None:
                restricted = self.restricted(allow)
            yield segment, restricted if segment.removed else allow

    def _effort(self, segment: Segment) -> int:
        return self.plan.effort if self.plan is not None and self._as_planned(segment) else 0

    def _as_planned(self, segment: Segment) -> bool:
        """Whether it has the plan's family and parameters: only then does its effort apply."""
        plan = self.plan
        if plan is None or segment.sealed is None or plan.family != segment.index.family:
            return False
        return segment.sealed.files.params == dict(plan.params)

    def restricted(self, allow: Bitmap | None) -> Bitmap:
        """The live ones of the allowed ids."""
        if allow is None:
            return self.live
        shared = min(len(allow), len(self.live))
        return allow[:shared] & self.live[:shared]

    def similarity(self, query: Vectors, ids: Ids) -> Scores:
        """Scores (len(ids),) of one query (1, dim), higher is better; -inf for an unknown id."""
        if len(self.segments) == 1:
            return self.segments[0].index.similarity(query, ids)
        scores = np.full(len(ids), -np.inf, np.float32)
        if not len(ids):
            return scores
        first, last = int(ids.min()), int(ids.max())
        for segment in self.segments:
            if segment.first <= last and first <= segment.last:
                np.maximum(scores, segment.index.similarity(query, ids), out=scores)
        return scores

    def vectors(self, ids: Ids, dim: int) -> Vectors:
        """The stored rows (len(ids), dim) as float32; zeros for an unknown id."""
        rows = np.zeros((len(ids), dim), np.float32)
        for segment in self.segments:
            index = segment.index
            places = index.ids.searchsorted(ids)
            here = np.flatnonzero(index.ids.take(places, mode="clip") == ids)
            if len(here):
                # as bytes: numpy would copy all rows to gather some of unaligned, mapped ones
                codes = index.vectors.view(np.uint8)[places[here]]
                rows[here] = codes.view(np.float16)
        return rows

    def _without(self, removed: Ids) -> Dense:
        gone = removed[removed < len(self.live)]
        gone = np.unique(gone[self.live[gone]])
        if not len(gone):
            return self
        live = self.live.copy()
        live[gone] = False
        segments: list[Segment] = []
        for segment in self.segments:
            ids = segment.index.ids
            some = gone[(gone >= segment.first) & (gone <= segment.last)]
            at = ids.searchsorted(some)
            less = int(np.count_nonzero(ids[at] == some)) if len(some) else 0
            counted = replace(segment, removed=segment.removed + less) if less else segment
            if segment.sealed is None and counted.removed > _REBUILD_SHARE * len(ids):
                segments += self._joined([counted], live)
            elif len(counted):
                segments.append(counted)
        return replace(self, segments=tuple(segments), live=live)

    def _joined(self, parts: Sequence[Segment], live: Bitmap, above: int = -1) -> list[Segment]:
        """One segment in memory of the live rows with ids above `above`; none if there are none."""
        ids = np.concatenate([live_ids(s, live, above) for s in parts])
        if not len(ids):
            return []
        rows = np.concatenate(
            [block for s in parts for block in live_vectors([s], live, above=above)]
        )
        return [Segment(FlatIndex.build(ids, rows, metric=self.metric))]


def _to_merge(older: Segment, younger: Segment) -> bool:
    in_memory = older.sealed is None and younger.sealed is None
    return in_memory and len(older.index.ids) < _TAIL_RATIO * len(younger.index.ids)


def live_ids(segment: Segment, live: Bitmap, above: int = -1) -> Ids:
    """Ids of the segment's live rows above `above`."""
    ids = segment.index.ids
    ids = ids[int(np.searchsorted(ids, above, "right")) :]
    return ids[live[ids]]


def live_vectors(
    segments: Iterable[Segment], live: Bitmap, *, above: int = -1, block: int = 65_536
) -> Iterable[Float16Vectors]:
    """The live rows of segments in order, at most `block` at a time."""
    for segment in segments:
        ids, vectors = segment.index.ids, segment.index.vectors
        # as bytes: see `Dense.vectors`
        codes = vectors.view(np.uint8)
        for at in range(int(np.searchsorted(ids, above, "right")), len(ids), block):
            here = slice(at, at + block)
            keep = live[ids[here]]
            yield (codes[here] if keep.all() else codes[here][keep]).view(np.float16)
