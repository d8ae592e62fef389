"""What does this machine allow this process?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import ceil
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def cores(root: Path = ROOT) -> int:
    """CPUs this process may use: its affinity or its cgroup's quota rounded up, at least 1.

    `root` is where `proc` and `sys` are looked for.
    """
    allowed = quota(root)
    usable = _affinity()
    return usable if allowed is None else max(1, min(usable, ceil(allowed)))


def quota(root: Path = ROOT) -> float | None:
    """CPUs the cgroups (version 1 or 2) allow, as a fraction; None where they set no limit."""
    found = (
        (_quota_v2 if group.version == 2 else _quota_v1)(group.folder)
        for group in groups("cpu", root)
    )
    return min((limit for limit in found if limit is not None), default=None)


@dataclass(frozen=True, slots=True)
class Group:
    """A cgroup that this process is in, as a folder of its controller's files."""

    version: int
    folder: Path


def groups(controller: str, root: Path = ROOT) -> list[Group]:
    """The process's own groups of a controller first, then their ancestors, whose limits hold too.

    In a container the path may name groups that are not mounted: their files are missing.
    """
    found: list[Group] = []
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
        found += [Group(version, mount / above) for mount in mounts for above in _way_up(path)]
    return found


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows


def _way_up(group: str) -> list[PurePosixPath]:
    """The group and its ancestors, relative to the mount; a namespace shows `..` for outer ones."""
    parts = [part for part in PurePosixPath(group).parts if part not in ("/", "..")]
    return [PurePosixPath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


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


def read(path: Path) -> str:
    """A small file's text; empty where it cannot be read."""
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
