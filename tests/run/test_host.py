from __future__ import annotations

import os
from pathlib import Path

import pytest

from vivace.run import host


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "proc/self/cgroup"


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert host.quota(tmp_path) is None
    assert host.cores(tmp_path) == host._affinity() >= 1


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
def test_version_2(tmp_path: Path, text: str, expected: float | None) -> None:
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


def test_version_1(tmp_path: Path) -> None:
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
    monkeypatch.setattr(host, "_affinity", lambda: 8)
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
    assert host._affinity() == 1
