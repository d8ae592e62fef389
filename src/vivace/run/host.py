"""What does this machine allow this process, and how busy are the machine and the event loop?

Every function takes a `root`, where `proc` and `sys` are looked for, and keeps nothing. Where the
system does not report a value (mostly: where it is not Linux), the value is None.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Final

ROOT = Path("/")
_UNLIMITED: Final = 1 << 60
"""Version 1 of cgroups writes the largest number of pages where it sets no limit."""
BEAT_SECONDS: Final = 0.02
"""Between two beats of `EventLoopLag`: they cost a two-thousandth of a core."""
FADES: Final = 0.97
"""What is left of the greatest lag a beat later: half of it after half a second."""


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A cgroup that this process is in, as a folder of its controller's files."""

    version: int
    folder: Path


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes, of the group that leaves the least; of the machine where no group sets a limit."""

    limit: int
    used: int
    """Without the page cache of files that were not touched lately, which can be reclaimed."""

    @property
    def free(self) -> int:
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class Throttling:
    """How often the group used up its CPU quota before the period ended, since it was made."""

    periods: int
    throttled: int
    seconds: float
    """For which its threads were stopped, in sum."""


@dataclass(frozen=True, slots=True)
class RunQueue:
    """Threads that want to run and cannot."""

    stalled: float | None
    """Share of the last ten seconds in which some thread waited for a core (PSI), of our group if
    it is reported, else of the machine."""
    load: float | None
    """Runnable threads of the machine a core, over the last minute."""
    waited: float | None
    """Seconds that our own threads have waited for a core since the start; take differences."""


# -- processors ---------------------------------------------------------------------------------


def cores(root: Path = ROOT) -> int:
    """CPUs this process may use: its affinity or its cgroup's quota rounded up, at least 1."""
    allowed = quota(root)
    usable = affinity()
    return usable if allowed is None else max(1, min(usable, ceil(allowed)))


def affinity() -> int:
    """CPUs that the process's affinity allows."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows


def quota(root: Path = ROOT) -> float | None:
    """CPUs the cgroups (version 1 or 2) allow, as a fraction; None where they set no limit."""
    found = (
        (_quota_v2 if group.version == 2 else _quota_v1)(group.folder)
        for group in groups("cpu", root)
    )
    return min((limit for limit in found if limit is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    limit, _, period = read(folder / "cpu.max").strip().partition(" ")
    return _ratio(limit, period or "100000")


def _quota_v1(folder: Path) -> float | None:
    limit, period = (read(folder / f"cpu.cfs_{kind}_us").strip() for kind in ("quota", "period"))
    return _ratio(limit, period)


def _ratio(limit: str, period: str) -> float | None:
    """Neither `max`, -1 nor an unreadable file is a limit."""
    if limit.isdigit() and period.isdigit() and int(limit) and int(period):
        return int(limit) / int(period)
    return None


def throttling(root: Path = ROOT) -> Throttling | None:
    """Of the nearest group with a quota's statistics; None where there is none."""
    for group in groups("cpu", root):
        values = _table(group.folder / "cpu.stat")
        if values.get("nr_periods"):
            stopped = values.get("throttled_usec", 0) * 1_000 + values.get("throttled_time", 0)
            return Throttling(values["nr_periods"], values.get("nr_throttled", 0), stopped / 1e9)
    return None


def run_queue(root: Path = ROOT) -> RunQueue:
    """How many threads wait for cores, and how long."""
    load = _number(read(root / "proc/loadavg").partition(" ")[0])
    waits = [
        int(fields[1])
        for path in _folders(root / "proc/self/task")
        if len(fields := read(path / "schedstat").split()) > 1 and fields[1].isdigit()
    ]
    return RunQueue(
        stalled=_stalled(root),
        load=None if load is None else load / cores(root),
        waited=sum(waits) / 1e9 if waits else None,
    )


def _stalled(root: Path) -> float | None:
    files = [group.folder / "cpu.pressure" for group in groups("cpu", root)[:1]]
    for path in (*files, root / "proc/pressure/cpu"):
        for line in read(path).splitlines():
            kind, *fields = line.split()
            values = dict(field.partition("=")[::2] for field in fields)
            share = _number(values.get("avg10", ""))
            if kind == "some" and share is not None:
                return share / 100
    return None


# -- memory -------------------------------------------------------------------------------------


def memory(root: Path = ROOT) -> MemoryUse | None:
    """The tightest of our groups (versions 1 and 2, ancestors too) and the machine."""
    found = [one for group in groups("memory", root) if (one := _of_group(group)) is not None]
    if (machine := _of_machine(root)) is not None:
        # a limit above what the machine has is none
        found = [one for one in found if one.limit < machine.limit] or [machine]
    return min(found, key=lambda one: one.free, default=None)


def _of_group(group: ControlGroup) -> MemoryUse | None:
    if group.version == 2:
        limit, used = (_number(read(group.folder / f"memory.{n}")) for n in ("max", "current"))
        idle = "inactive_file"
    else:
        names = ("limit_in_bytes", "usage_in_bytes")
        limit, used = (_number(read(group.folder / f"memory.{name}")) for name in names)
        idle = "total_inactive_file"
    if limit is None or used is None or limit >= _UNLIMITED:
        return None
    reclaimable = _table(group.folder / "memory.stat").get(idle, 0)
    return MemoryUse(int(limit), max(0, int(used) - reclaimable))


def _of_machine(root: Path) -> MemoryUse | None:
    values = _table(root / "proc/meminfo")
    total, available = values.get("MemTotal"), values.get("MemAvailable")
    if total is None or available is None:
        return None
    return MemoryUse(total << 10, (total - available) << 10)


# -- files of the kernel ------------------------------------------------------------------------


def groups(controller: str, root: Path = ROOT) -> list[ControlGroup]:
    """The process's own groups of a controller first, then their ancestors, whose limits hold too.

    In a container the path may name groups that are not mounted: their files are missing.
    """
    found: list[ControlGroup] = []
    for line in read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mounts = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
            version = 2
        elif controller in controllers.split(","):
            mounts = [root / "sys/fs/cgroup" / name for name in (controllers, controller)]
            version = 1
        else:
            continue
        found += [
            ControlGroup(version, mount / above) for mount in mounts for above in _way_up(path)
        ]
    return found


def _way_up(group: str) -> list[PurePosixPath]:
    """The group and its ancestors, relative to the mount; a namespace shows `..` for outer ones."""
    parts = [part for part in PurePosixPath(group).parts if part not in ("/", "..")]
    return [PurePosixPath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def read(path: Path) -> str:
    """A small file's text; empty where it cannot be read."""
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:  # the process has ended, or this system has none
        return []


def _table(path: Path) -> dict[str, int]:
    """`name value` or `name: value kB`, a line each."""
    rows = (line.replace(":", " ").split() for line in read(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # `max`, or nothing
        return None


# -- the event loop -----------------------------------------------------------------------------


class EventLoopLag:
    """How late timers of this event loop fire: the greatest delay lately, in seconds.

    A request waits so long before any code sees it, and once more before its answer is sent. As a
    context manager it measures between entry and exit; afterwards it keeps what it knows.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> EventLoopLag:
        self._next(asyncio.get_running_loop())
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def observe(self, seconds: float) -> None:
        """A beat was so late."""
        self.seconds = max(seconds, self.seconds * FADES)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + BEAT_SECONDS
        self._timer = loop.call_at(due, self._beat, loop, due)

    def _beat(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.observe(max(0.0, loop.time() - due))
        self._next(loop)
