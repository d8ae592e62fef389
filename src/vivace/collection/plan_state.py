"""A collection's plan: as stored in `plan.json`, what it means for segments, and which one holds.

The file is not the truth: without it, or with a damaged one, the defaults hold and every chunk is
still found.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from vivace.collection.checksummed_json import ChecksummedJson, signature
from vivace.collection.dense import Segment
from vivace.errors import CorruptIndex, MissingExtra, StoreUnwritable
from vivace.index import segments
from vivace.index.flat import FlatIndex
from vivace.settings import Index
from vivace.trace import Trace
from vivace.types import Decision, Objective, Plan

logger = logging.getLogger("vivace.collection")

FILE: Final = "plan.json"
DAMAGED: Final = FILE + ".damaged"
"""The name under which a damaged file is kept."""
POLL_SECONDS: Final = 1.0
"""Longest time until another process's plan is noticed."""
LARGEST: Final = 262_144
"""Rows above which segments of scanned codes are not merged: coarse codes lose recall over more
(0.99 is reached at 200,000 rows, not at a million), and no merge takes longer than seconds."""
LARGEST_NAVIGATED: Final = 1_048_576
"""The same for families that do not look at every row: searching two segments costs nearly twice as
much as one, but building grows faster than the rows, to ten minutes of a core at a million, and one
merge delays the next."""
FLAT_UP_TO: Final = 8_000
"""Rows up to which exact float16 search is cheap (0.4 ms of CPU on the machine measured). Above,
codes with exact rescoring cost less than half, find the same (recall@50 0.9997) and are built in
half a second. A segment that was sealed when it was full is above."""
_NAVIGATED: Final = frozenset({"ivf", "hnsw", "graph"})
_OWN_SHARE: Final = 2
"""A segment with at least 1 / `_OWN_SHARE` of the rows that a plan was measured on follows the
plan, however few they are. A flat plan holds up to `_OWN_SHARE` times those rows: its cost grows
with the rows."""
Grounds: TypeAlias = Literal["default", "setting", "plan"]


class StoredPlan(msgspec.Struct, frozen=True):
    """A plan, with the objective and the data it was made for.

    If only the stages were tuned, the plan's family is empty and segments follow the defaults.
    """

    plan: Plan
    objective: Objective = Objective()
    rows: int = 0
    """Live rows that it was measured on; 0 if nothing was measured."""
    source: str = ""
    """Where its questions came from: `tune.workload.QuestionSource`; empty if there were none."""
    time: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))


PLAN_FILE: Final = ChecksummedJson(
    StoredPlan, "planned", format=1, oldest=1, fix="Tune again: vivace tune --apply"
)
"""Writes and reads the file `FILE` of a collection's folder."""


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """A segment's family and parameters, and what they are based on."""

    family: str
    params: Mapping[str, int] = field(default_factory=dict)
    grounds: Grounds = "default"


@dataclass(frozen=True, slots=True)
class SegmentPolicy:
    """Chooses a segment's layout by its size: settings first, then the plan, then the defaults."""

    settings: Index
    stored: StoredPlan | None = None
    unavailable: frozenset[str] = frozenset()
    """Families whose library is not installed; the defaults replace them."""

    @property
    def largest(self) -> int:
        """Rows above which segments are not merged."""
        navigated = self.layout(LARGEST + 1).family in _NAVIGATED
        return LARGEST_NAVIGATED if navigated else LARGEST

    def layout(self, rows: int) -> SegmentLayout:
        """The layout of a segment of `rows` rows."""
        plan = self.stored.plan if self.stored else None
        if self.settings.family != "auto":
            if self._has(self.settings.family):
                fits = plan is not None and plan.family == self.settings.family
                params = plan.params if plan is not None and fits else {}
                return SegmentLayout(self.settings.family, params, "setting")
        elif plan is not None and self._has(plan.family) and self._reaches(rows):
            return SegmentLayout(plan.family, plan.params, "plan")
        return SegmentLayout("pq" if rows > FLAT_UP_TO else "flat")

    def rejects(self, segment: Segment) -> bool:
        """Whether settings or plan ask for another layout than a sealed segment has."""
        if segment.sealed is None:
            return False
        # by the rows written: later removals must not change the answer
        layout, written = self.layout(segment.sealed.files.n), segment.sealed.files
        if layout.grounds == "default":
            return False
        return (layout.family, dict(layout.params)) != (written.family, dict(written.params))

    def _has(self, family: str) -> bool:
        # a later Vivace may have made the plan
        return family in segments.FAMILIES and family not in self.unavailable

    def _reaches(self, rows: int) -> bool:
        assert self.stored is not None
        measured = self.stored.rows
        if self.stored.plan.family == FlatIndex.family:
            return rows <= max(FLAT_UP_TO, _OWN_SHARE * measured)
        # small segments are as fast exactly, and exact
        return rows > FLAT_UP_TO or 0 < measured <= _OWN_SHARE * rows


class PlanState:
    """The plan that a collection follows, kept in step with the disk.

    Changing it takes the corpus's own lock; reading it is safe from any thread.
    """

    def __init__(
        self, folder: Path, settings: Index, trace: Trace, decide: Callable[[Decision], None]
    ) -> None:
        self._folder = folder
        self._trace = trace
        self._decide = decide
        self._signature: tuple[int, int, int] | None = None
        self._explained: set[tuple[str, Grounds]] = set()
        self._polled = 0.0
        self.policy = SegmentPolicy(settings)

    @property
    def stored(self) -> StoredPlan | None:
        """None before any tuning."""
        return self.policy.stored

    @property
    def plan(self) -> Plan | None:
        return self.stored.plan if self.stored else None

    def refresh(self) -> bool:
        """Adopt the plan that another process has written; returns whether there was one."""
        path = self._folder / FILE
        found = signature(path)
        if found == self._signature:
            return False
        try:
            stored = PLAN_FILE.read(path)
        except CorruptIndex as error:
            stored = None
            # renamed only if it can be read: a file that cannot is not known to be damaged
            with suppress(OSError):
                path.read_bytes()
                path.replace(self._folder / DAMAGED)
            found = signature(path)
            self._trace.count("plan.damaged")
            self._decide(
                Decision("plan", FILE, None, f"{error.what}; the defaults hold until tuned.")
            )
            logger.warning("%s; the defaults hold until the next tuning", error.what)
        self._signature = found
        self.adopt(stored)
        return True

    def maybe_changed(self) -> bool:
        """Whether another process may have written a plan.

        Looks at the disk once in `POLL_SECONDS`, and at every call once it has found one, until
        `refresh`.
        """
        now = time.monotonic()
        if now - self._polled < POLL_SECONDS:
            return False
        if signature(self._folder / FILE) != self._signature:
            return True
        self._polled = now
        return False

    def adopt(self, stored: StoredPlan | None) -> None:
        """Follow this plan, in this process only."""
        self.policy = replace(self.policy, stored=stored)

    def keep(self, stored: StoredPlan) -> None:
        """Follow this plan, here and in every process that opens the collection.

        Raises:
            StoreUnwritable: it cannot be written; the old one still holds.
        """
        try:
            PLAN_FILE.write(self._folder / FILE, stored)
        except OSError as error:
            raise StoreUnwritable(
                f"{self._folder}: {error.strerror}", fix="Check its permissions and its disk"
            ) from error
        self._signature = signature(self._folder / FILE)
        self.adopt(stored)

    def exclude_family(self, error: MissingExtra) -> None:
        """Do without the family that settings or plan name: its library is not installed."""
        wanted: str = self.policy.settings.family
        if wanted == "auto":
            assert self.plan is not None  # the defaults need no extra
            wanted = self.plan.family
        missing = self.policy.unavailable | {wanted}
        self.policy = replace(self.policy, unavailable=missing)
        self._trace.count("segments.without_extra")
        self._decide(
            Decision("default", wanted, "by size", f"{error.what}. {error.fix}", {"wanted": wanted})
        )

    def explain(self, new: Segment, here: Collection[str]) -> None:
        """Record once why a segment has a family that is not in `here`.

        The plan's own families are left out: the decision for the plan explains them.
        """
        rows, family = len(new.index.ids), new.index.family
        grounds = self.policy.layout(rows).grounds
        if grounds == "plan" or family in here or (family, grounds) in self._explained:
            return
        self._explained.add((family, grounds))
        reason = (
            "index.family says so."
            if grounds == "setting"
            else f"Exact search is cheap up to {FLAT_UP_TO:,} chunks a segment; beyond, codes with"
            " exact rescoring cost less than half and find the same."
        )
        evidence = {"chunks": rows, "at": time.time()}
        self._decide(Decision("default", None, family, reason, evidence))
