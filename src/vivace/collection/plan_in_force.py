"""The plan a collection is searched and sealed by, in step with the disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from vivace.collection import planned as plans
from vivace.collection.dense import Segment
from vivace.collection.planned import Planned
from vivace.collection.shaping import FLAT_UP_TO, Grounds, Shaping
from vivace.errors import CorruptIndex, MissingExtra, StoreUnwritable
from vivace.settings import Index
from vivace.trace import Trace
from vivace.types import Decision, Plan

logger = logging.getLogger("vivace.collection")

LOOKED_AT_EACH: Final = 1.0
"""Seconds until a plan of another process is noticed, at most."""


class PlanInForce:
    """Changing it belongs to whoever changes the corpus; reading is safe from any thread."""

    def __init__(
        self, folder: Path, settings: Index, trace: Trace, decide: Callable[[Decision], None]
    ) -> None:
        self._folder = folder
        self._trace = trace
        self._decide = decide
        self._signature: plans.Signature | None = None
        self._told: set[tuple[str, Grounds]] = set()
        self._looked = 0.0
        self.shaping = Shaping(settings)

    @property
    def planned(self) -> Planned | None:
        """None before any tuning."""
        return self.shaping.planned

    @property
    def plan(self) -> Plan | None:
        return self.planned.plan if self.planned else None

    def notice(self) -> bool:
        """Take over what another process has kept, if it has; whether it had."""
        signature = plans.signature(self._folder)
        if signature == self._signature:
            return False
        try:
            found = plans.read(self._folder)
        except CorruptIndex as error:
            found = None
            plans.put_aside(self._folder)
            signature = plans.signature(self._folder)
            self._trace.count("plan.damaged")
            self._decide(
                Decision("plan", plans.FILE, None, f"{error.what}; the defaults hold until tuned.")
            )
            logger.warning("%s; the defaults hold until the next tuning", error.what)
        self._signature = signature
        self.adopt(found)
        return True

    def perhaps_changed(self) -> bool:
        """Whether another process may have kept a plan; looks at the disk once a second at most,
        and each time until a plan that it found is noticed."""
        now = time.monotonic()
        if now - self._looked < LOOKED_AT_EACH:
            return False
        if plans.signature(self._folder) != self._signature:
            return True
        self._looked = now
        return False

    def adopt(self, planned: Planned | None) -> None:
        """In force from now on, in this process."""
        self.shaping = replace(self.shaping, planned=planned)

    def keep(self, planned: Planned) -> None:
        """In force from now on, here and for whoever opens the collection.

        Raises:
            StoreUnwritable: it cannot be written; the one before still holds.
        """
        try:
            plans.write(self._folder, planned)
        except OSError as error:
            raise StoreUnwritable(
                f"{self._folder}: {error.strerror}", fix="Check its permissions and its disk"
            ) from error
        self._signature = plans.signature(self._folder)
        self.adopt(planned)

    def lack(self, error: MissingExtra) -> None:
        """Do without the family that settings or plan name."""
        wanted: str = self.shaping.settings.family
        if wanted == "auto":
            assert self.plan is not None  # the defaults need no extra
            wanted = self.plan.family
        missing = self.shaping.unavailable | {wanted}
        self.shaping = replace(self.shaping, unavailable=missing)
        self._trace.count("segments.without_extra")
        self._decide(
            Decision("default", wanted, "by size", f"{error.what}. {error.fix}", {"wanted": wanted})
        )

    def tell(self, new: Segment, here: Collection[str]) -> None:
        """Say on what grounds a segment has a family that is not among those `here`; once.

        Where it is the plan's, the decision for the plan has said so.
        """
        rows, family = len(new.index.ids), new.index.family
        grounds = self.shaping.of(rows).grounds
        if grounds == "plan" or family in here or (family, grounds) in self._told:
            return
        self._told.add((family, grounds))
        reason = (
            "index.family says so."
            if grounds == "setting"
            else f"Exact search is cheap up to {FLAT_UP_TO:,} chunks a segment; beyond, codes with"
            " exact rescoring cost less than half and find the same."
        )
        evidence = {"chunks": rows, "at": time.time()}
        self._decide(Decision("default", None, family, reason, evidence))
