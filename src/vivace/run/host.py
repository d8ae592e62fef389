"""What does this machine allow this process?"""

from __future__ import annotations

import os
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
    """CPUs the cgroups (version 1 or 2) allow, as a fraction; None where they set no limit.

    A group is limited by its ancestors too, so the least on the way up counts. In a container the
    path may name groups that are not mounted: those files are missing and set no limit.
    """
    limits: list[float] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            mounts = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
            read = _quota_v2
        elif "cpu" in controllers.split(","):
            mounts = [root / "sys/fs/cgroup" / name for name in (controllers, "cpu")]
            read = _quota_v1
        else:
            continue
        folders = [mount / above for mount in mounts for above in _way_up(group)]
        limits += [limit for limit in map(read, folders) if limit is not None]
    return min(limits, default=None)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows


def _way_up(group: str) -> list[PurePosixPath]:
    """The group and its ancestors, relative to the mount; a namespace shows `..` for outer ones."""
    parts = [part for part in PurePosixPath(group).parts if part not in ("/", "..")]
    return [PurePosixPath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _quota_v2(folder: Path) -> float | None:
    limit, _, period = _read(folder / "cpu.max").strip().partition(" ")
    return _ratio(limit, period or "100000")


def _quota_v1(folder: Path) -> float | None:
    limit, period = (_read(folder / f"cpu.cfs_{kind}_us").strip() for kind in ("quota", "period"))
    return _ratio(limit, period)


def _ratio(limit: str, period: str) -> float | None:
    """Neither `max`, -1 nor an unreadable file is a limit."""
    if limit.isdigit() and period.isdigit() and int(limit) and int(period):
        return int(limit) / int(period)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
