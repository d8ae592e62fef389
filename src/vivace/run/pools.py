"""A bounded pool for synchronous search work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

from vivace.run.closed import Closed

R = TypeVar("R")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """`threads` is the bound; a cancelled call that had not started counts nowhere."""

    threads: int
    queued: int
    running: int
    done: int
    failed: int


class Pool:
    """At most `threads` calls at once; the others wait their turn, first come first served."""

    def __init__(self, threads: int, name: str) -> None:
        self._name = name
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._closed = False
        self._queued = self._running = self._done = self._failed = 0

    async def run(self, function: Callable[[*Ts], R], *args: *Ts) -> R:
        """`function(*args)` on a thread of the pool: one hop there and back.

        Raises:
            Closed: the pool was closed before the call began.
        """
        with self._lock:
            if self._closed:
                raise Closed(self._name)
            # Under the lock, so that close() cannot shut the executor in between.
            future = self._executor.submit(lambda: self._call(function, *args))
            self._queued += 1
        future.add_done_callback(self._forget_cancelled)
        return await asyncio.wrap_future(future)

    def statistics(self) -> PoolStatistics:
        with self._lock:
            return PoolStatistics(
                self._threads, self._queued, self._running, self._done, self._failed
            )

    def close(self) -> None:
        """Fail what is queued with `Closed`, wait for what is running. Idempotent."""
        with self._lock:
            self._closed = True
        self._executor.shutdown(wait=True)

    def _forget_cancelled(self, future: Future[R]) -> None:
        """A call that is cancelled while queued never reaches `_call`."""
        if future.cancelled():
            with self._lock:
                self._queued -= 1

    def _call(self, function: Callable[[*Ts], R], *args: *Ts) -> R:
        with self._lock:
            self._queued -= 1
            if self._closed:
                # Not cancelled by the executor: its caller would take that for its own cancelling.
                raise Closed(self._name)
            self._running += 1
        failed = 1
        try:
            result = function(*args)
            failed = 0
            return result
        except StopIteration as error:
            # An asyncio future refuses a StopIteration, and its caller would wait for ever.
            raise RuntimeError(f"{self._name}: the function raised StopIteration") from error
        finally:
            with self._lock:
                self._running -= 1
                self._done += 1 - failed
                self._failed += failed
