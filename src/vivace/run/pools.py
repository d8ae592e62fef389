"""A bounded pool for synchronous search work."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, TypeVarTuple

from vivace.errors import Closed

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


@dataclass(slots=True, eq=False)
class _Call:
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    started: bool = field(default=False)


class Pool:
    """At most `threads` calls at once; the others wait their turn, first come first served.

    The result goes straight to the caller's event loop. The standard library's executor chains a
    future of its own to the loop's, at twice the cost a call: a fifth of a whole search.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._queued = self._running = self._done = self._failed = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, function: Callable[[*Ts], R], *args: *Ts) -> R:
        """`function(*args)` on a thread of the pool: one hop there and back.

        Raises:
            Closed: the pool was closed before the call began.
        """
        loop = asyncio.get_running_loop()
        call = _Call(loop, loop.create_future(), function, args)
        with self._lock:
            if self._closed:
                raise Closed(self._name)
            # under the lock, so that close() cannot end the threads in between
            self._queue.put(call)
            self._queued += 1
        try:
            result: R = await call.future
        except asyncio.CancelledError:
            with self._lock:
                if not call.started:
                    call.started = True
                    self._queued -= 1
            raise
        return result

    def statistics(self) -> PoolStatistics:
        with self._lock:
            return PoolStatistics(
                len(self._threads), self._queued, self._running, self._done, self._failed
            )

    def close(self) -> None:
        """Fail what is queued with `Closed`, wait for what is running. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            with self._lock:
                if call.started:  # cancelled while it waited
                    continue
                call.started = True
                self._queued -= 1
                closed = self._closed
                self._running += 0 if closed else 1
            if closed:
                _deliver(call, None, Closed(self._name))
                continue
            result, error = _outcome(call)
            with self._lock:
                self._running -= 1
                if error is None:
                    self._done += 1
                else:
                    self._failed += 1
            _deliver(call, result, error)
            del call, result, error  # an idle thread keeps nothing alive


def _outcome(call: _Call) -> tuple[Any, BaseException | None]:
    try:
        return call.function(*call.arguments), None
    except StopIteration as error:
        # an asyncio future refuses a StopIteration, and its caller would wait for ever
        failure = RuntimeError(f"{call.function!r} raised StopIteration")
        failure.__cause__ = error
        return None, failure
    except BaseException as error:  # handed to the caller, whole
        return None, error


def _deliver(call: _Call, result: Any, error: BaseException | None) -> None:
    with suppress(RuntimeError):  # the loop has been closed, and with it whoever asked
        call.loop.call_soon_threadsafe(_settle, call.future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # its caller has gone
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
