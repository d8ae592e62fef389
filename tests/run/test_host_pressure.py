"""What the kernel's files say, in made trees; and that this machine's can be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.test_host import V2, tree
from vivace.run import host
from vivace.run.host import MemoryUse, ProcessMemory, Throttling

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
    def test_nothing_is_told(self, tmp_path: Path) -> None:
        assert host.run_queue(tmp_path) == host.RunQueue(None, None, None)

    def test_all_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host, "_affinity", lambda: 4)
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


def test_throttling(tmp_path: Path) -> None:
    assert host.throttling(tmp_path) is None
    path = "sys/fs/cgroup/a/cpu.stat"
    tree(tmp_path, {V2: "0::/a\n", path: "usage_usec 9\nnr_periods 0\nnr_throttled 0\n"})
    assert host.throttling(tmp_path) is None
    tree(tmp_path, {path: "nr_periods 10\nnr_throttled 4\nthrottled_usec 1500000\n"})
    assert host.throttling(tmp_path) == Throttling(10, 4, 1.5)
    # version 1 counts nanoseconds
    tree(tmp_path, {path: "nr_periods 10\nnr_throttled 4\nthrottled_time 2500000000\n"})
    assert host.throttling(tmp_path) == Throttling(10, 4, 2.5)


def test_a_process_and_its_children(tmp_path: Path) -> None:
    files = {
        "proc/7/comm": "vivace\n",
        "proc/7/smaps_rollup": "55-7f r\nRss: 300 kB\nPss: 200 kB\n",
        "proc/7/task/7/children": "8 \n",
        "proc/7/task/9/children": "10 11\n",
        "proc/8/comm": "worker\n",
        "proc/8/statm": "900 3 1 1 0 1 0\n",
        "proc/8/task/8/children": "",
        "proc/10/comm": "gone\n",  # ended between two looks
        "proc/11/comm": "worker\n",
        "proc/11/statm": "900 2 1 1 0 1 0\n",
    }
    tree(tmp_path, files)
    (tmp_path / "proc/self").symlink_to("7")
    assert host.processes(tmp_path) == [
        ProcessMemory(7, "vivace", 200 << 10),
        ProcessMemory(8, "worker", 3 * host._PAGE),
        ProcessMemory(11, "worker", 2 * host._PAGE),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = host.processes()
        assert found[0].resident > 5 * MIB
        assert child.pid in {process.pid for process in found}
    finally:
        child.communicate()
    memory = host.memory()
    assert memory is not None
    assert 0 < memory.used < memory.limit
    queue = host.run_queue()
    assert queue.load is not None
    assert queue.waited is not None
