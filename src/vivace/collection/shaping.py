"""Which family a sealed segment gets, and how large it may grow: the plan's, else the default's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from vivace.collection.dense import Segment
from vivace.collection.planned import Planned
from vivace.index import segments
from vivace.index.flat import FlatIndex
from vivace.settings import Index

LARGEST = 262_144
"""Rows of a segment of scanned codes beyond which nothing is merged: coarse codes lose recall over
more (0.99 is reached at 200,000 rows, not at a million), and no merge takes longer than seconds."""
LARGEST_NAVIGATED = 1_048_576
"""The same of families that do not look at every row: a search of two costs nearly twice that of
one, but building grows faster than the rows, to ten minutes of a core at a million, and one merge
holds up the next."""
FLAT_UP_TO = 8_000
"""Rows up to which exact float16 search is cheap (0.4 ms of CPU on the machine measured); beyond,
codes with exact rescoring cost less than half, find the same (recall@50 0.9997) and are built in
half a second. A segment that was sealed when it was full is beyond it."""
_NAVIGATED: Final = frozenset({"ivf", "hnsw", "graph"})
_OWN_SHARE: Final = 2
"""A segment of at least one in so many of the rows a plan was measured on is the plan's, however
few they are: that is what was measured. A flat plan reaches as far beyond them: its cost grows with
the rows, and what was fast enough then says nothing of many more."""
Grounds: TypeAlias = Literal["default", "setting", "plan"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A segment's family and parameters, and on what grounds."""

    family: str
    params: Mapping[str, int] = field(default_factory=dict)
    grounds: Grounds = "default"


@dataclass(frozen=True, slots=True)
class Shaping:
    """What decides: the settings over the plan, the plan over the defaults for a segment's size."""

    settings: Index
    planned: Planned | None = None
    unavailable: frozenset[str] = frozenset()
    """Families whose library is not installed; what names them gets the default."""

    @property
    def largest(self) -> int:
        """Rows of a segment beyond which nothing is merged."""
        navigated = self.of(LARGEST + 1).family in _NAVIGATED
        return LARGEST_NAVIGATED if navigated else LARGEST

    def of(self, rows: int) -> Shape:
        """The shape of a segment of so many rows."""
        plan = self.planned.plan if self.planned else None
        if self.settings.family != "auto":
            if self._has(self.settings.family):
                fits = plan is not None and plan.family == self.settings.family
                params = plan.params if plan is not None and fits else {}
                return Shape(self.settings.family, params, "setting")
        elif plan is not None and self._has(plan.family) and self._reaches(rows):
            return Shape(plan.family, plan.params, "plan")
        return Shape("pq" if rows > FLAT_UP_TO else "flat")

    def disowns(self, segment: Segment) -> bool:
        """Whether the plan wants a sealed segment of these rows otherwise than it is."""
        if segment.sealed is None:
            return False
        # by the rows written: what is removed later must not change the answer
        shape, files = self.of(segment.sealed.files.n), segment.sealed.files
        if shape.grounds == "default":
            return False
        return (shape.family, dict(shape.params)) != (
            files.family,
            dict(files.params),
        )

    def _has(self, family: str) -> bool:
        # a later Vivace may have made the plan
        return family in segments.FAMILIES and family not in self.unavailable

    def _reaches(self, rows: int) -> bool:
        assert self.planned is not None
        measured = self.planned.rows
        if self.planned.plan.family == FlatIndex.family:
            return rows <= max(FLAT_UP_TO, _OWN_SHARE * measured)
        # small ones are as fast exactly, and exact
        return rows > FLAT_UP_TO or 0 < measured <= _OWN_SHARE * rows
