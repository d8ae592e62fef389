"""What the kernel's files report, in made trees; that this machine's can be read; and the lag."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from vivace.run import host
from vivace.run.host import BEAT_SECONDS, FADES, EventLoopLag, MemoryUse, Throttling


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "proc/self/cgroup"


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert host.quota(tmp_path) is None
    assert host.cores(tmp_path) == host.affinity() >= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("150000 100000\n", 1.5),
        ("max 100000\n", None),
        ("200000\n", 2.0),
        ("0 100000\n", None),
        ("nonsense\n", None),
        ("100000 0\n", None),
    ],
)
def test_a_quota_of_cgroups_version_2(tmp_path: Path, text: str, expected: float | None) -> None:
    tree(tmp_path, {V2: "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": text})
    assert host.quota(tmp_path) == expected


def test_an_ancestors_limit_counts(tmp_path: Path) -> None:
    limits = {
        "sys/fs/cgroup/a/cpu.max": "50000 100000",
        "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
    }
    tree(tmp_path, {V2: "0::/a/b\n", **limits})
    assert host.quota(tmp_path) == 0.5


def test_a_container_sees_only_its_own_mount(tmp_path: Path) -> None:
    tree(tmp_path, {V2: "0::/../outer/id\n", "sys/fs/cgroup/cpu.max": "300000 100000"})
    assert host.quota(tmp_path) == 3.0


def test_a_quota_of_cgroups_version_1(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/docker/x"
    tree(
        tmp_path,
        {
            V2: "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/\nnonsense\n",
            f"{folder}/cpu.cfs_quota_us": "250000\n",
            f"{folder}/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert host.quota(tmp_path) == 2.5


def test_a_quota_is_rounded_up_and_bounded_by_the_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "affinity", lambda: 8)
    path = tmp_path / "sys/fs/cgroup/cpu.max"
    tree(tmp_path, {V2: "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000"})
    assert host.cores(tmp_path) == 2
    path.write_text("1000 100000")
    assert host.cores(tmp_path) == 1
    path.write_text("6400000 100000")
    assert host.cores(tmp_path) == 8


def test_without_an_affinity_every_cpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert host.affinity() == 1


MIB = 1 << 20
MEMINFO = {"proc/meminfo": "MemTotal: 4096 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n"}


class TestMemory:
    def test_of_the_machine(self, tmp_path: Path) -> None:
        assert host.memory(tmp_path) is None
        tree(tmp_path, {V2: "0::/\n", "sys/fs/cgroup/memory.max": "max\n", **MEMINFO})
        found = host.memory(tmp_path)
        assert found == MemoryUse(4096 << 10, 3072 << 10)
        assert found.free == 1 * MIB

    def test_version_2(self, tmp_path: Path) -> None:
        folder = "sys/fs/cgroup/a"
        files = {
            f"{folder}/memory.max": f"{2 * MIB}\n",
            f"{folder}/memory.current": f"{MIB + 4096}\n",
            f"{folder}/memory.stat": "anon 5\ninactive_file 4096\n",
        }
        tree(tmp_path, {V2: "0::/a\n", **files, **MEMINFO})
        assert host.memory(tmp_path) == MemoryUse(2 * MIB, MIB)

    def test_the_ancestor_that_leaves_less_counts(self, tmp_path: Path) -> None:
        files = {
            "sys/fs/cgroup/a/memory.max": f"{3 * MIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{3 * MIB - 1}\n",
            "sys/fs/cgroup/a/b/memory.max": f"{2 * MIB}\n",
            "sys/fs/cgroup/a/b/memory.current": "0\n",
        }
        tree(tmp_path, {V2: "0::/a/b\n", **files, **MEMINFO})
        found = host.memory(tmp_path)
        assert found is not None
        assert (found.limit, found.free) == (3 * MIB, 1)

    def test_version_1(self, tmp_path: Path) -> None:
        folder = "sys/fs/cgroup/memory/docker/x"
        files = {
            f"{folder}/memory.limit_in_bytes": f"{2 * MIB}\n",
            f"{folder}/memory.usage_in_bytes": f"{MIB}\n",
            f"{folder}/memory.stat": f"total_inactive_file {2 * MIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{MIB}\n",
        }
        tree(tmp_path, {V2: "5:memory:/docker/x\n4:cpu,cpuacct:/\n", **files})
        assert host.memory(tmp_path) == MemoryUse(2 * MIB, 0)

    def test_a_limit_above_the_machine_is_none(self, tmp_path: Path) -> None:
        files = {
            "sys/fs/cgroup/memory.max": f"{8 * MIB}\n",
            "sys/fs/cgroup/memory.current": f"{MIB}\n",
        }
        tree(tmp_path, {V2: "0::/\n", **files, **MEMINFO})
        assert host.memory(tmp_path) == MemoryUse(4096 << 10, 3072 << 10)


class TestRunQueue:
    def test_an_unknown_system_reports_nothing(self, tmp_path: Path) -> None:
        assert host.run_queue(tmp_path) == host.RunQueue(None, None, None)

    def test_everything_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host, "affinity", lambda: 4)
        files = {
            "proc/pressure/cpu": "some avg10=12.50 avg60=1 total=5\nfull avg10=0.00 total=0\n",
            "proc/loadavg": "6.00 5.00 4.00 2/300 77\n",
            "proc/self/task/1/schedstat": "10 2000000000 3\n",
            "proc/self/task/2/schedstat": "10 500000000 3\n",
        }
        tree(tmp_path, files)
        assert host.run_queue(tmp_path) == host.RunQueue(0.125, 1.5, 2.5)

    def test_our_groups_pressure_comes_first(self, tmp_path: Path) -> None:
        files = {
            "proc/pressure/cpu": "some avg10=90.00 avg60=1 total=5\n",
            "sys/fs/cgroup/a/cpu.pressure": "some avg10=10.00 avg60=1 total=5\n",
        }
        tree(tmp_path, {V2: "0::/a\n", **files})
        assert host.run_queue(tmp_path).stalled == 0.1


def test_throttling_is_read_from_both_versions(tmp_path: Path) -> None:
    assert host.throttling(tmp_path) is None
    path = "sys/fs/cgroup/a/cpu.stat"
    tree(tmp_path, {V2: "0::/a\n", path: "usage_usec 9\nnr_periods 0\nnr_throttled 0\n"})
    assert host.throttling(tmp_path) is None
    tree(tmp_path, {path: "nr_periods 10\nnr_throttled 4\nthrottled_usec 1500000\n"})
    assert host.throttling(tmp_path) == Throttling(10, 4, 1.5)
    # version 1 counts nanoseconds
    tree(tmp_path, {path: "nr_periods 10\nnr_throttled 4\nthrottled_time 2500000000\n"})
    assert host.throttling(tmp_path) == Throttling(10, 4, 2.5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_can_be_read() -> None:
    memory = host.memory()
    assert memory is not None
    assert 0 < memory.used < memory.limit
    queue = host.run_queue()
    assert queue.load is not None
    assert queue.waited is not None


async def test_the_lag_shows_a_blocked_loop() -> None:
    with EventLoopLag() as lag:
        await asyncio.sleep(2 * BEAT_SECONDS)
        time.sleep(0.1)  # noqa: ASYNC251
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert lag.seconds > 0.1 - 2 * BEAT_SECONDS


def test_the_greatest_lag_fades() -> None:
    lag = EventLoopLag()
    lag.observe(0.08)
    lag.observe(0.01)
    assert lag.seconds == pytest.approx(0.08 * FADES)
    for _ in range(200):
        lag.observe(0.001)
    assert lag.seconds == pytest.approx(0.001)


async def test_the_lag_stops_measuring_at_exit() -> None:
    lag = EventLoopLag()
    with lag:
        pass
    assert len(asyncio.all_tasks()) == 1
    await asyncio.sleep(2 * BEAT_SECONDS)
    assert lag.seconds == 0
