"""How hard is this machine at work, and how much of that are we? Cheap to read, nothing is kept.

Every reading takes a `root`, where `proc` and `sys` are looked for. What a system does not tell is
None: only Linux has these files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vivace.run.host import ROOT, Group, cores, groups, read

_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_UNLIMITED: Final = 1 << 60
"""Version 1 writes the largest number of pages where it sets no limit."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, of the group that leaves the least; of the machine where no group sets a limit."""

    limit: int
    used: int
    """What cannot be had back: page cache of files that were not touched lately is not counted."""

    @property
    def free(self) -> int:
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class Throttling:
    """Since the group was made: how often its quota was used up before the period was."""

    periods: int
    throttled: int
    seconds: float
    """That its threads stood still in sum."""


@dataclass(frozen=True, slots=True)
class Process:
    """Bytes and name of one process. `resident` counts shared pages by their share, if told."""

    pid: int
    name: str
    resident: int


@dataclass(frozen=True, slots=True)
class RunQueue:
    """Threads that want to run and cannot."""

    stalled: float | None
    """Share of the last ten seconds in which some thread waited for a core (PSI); of our group
    where it is told, else of the machine."""
    load: float | None
    """Runnable threads of the machine a core, over the last minute."""
    waited: float | None
    """Seconds that our own threads have waited for a core since the start; take differences."""


def memory(root: Path = ROOT) -> Memory | None:
    """The tightest of our groups (versions 1 and 2, ancestors too) and the machine."""
    found = [one for group in groups("memory", root) if (one := _of_group(group)) is not None]
    if (machine := _of_machine(root)) is not None:
        # a limit above what the machine has is none
        found = [one for one in found if one.limit < machine.limit] or [machine]
    return min(found, key=lambda one: one.free, default=None)


def run_queue(root: Path = ROOT) -> RunQueue:
    """How much threads wait for cores."""
    load = _number(read(root / "proc/loadavg").partition(" ")[0])
    waits = [
        int(fields[1])
        for path in _tasks(root)
        if len(fields := read(path / "schedstat").split()) > 1 and fields[1].isdigit()
    ]
    return RunQueue(
        stalled=_stalled(root),
        load=None if load is None else load / cores(root),
        waited=sum(waits) / 1e9 if waits else None,
    )


def throttling(root: Path = ROOT) -> Throttling | None:
    """Of the nearest group with a quota's statistics; None where there is none."""
    for group in groups("cpu", root):
        values = _table(group.folder / "cpu.stat")
        if values.get("nr_periods"):
            stood = values.get("throttled_usec", 0) * 1_000 + values.get("throttled_time", 0)
            return Throttling(values["nr_periods"], values.get("nr_throttled", 0), stood / 1e9)
    return None


def processes(root: Path = ROOT) -> list[Process]:
    """This process first, then its children and theirs. Reads a file or two for each."""
    own = (root / "proc/self").resolve().name
    pid = int(own) if own.isdigit() else os.getpid()
    return list(_tree(root, pid, set()))


def _tree(root: Path, pid: int, seen: set[int]) -> Iterator[Process]:
    folder = root / "proc" / str(pid)
    resident = _resident(folder)
    if pid in seen or resident is None:  # it has ended
        return
    seen.add(pid)
    yield Process(pid, read(folder / "comm").strip(), resident)
    for task in _folders(folder / "task"):
        for child in read(task / "children").split():
            yield from _tree(root, int(child), seen)


def _resident(folder: Path) -> int | None:
    """Proportional where the kernel tells: forked processes share most of their pages."""
    for line in read(folder / "smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    pages = read(folder / "statm").split()
    return int(pages[1]) * _PAGE if len(pages) > 1 else None


def _of_group(group: Group) -> Memory | None:
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
    return Memory(int(limit), max(0, int(used) - reclaimable))


def _of_machine(root: Path) -> Memory | None:
    values = _table(root / "proc/meminfo")
    total, available = values.get("MemTotal"), values.get("MemAvailable")
    if total is None or available is None:
        return None
    return Memory(total << 10, (total - available) << 10)


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


def _tasks(root: Path) -> list[Path]:
    return _folders(root / "proc/self/task")


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:  # it has ended, or this system has none
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
