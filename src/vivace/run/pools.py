"""Two pools over the same workers: of threads for asynchronous callers, of processes to be killed.

`ThreadPool` runs synchronous functions for an event loop. `ProcessPool` runs work that may hang,
leak, crash or flood: a task is bytes in, frames of bytes out. Worker processes start with a clean
interpreter, are reused, and are replaced when one had to be killed: a bad task costs itself and the
start of a process. Each process has one thread here that starts, watches and kills it. The kernel
kills a process when that thread ends (PR_SET_PDEATHSIG), so the thread ends its process before it
ends itself.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, TypeVarTuple

from vivace.errors import Closed, VivaceError
from vivace.run import work
from vivace.run.fair_queue import Waiter
from vivace.run.threads import Cores
from vivace.run.work import Priority
from vivace.run.worker_process import TaskLimits, WorkerDied, WorkerProcess, WorkFailed
from vivace.run.workers import Worker, Workers, WorkerStatistics

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

INLINE_SECONDS: Final = 100e-6
"""Work that takes less stays on the event loop: a hop takes as long by itself (decision 14)."""


# -- threads ------------------------------------------------------------------------------------


class _ThreadCall(Waiter):
    __slots__ = ("arguments", "function", "future", "outbox", "result")

    def __init__(
        self, outbox: _Outbox, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        super().__init__(work.current())
        self.outbox = outbox
        self.future: asyncio.Future[Any] = outbox.loop.create_future()
        self.function = function
        self.arguments = arguments
        self.result: Any = None

    @property
    def unwanted(self) -> bool:
        return self.future.done()


class _Outbox:
    """The results for one event loop. However many there are, the loop is woken once."""

    __slots__ = ("_calls", "_woken", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[_ThreadCall] = deque()
        self._woken = False

    def put(self, call: _ThreadCall) -> None:
        """From any thread."""
        self._calls.append(call)
        if not self._woken:  # if it was, the loop has yet to look
            self._woken = True
            with suppress(RuntimeError):  # the loop has been closed, and with it the caller
                self.loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._woken = False  # before it looks: it may not see what arrives now
        while self._calls:
            call = self._calls.popleft()
            if call.future.done():  # its caller has gone
                continue
            if call.error is None:
                call.future.set_result(call.result)
            else:
                call.future.set_exception(call.error)


class ThreadPool:
    """Runs at most `threads` calls at once. The others wait in a `FairQueue`, by the priority,
    deadline and user of `work.current()`.

    A result goes straight to the caller's event loop. The standard library's executor chains a
    future of its own to the loop's, at twice the cost a call: a fifth of a whole search.

    Args:
        most: calls that may wait; None is no bound.
        cores: shared with other workers, so that together they never oversubscribe the machine.
        clock: monotonic seconds; deadlines are on it.
    """

    def __init__(
        self,
        threads: int,
        name: str,
        *,
        most: int | None = None,
        cores: Cores | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.workers: Workers[_ThreadCall] = Workers(
            name, threads, _Caller, _settle_calls, most=most, cores=cores, clock=clock
        )
        self._outbox: _Outbox | None = None
        """Of the event loop that called last; there is seldom a second one."""

    async def run(self, function: Callable[[*Ts], R], *args: *Ts) -> R:
        """`function(*args)` on a thread of the pool: one hop there and back.

        A cancelled call never begins; one that has begun runs to its end, and its result is
        dropped.

        Raises:
            Closed: the pool was closed before the call began.
            DeadlineExceeded: its deadline passed before it began.
            Overloaded: as many calls wait as may.
        """
        outbox, loop = self._outbox, asyncio.get_running_loop()
        if outbox is None or outbox.loop is not loop:
            outbox = self._outbox = _Outbox(loop)
        call = _ThreadCall(outbox, function, args)
        self.workers.submit((call,))
        try:
            result: R = await call.future
        except asyncio.CancelledError:
            self.workers.withdraw((call,))
            raise
        return result

    def resize(self, threads: int) -> None:
        """At most so many calls at once, at least 1; no call is lost or done twice."""
        self.workers.resize(threads)

    def bound(self, priority: Priority, threads: int | None) -> None:
        """At most so many threads do work of this priority or less urgent; None is no bound."""
        self.workers.bound(priority, threads)

    def statistics(self) -> WorkerStatistics:
        return self.workers.statistics()

    def close(self) -> None:
        """Fail what is queued with `Closed`, wait for what is running. Idempotent."""
        self.workers.close()


class _Caller(Worker[_ThreadCall]):
    def run(self, batch: list[_ThreadCall]) -> None:
        call = batch[0]
        try:
            call.result = call.function(*call.arguments)
        except StopIteration as error:
            # an asyncio future refuses a StopIteration, and its caller would wait for ever
            call.error = RuntimeError(f"{call.function!r} raised StopIteration")
            call.error.__cause__ = error
        except BaseException as error:  # handed to the caller, whole
            call.error = error


def _settle_calls(calls: Sequence[_ThreadCall]) -> None:
    for call in calls:
        call.outbox.put(call)


# -- processes ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """`alive` are worker processes now, `started` all there ever were."""

    alive: int
    started: int
    peak_bytes: int
    """Most resident memory of any worker so far; 0 where the system does not report it."""
    tasks: WorkerStatistics


_Reply: TypeAlias = bytes | VivaceError | None


class ProcessTask(Waiter):
    """One piece of work. Iterate to get its frames as they arrive.

    Raises:
        WorkerError: see its subclasses; raised after the frames that arrived before.
        DeadlineExceeded: its deadline passed before it began.
        Closed: it was cancelled, or the pool was closed first.
    """

    __slots__ = ("_replies", "_workers", "cancelled", "request")

    def __init__(self, request: bytes, workers: Workers[ProcessTask]) -> None:
        super().__init__(work.current())
        self.request = request
        self.cancelled = False
        self._workers = workers
        self._replies: queue.SimpleQueue[_Reply] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            reply = self._replies.get()
            if isinstance(reply, bytes):
                yield reply
                continue
            self._replies.put(reply)  # for another iteration
            if reply is None:
                return
            raise reply

    @property
    def unwanted(self) -> bool:
        return self.cancelled

    def cancel(self) -> None:
        """Drop the task: it never begins, or its worker is killed. Does not wait."""
        self.cancelled = True
        for task in self._workers.withdraw((self,)):
            task.put(Closed(self._workers.name))

    def put(self, reply: _Reply) -> None:
        self._replies.put(reply)


class ProcessPool:
    """Runs tasks in at most `workers` processes of `command`, each started when first needed.

    Tasks wait in a `FairQueue`, by the priority, deadline and user of `work.current()`.

    Args:
        command: a program that calls `vivace.run.worker.serve`.
        idle_seconds: a process that had no work for so long is stopped.
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
        self._workers: Workers[ProcessTask] = Workers(name, workers, self._worker, _settle_tasks)
        self._command = list(command)
        self._limits = limits
        self._idle = idle_seconds
        self._counts = _ProcessCounts()

    @property
    def workers(self) -> int:
        """How many tasks may run at once."""
        return self._workers.size

    def submit(self, request: bytes) -> ProcessTask:
        """Queue a task.

        Raises:
            Closed: the pool is closed.
        """
        task = ProcessTask(request, self._workers)
        self._workers.submit((task,))
        return task

    def resize(self, workers: int) -> None:
        """At most so many processes, at least 1; surplus ones end after their task."""
        self._workers.resize(workers)

    def bound(self, priority: Priority, workers: int | None) -> None:
        """At most so many processes do work of this priority or less urgent; None is no bound."""
        self._workers.bound(priority, workers)

    def statistics(self) -> ProcessStatistics:
        return self._counts.statistics(self._workers.statistics())

    def close(self) -> None:
        """Kill every worker and wait for it; fail what is queued or running. Idempotent."""
        self._workers.close()

    def _worker(self) -> _ProcessWorker:
        return _ProcessWorker(self._command, self._limits, self._idle, self._workers, self._counts)


class _ProcessCounts:
    """Over all the processes of a pool."""

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

    def peaked(self, peak: int) -> None:
        with self._lock:
            self._peak = max(self._peak, peak)

    def statistics(self, tasks: WorkerStatistics) -> ProcessStatistics:
        with self._lock:
            return ProcessStatistics(self._alive, self._started, self._peak, tasks)


class _ProcessWorker(Worker[ProcessTask]):
    """One thread's process, if it has one just now."""

    def __init__(
        self,
        command: Sequence[str],
        limits: TaskLimits,
        idle_seconds: float,
        workers: Workers[ProcessTask],
        counts: _ProcessCounts,
    ) -> None:
        self._command = command
        self._limits = limits
        self._idle = idle_seconds
        self._workers = workers
        self._counts = counts
        self._process: WorkerProcess | None = None

    def run(self, batch: list[ProcessTask]) -> None:
        (task,) = batch
        try:
            process = self._started(task)
            for frame in process.run(task.request, self._limits, partial(self._unwanted, task)):
                task.put(frame)
        except VivaceError as error:
            task.error = error
        except OSError as error:
            # no process, no pipe: the machine is out of something; the task fails alone
            task.error = WorkerDied(f"{self._workers.name}: no worker could be started: {error}")
        if self._process is None:
            return
        self._counts.peaked(self._process.peak)
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

    def _started(self, task: ProcessTask) -> WorkerProcess:
        if self._process is not None and self._process.running:
            return self._process
        self.end()
        self._counts.began()
        try:
            process = WorkerProcess(self._command, self._workers.name, self._limits.memory_bytes)
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

    def _unwanted(self, task: ProcessTask) -> bool:
        return self._workers.closed or task.cancelled


def _settle_tasks(tasks: Sequence[ProcessTask]) -> None:
    for task in tasks:
        assert task.error is None or isinstance(task.error, VivaceError)
        task.put(task.error)
