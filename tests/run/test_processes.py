"""Work in processes that can be killed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vivace.errors import Closed, DeadlineExceeded
from vivace.run.pools import ProcessPool, ProcessTask
from vivace.run.work import work_context
from vivace.run.worker_process import (
    TaskLimits,
    WorkerDied,
    WorkerError,
    WorkerFlooded,
    WorkerOutOfMemory,
    WorkerTimeout,
    WorkFailed,
)

COMMAND = [sys.executable, "-P", str(Path(__file__).with_name("hostile_worker.py"))]
LIMITS = TaskLimits(seconds=60, memory_bytes=128 << 20, output_bytes=16 << 20)
HASTY = TaskLimits(seconds=1.5, memory_bytes=128 << 20, output_bytes=16 << 20)

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limits are Linux's")


@pytest.fixture
def make() -> Iterator[Callable[..., ProcessPool]]:
    with contextlib.ExitStack() as pools:

        def make(limits: TaskLimits = LIMITS, workers: int = 1, idle: float = 60) -> ProcessPool:
            pool = ProcessPool(
                COMMAND, workers=workers, limits=limits, name="hostile", idle_seconds=idle
            )
            pools.callback(pool.close)
            return pool

        yield make


def ended(pid: int) -> bool:
    """Waits (at most 30 s) until a process that need not be ours has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 30)[0])
    finally:
        os.close(descriptor)


def outcome(task: ProcessTask) -> tuple[list[bytes], WorkerError]:
    frames: list[bytes] = []
    with pytest.raises(WorkerError) as raised:
        frames.extend(task)  # keeps what came before the error
    return frames, raised.value


def test_frames_come_in_order_from_one_warm_worker(make: Callable[..., ProcessPool]) -> None:
    pool = make()
    big = b"x" * (3 << 20)
    tasks = [pool.submit(b"echo " + body) for body in (b"a,b", b"", big, b"c")]
    assert [list(task) for task in tasks] == [[b"a", b"b"], [b""], [big], [b"c"]]
    assert list(tasks[0]) == []  # iterating again ends at once
    statistics = pool.statistics()
    assert (pool.started, pool.processes, statistics.done) == (1, 1, 4)
    pool.close()
    assert pool.processes == 0


def test_workers_are_started_as_needed(make: Callable[..., ProcessPool]) -> None:
    pool = make(workers=3)
    assert pool.started == 0
    first, second = pool.submit(b"family"), pool.submit(b"family")
    assert {len(next(iter(task))) > 0 for task in (first, second)} == {True}
    assert pool.started == 2
    assert list(pool.submit(b"echo third")) == [b"third"]
    assert pool.started == 3


@linux
@pytest.mark.parametrize(
    ("name", "limits", "error", "said"),
    [
        ("hang", HASTY, WorkerTimeout, "over 1.5 s"),
        ("family", HASTY, WorkerTimeout, "over 1.5 s"),
        ("kill", LIMITS, WorkerDied, "SIGKILL"),
        ("crash", LIMITS, WorkerDied, "SIGSEGV"),
        ("exit", LIMITS, WorkerDied, "exit status 7: the last words"),
        ("orphan", LIMITS, WorkerDied, "exit status 5"),
        ("refused", LIMITS, WorkerOutOfMemory, "over 128 MiB"),
        ("leak", LIMITS, WorkerOutOfMemory, "over 128 MiB"),
        ("touch", LIMITS, WorkerOutOfMemory, "over 128 MiB"),
        ("flood", LIMITS, WorkerFlooded, "returned more than it may"),
        ("print", LIMITS, WorkerFlooded, "printed over 16 MiB"),
    ],
)
def test_a_bad_task_costs_only_itself_and_its_worker(
    make: Callable[..., ProcessPool],
    name: str,
    limits: TaskLimits,
    error: type[WorkerError],
    said: str,
) -> None:
    pool = make(limits)
    before, bad, after = (pool.submit(t) for t in (b"echo 1", name.encode(), b"echo 2"))
    assert list(before) == [b"1"]
    frames, found = outcome(bad)
    assert type(found) is error
    assert said in str(found)
    # the worker, and in "family" and "orphan" the child that it started
    assert all(ended(int(frame)) for frame in frames[:2] if name != "flood" or len(frame) < 10)
    assert list(after) == [b"2"]
    statistics = pool.statistics()
    assert (statistics.done, statistics.failed, pool.started) == (2, 1, 2)


def test_a_worker_gets_none_of_our_settings(
    make: Callable[..., ProcessPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIVACE_GENERATE__API_KEY", "sk-secret")
    monkeypatch.setenv("OTHER_NAME", "1")
    assert list(make().submit(b"environment"))[1:] == [b"OTHER_NAME"]


def test_an_exception_costs_no_worker(make: Callable[..., ProcessPool]) -> None:
    pool = make()
    frames, error = outcome(pool.submit(b"raise"))
    assert type(error) is WorkFailed
    assert "ValueError: no good" in str(error)
    assert list(pool.submit(b"echo 1")) == [b"1"]
    assert pool.started == 1
    assert len(frames) == 1


def test_a_task_gets_nothing_of_our_standard_input(make: Callable[..., ProcessPool]) -> None:
    assert list(make().submit(b"read"))[1] == b""


@linux
def test_an_idle_worker_that_was_killed_is_replaced(make: Callable[..., ProcessPool]) -> None:
    pool = make()
    frames, _ = outcome(pool.submit(b"raise"))
    os.kill(int(frames[0]), signal.SIGKILL)
    assert ended(int(frames[0]))
    assert list(pool.submit(b"echo 1")) == [b"1"]
    assert pool.started == 2


@linux
def test_an_idle_worker_is_stopped(make: Callable[..., ProcessPool]) -> None:
    pool = make(idle=0.01)
    frames, _ = outcome(pool.submit(b"raise"))
    assert ended(int(frames[0]))
    assert list(pool.submit(b"echo 1")) == [b"1"]


@linux
def test_closing_kills_what_runs_and_fails_what_waits(make: Callable[..., ProcessPool]) -> None:
    pool = make()
    running, waiting = pool.submit(b"family"), pool.submit(b"echo 1")
    frames = iter(running)
    pids = [int(next(frames)), int(next(frames))]
    pool.close()
    with pytest.raises(Closed):
        next(frames)
    with pytest.raises(Closed):
        list(waiting)
    with pytest.raises(Closed):
        pool.submit(b"echo 2")
    assert all(map(ended, pids))
    pool.close()


@linux
def test_cancelling_kills_the_worker(make: Callable[..., ProcessPool]) -> None:
    pool = make()
    running, waiting, after = (pool.submit(task) for task in (b"family", b"family", b"echo 1"))
    frames = iter(running)
    pids = [int(next(frames)), int(next(frames))]
    waiting.cancel()
    assert sum(pool.statistics().queued.values()) == 1
    running.cancel()
    with pytest.raises(Closed):
        list(frames)
    with pytest.raises(Closed):
        list(waiting)
    assert all(map(ended, pids))
    assert list(after) == [b"1"]
    tasks = pool.statistics()
    assert (tasks.done, tasks.failed, tasks.cancelled) == (1, 0, 2)


@linux
def test_a_pool_that_shrinks_ends_processes_after_their_task(
    make: Callable[..., ProcessPool],
) -> None:
    pool = make(workers=2)
    tasks = [pool.submit(b"family") for _ in range(2)]
    pids = [int(next(iter(task))) for task in tasks]
    pool.resize(1)
    assert pool.size == 1
    later = pool.submit(b"echo 1")
    for task in tasks:
        task.cancel()
    assert all(map(ended, pids))
    assert list(later) == [b"1"]
    pool.resize(2)
    assert list(pool.submit(b"echo 2")) == [b"2"]


def test_an_expired_task_never_begins(make: Callable[..., ProcessPool]) -> None:
    pool = make()
    with work_context(seconds=-1):
        late = pool.submit(b"echo 1")
    with pytest.raises(DeadlineExceeded):
        list(late)
    assert pool.started == 0


def test_a_worker_that_does_not_start_fails_its_task() -> None:
    for command, said in (
        ([sys.executable, "-c", "raise SystemExit('no such luck')"], "no such luck"),
        (["/no/such/program"], "no worker could be started"),
    ):
        pool = ProcessPool(command, workers=1, limits=LIMITS, name="hostile")
        try:
            frames, error = outcome(pool.submit(b"echo 1"))
        finally:
            pool.close()
        assert not frames
        assert type(error) is WorkerDied
        assert said in str(error)
        assert pool.processes == 0


@linux
@pytest.mark.parametrize("task", ["hang", "family"])
def test_no_worker_outlives_its_parent(task: str) -> None:
    code = (
        "import sys\n"
        "from vivace.run.worker_process import TaskLimits\n"
        "from vivace.run.pools import ProcessPool\n"
        "limits = TaskLimits(600, 1 << 30, 1 << 20)\n"
        "pool = ProcessPool(sys.argv[2:], workers=1, limits=limits, name='orphan')\n"
        "for frame in pool.submit(sys.argv[1].encode()):\n"
        "    print(frame.decode(), flush=True)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, task, *COMMAND], stdout=subprocess.PIPE, text=True
    )
    pid = 0
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        assert ended(pid)
    finally:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
        if task == "family" and pid:  # its child is out of our reach, as a shell's is
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
