"""Work that may hang, leak, crash or flood, done in processes that can be killed.

A task is bytes in, frames of bytes out. Workers start with a clean interpreter, are reused, and are
replaced when one had to be killed: a bad task costs itself and the start of a process. Each worker
has one thread here that starts it, watches it and kills it. The kernel kills a worker when that
thread ends (PR_SET_PDEATHSIG), so the thread ends its worker before it ends itself.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from vivace.errors import Closed, VivaceError
from vivace.run import work
from vivace.run.confined import Confined, TaskLimits, WorkerDied, WorkFailed
from vivace.run.crew import Crew, Statistics, Worker
from vivace.run.fair_queue import Waiter
from vivace.run.work import Priority


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """`alive` are worker processes now, `started` all there ever were."""

    alive: int
    started: int
    peak_bytes: int
    """Most resident memory seen in any worker; 0 where the system does not tell."""
    tasks: Statistics


_Item: TypeAlias = bytes | VivaceError | None


class Task(Waiter):
    """One piece of work. Iterate to get its frames as they come.

    Raises:
        WorkerError: see its subclasses; raised after the frames that came before.
        DeadlineExceeded: its deadline passed before it began.
        Closed: it was cancelled, or the pool was closed first.
    """

    __slots__ = ("_crew", "_items", "cancelled", "request")

    def __init__(self, request: bytes, crew: Crew[Task]) -> None:
        super().__init__(work.current())
        self.request = request
        self.cancelled = False
        self._crew = crew
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            item = self._items.get()
            if isinstance(item, bytes):
                yield item
                continue
            self._items.put(item)  # for whoever iterates again
            if item is None:
                return
            raise item

    @property
    def unwanted(self) -> bool:
        return self.cancelled

    def cancel(self) -> None:
        """Nobody wants the result: it never begins, or its worker is killed. Does not wait."""
        self.cancelled = True
        for task in self._crew.withdraw((self,)):
            task.put(Closed(self._crew.name))

    def put(self, item: _Item) -> None:
        self._items.put(item)


class ProcessPool:
    """At most `workers` processes of `command`, each started when first needed.

    Args:
        command: a program that calls `vivace.run.worker.serve`.
        idle_seconds: a worker without work for so long is stopped.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        workers: int,
        limits: TaskLimits,
        name: str,
        idle_seconds: float = 60.0,
    ) -> None:
        self._crew: Crew[Task] = Crew(name, workers, self._worker, _deliver)
        self._command = list(command)
        self._limits = limits
        self._idle = idle_seconds
        self._counts = _Counts()

    @property
    def workers(self) -> int:
        """How many tasks may run at once."""
        return self._crew.size

    def submit(self, request: bytes) -> Task:
        """Queue a task; at most `workers` run at once, as `run.fair_queue` has it: by the priority,
        the deadline and the user of `work.current()`.

        Raises:
            Closed: the pool is closed.
        """
        task = Task(request, self._crew)
        self._crew.submit((task,))
        return task

    def resize(self, workers: int) -> None:
        """At most so many processes, at least 1; those too many end after their task."""
        self._crew.resize(workers)

    def bound(self, priority: Priority, workers: int | None) -> None:
        """At most so many processes do work of this priority or less urgent; None is no bound."""
        self._crew.bound(priority, workers)

    def statistics(self) -> ProcessStatistics:
        return self._counts.statistics(self._crew.statistics())

    def close(self) -> None:
        """Kill every worker and wait for it; fail what is queued or running. Idempotent."""
        self._crew.close()

    def _worker(self) -> _Process:
        return _Process(self._command, self._limits, self._idle, self._crew, self._counts)


class _Counts:
    """Of all the processes of a pool."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alive = self._started = self._peak = 0

    def began(self) -> None:
        with self._lock:
            self._started += 1
            self._alive += 1

    def ended(self) -> None:
        with self._lock:
            self._alive -= 1

    def seen(self, peak: int) -> None:
        with self._lock:
            self._peak = max(self._peak, peak)

    def statistics(self, tasks: Statistics) -> ProcessStatistics:
        with self._lock:
            return ProcessStatistics(self._alive, self._started, self._peak, tasks)


class _Process(Worker[Task]):
    """One thread's process, if it has one just now."""

    def __init__(
        self,
        command: Sequence[str],
        limits: TaskLimits,
        idle_seconds: float,
        crew: Crew[Task],
        counts: _Counts,
    ) -> None:
        self._command = command
        self._limits = limits
        self._idle = idle_seconds
        self._crew = crew
        self._counts = counts
        self._process: Confined | None = None

    def run(self, batch: list[Task]) -> None:
        (task,) = batch
        try:
            process = self._started(task)
            unwanted = partial(self._unwanted, task)
            for frame in process.run(task.request, self._limits, unwanted):
                task.put(frame)
        except VivaceError as error:
            task.error = error
        except OSError as error:
            # no process, no pipe: the machine is out of something; the task fails alone
            task.error = WorkerDied(f"{self._crew.name}: no worker could be started: {error}")
        if self._process is None:
            return
        self._counts.seen(self._process.peak)
        lives_on = task.error is None or isinstance(task.error, WorkFailed)
        if not lives_on or self._process.swollen(self._limits.memory_bytes):
            self.end()

    def rest(self) -> None:
        self.end()

    def end(self) -> None:
        process, self._process, self.patience = self._process, None, None
        if process is not None:
            process.kill()
            self._counts.ended()

    def _started(self, task: Task) -> Confined:
        if self._process is not None and self._process.running:
            return self._process
        self.end()
        self._counts.began()
        try:
            process = Confined(self._command, self._crew.name, self._limits.memory_bytes)
            try:
                process.wait_until_ready(partial(self._unwanted, task))
            except BaseException:
                process.kill()
                raise
        except BaseException:
            self._counts.ended()
            raise
        self._process, self.patience = process, self._idle
        return process

    def _unwanted(self, task: Task) -> bool:
        return self._crew.closed or task.cancelled


def _deliver(tasks: Sequence[Task]) -> None:
    for task in tasks:
        assert task.error is None or isinstance(task.error, VivaceError)
        task.put(task.error)
