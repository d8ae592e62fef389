"""Work that may hang, leak, crash or flood, done in processes that can be killed.

A task is bytes in, frames of bytes out. Workers start with a clean interpreter, are reused, and are
replaced when one had to be killed: a bad task costs itself and the start of a process. Each worker
has one thread here that starts it, watches it and kills it. The kernel kills a worker when that
thread ends (PR_SET_PDEATHSIG), so the thread lives as long as the pool.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from vivace.errors import Closed, VivaceError
from vivace.run.confined import Confined, TaskLimits, WorkerDied, WorkFailed


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """`alive` are worker processes now, `started` all there ever were."""

    alive: int
    started: int
    done: int
    failed: int
    peak_bytes: int
    """Most resident memory seen in any worker; 0 where the system does not tell."""


_Item: TypeAlias = bytes | VivaceError | None


class Task:
    """One piece of work. Iterate to get its frames as they come.

    Raises:
        WorkerError: see its subclasses; raised after the frames that came before.
        Closed: the pool was closed first.
    """

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.cancelled = False
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

    def cancel(self) -> None:
        """Nobody wants the result: a running worker is killed. Does not wait."""
        self.cancelled = True

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
        self.workers = workers
        self._command = list(command)
        self._limits = limits
        self._name = name
        self._idle = idle_seconds
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # Everything below is guarded by the lock.
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._free = 0
        """Threads that wait for a task, less the tasks that wait for them."""
        self._alive = self._started = self._done = self._failed = self._peak = 0

    def submit(self, request: bytes) -> Task:
        """Queue a task; at most `workers` run at once, first come first served.

        Raises:
            Closed: the pool is closed.
        """
        task = Task(request)
        with self._lock:
            if self._closed:
                raise Closed(self._name)
            if self._free < 1 and len(self._threads) < self.workers:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
                self._free += 1
            self._free -= 1
            self._queue.put(task)
        return task

    def statistics(self) -> ProcessStatistics:
        with self._lock:
            return ProcessStatistics(
                self._alive, self._started, self._done, self._failed, self._peak
            )

    def close(self) -> None:
        """Kill every worker and wait for it; fail what is queued or running. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._queue.put(None)
        for thread in self._threads:
            thread.join()
        while not self._queue.empty():
            if (task := self._queue.get()) is not None:
                task.put(Closed(self._name))

    # -- on a worker's thread -----------------------------------------------------------------

    def _work(self) -> None:
        process: Confined | None = None
        try:
            while True:
                try:
                    task = self._queue.get(timeout=self._idle if process else None)
                except queue.Empty:
                    self._stop(process)
                    process = None
                    continue
                if task is None:
                    return
                process = self._one(task, process)
                with self._lock:
                    self._free += 1
                del task  # an idle thread keeps nothing alive
        finally:
            self._stop(process)

    def _one(self, task: Task, process: Confined | None) -> Confined | None:
        """Run a task; returns the worker if it may have another."""
        if task.cancelled:
            task.put(Closed(self._name))
            return process
        outcome: VivaceError | None = None
        try:
            if process is None or not process.running:
                self._stop(process)
                process = None  # of a start that fails nothing is left
                process = self._start()
            unwanted = partial(self._unwanted, task)
            for frame in process.run(task.request, self._limits, unwanted):
                task.put(frame)
        except VivaceError as error:
            outcome = error
        except OSError as error:
            # no process, no pipe: the machine is out of something; the task fails alone
            outcome = WorkerDied(f"{self._name}: no worker could be started: {error}")
        with self._lock:
            self._done += outcome is None
            self._failed += outcome is not None
            self._peak = max(self._peak, process.peak if process else 0)
        lives_on = outcome is None or isinstance(outcome, WorkFailed)
        if process and (not lives_on or process.swollen(self._limits.memory_bytes)):
            self._stop(process)
            process = None
        task.put(outcome)
        return process

    def _unwanted(self, task: Task | None = None) -> bool:
        return self._closed or (task is not None and task.cancelled)

    def _start(self) -> Confined:
        with self._lock:
            self._started += 1
            self._alive += 1
        try:
            process = Confined(self._command, self._name, self._limits.memory_bytes)
            try:
                process.wait_until_ready(self._unwanted)
            except BaseException:
                process.kill()
                raise
        except BaseException:
            with self._lock:
                self._alive -= 1
            raise
        return process

    def _stop(self, process: Confined | None) -> None:
        if process is not None:
            process.kill()
            with self._lock:
                self._alive -= 1
