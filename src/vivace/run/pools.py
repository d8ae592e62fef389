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
from functools import partial
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

from vivace.errors import Closed, VivaceError
from vivace.run import work
from vivace.run.fair_queue import Waiter
from vivace.run.threads import Cores
from vivace.run.worker_process import TaskLimits, WorkerDied, WorkerProcess, WorkFailed
from vivace.run.workers import Workers, WorkerSlot

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

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


class ThreadPool(Workers[_ThreadCall]):
    """Runs at most `threads` calls at once. The others wait in a `FairQueue`, by the priority,
    deadline and user of `work.current()`.

    A result goes straight to the caller's event loop. The standard library's executor chains a
    future of its own to the loop's, at twice the cost a call: a fifth of a whole search. A call
    below 100 microseconds should stay on the loop: a hop takes as long by itself (decision 14).

    Args:
        cores: shared with other workers, so that together they never oversubscribe the machine.
        clock: monotonic seconds; deadlines are on it.
    """

    def __init__(
        self,
        threads: int,
        name: str,
        *,
        cores: Cores | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, threads, _ThreadSlot, _settle_calls, cores=cores, clock=clock)
        self._outbox: _Outbox | None = None
        """Of the event loop that called last; there is seldom a second one."""

    async def run(self, function: Callable[[*Ts], R], *args: *Ts) -> R:
        """`function(*args)` on a thread of the pool: one hop there and back.

        A cancelled call never begins; one that has begun runs to its end, and its result is
        dropped.

        Raises:
            Closed: the pool was closed before the call began.
            DeadlineExceeded: its deadline passed before it began.
        """
        outbox, loop = self._outbox, asyncio.get_running_loop()
        if outbox is None or outbox.loop is not loop:
            outbox = self._outbox = _Outbox(loop)
        call = _ThreadCall(outbox, function, args)
        self.enqueue((call,))
        try:
            result: R = await call.future
        except asyncio.CancelledError:
            self.withdraw((call,))
            raise
        return result


class _ThreadSlot(WorkerSlot[_ThreadCall]):
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


_Reply: TypeAlias = bytes | VivaceError | None


class ProcessTask(Waiter):
    """One piece of work. Iterate to get its frames as they arrive.

    Raises:
        WorkerError: see its subclasses; raised after the frames that arrived before.
        DeadlineExceeded: its deadline passed before it began.
        Closed: it was cancelled, or the pool was closed first.
    """

    __slots__ = ("_pool", "_replies", "cancelled", "request")

    def __init__(self, request: bytes, pool: ProcessPool) -> None:
        super().__init__(work.current())
        self.request = request
        self.cancelled = False
        self._pool = pool
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
        for task in self._pool.withdraw((self,)):
            task.put(Closed(self._pool.name))

    def put(self, reply: _Reply) -> None:
        self._replies.put(reply)


class ProcessPool(Workers[ProcessTask]):
    """Runs tasks in at most `workers` processes of `command`, each started when first needed.

    Tasks wait in a `FairQueue`, by the priority, deadline and user of `work.current()`. `close`
    kills every process.

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
        super().__init__(name, workers, lambda: _ProcessSlot(self), _settle_tasks)
        self.command = list(command)
        self.limits = limits
        self.idle_seconds = idle_seconds
        self.processes = 0
        """Running now."""
        self.started = 0
        """Processes ever started."""
        self._counting = threading.Lock()

    def submit(self, request: bytes) -> ProcessTask:
        """Queue a task.

        Raises:
            Closed: the pool is closed.
        """
        task = ProcessTask(request, self)
        self.enqueue((task,))
        return task

    def count(self, *, started: int = 0, ended: int = 0) -> None:
        with self._counting:
            self.started += started
            self.processes += started - ended


class _ProcessSlot(WorkerSlot[ProcessTask]):
    """One thread's process, if it has one just now."""

    def __init__(self, pool: ProcessPool) -> None:
        super().__init__()
        self._pool = pool
        self._process: WorkerProcess | None = None

    def run(self, batch: list[ProcessTask]) -> None:
        (task,) = batch
        pool = self._pool
        try:
            process = self._started(task)
            for frame in process.run(task.request, pool.limits, partial(self._unwanted, task)):
                task.put(frame)
        except VivaceError as error:
            task.error = error
        except OSError as error:
            # no process, no pipe: the machine is out of something; the task fails alone
            task.error = WorkerDied(f"{pool.name}: no worker could be started: {error}")
        if self._process is None:
            return
        lives_on = task.error is None or isinstance(task.error, WorkFailed)
        if not lives_on or self._process.swollen(pool.limits.memory_bytes):
            self.end()

    def rest(self) -> None:
        self.end()

    def end(self) -> None:
        process, self._process, self.patience = self._process, None, None
        if process is not None:
            process.kill()
            self._pool.count(ended=1)

    def _started(self, task: ProcessTask) -> WorkerProcess:
        if self._process is not None and self._process.running:
            return self._process
        self.end()
        pool = self._pool
        pool.count(started=1)
        try:
            process = WorkerProcess(pool.command, pool.name, pool.limits.memory_bytes)
            try:
                process.wait_until_ready(partial(self._unwanted, task))
            except BaseException:
                process.kill()
                raise
        except BaseException:
            pool.count(ended=1)
            raise
        self._process, self.patience = process, pool.idle_seconds
        return process

    def _unwanted(self, task: ProcessTask) -> bool:
        return self._pool.closed or task.cancelled


def _settle_tasks(tasks: Sequence[ProcessTask]) -> None:
    for task in tasks:
        assert task.error is None or isinstance(task.error, VivaceError)
        task.put(task.error)
