"""The plan of a collection as the disk has it: `plan.json`, replaced as a whole.

No truth: without it, or with a damaged one, the defaults hold, and everything is still found.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from vivace.collection.checked import Checked
from vivace.types import Objective, Plan

FILE = "plan.json"
ASIDE = FILE + ".damaged"
FORMAT = 1
OLDEST = 1
"""A Vivace that knows this format can read what this one writes."""
Signature: TypeAlias = tuple[int, int, int]
_ABSENT: Signature = (0, 0, 0)


class Planned(msgspec.Struct, frozen=True):
    """A plan, and what it was made for and on.

    Where only the stages were chosen, the plan's family is empty: segments are shaped and asked as
    before any plan.
    """

    plan: Plan
    objective: Objective = Objective()
    rows: int = 0
    """Live rows that it was measured on; 0 where nothing was measured."""
    source: str = ""
    """Of the questions: `tune.tuning.Source`; empty where there were none."""
    time: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))


_FILE: Final = Checked(Planned, "planned", FORMAT, OLDEST, "Tune again: vivace tune --apply")


def write(folder: Path, planned: Planned) -> None:
    """Make it the collection's plan, durable.

    Raises:
        OSError: it cannot be written; the one before still holds.
    """
    _FILE.write(folder / FILE, planned)


def read(folder: Path) -> Planned | None:
    """The collection's plan; None where there is no file.

    Raises:
        CorruptIndex: it is damaged, or of a format that this Vivace does not read.
    """
    return _FILE.read(folder / FILE)


def put_aside(folder: Path) -> None:
    """Keep a damaged file under another name; where that cannot be, leave it.

    One that may not be read, or not now, is not known to be damaged.
    """
    with suppress(OSError):
        (folder / FILE).read_bytes()
        (folder / FILE).replace(folder / ASIDE)


def signature(folder: Path) -> Signature:
    """Changes with every `write`, also another process's."""
    try:
        status = os.stat(folder / FILE)
    except OSError:
        return _ABSENT
    return status.st_ino, status.st_mtime_ns, status.st_size
