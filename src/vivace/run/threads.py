"""How many threads does each kind of work get, so that together they never oversubscribe the cores?

Embedding and searching alternate by the millisecond, and either may need every core. So each has a
thread per core, and `Cores` lets only as many of them run at once as there are cores. Native
libraries get one thread a call: onnxruntime by its session's options, FAISS by its OpenMP setting
(`NATIVE`). Parsing happens in other processes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from vivace.run import host

NATIVE: Final = 1
"""Threads of a native library within one call of ours."""
SLICE_SECONDS: Final = 0.01
"""How long a thread that has more to do keeps its core while others wait for one: a search's hops
take a millisecond and less, an embedding batch takes thirty."""


class Cores:
    """Permits to run, shared by several `Workers`; first come, first served.

    A thread that holds one must not wait for work of others that need one.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self.free = count
        self._waiting: deque[threading.Lock] = deque()

    @property
    def waiting(self) -> int:
        """How many threads wait for a core."""
        return len(self._waiting)

    def acquire(self) -> None:
        """Take a core; blocks until one is free."""
        gate = threading.Lock()
        gate.acquire()
        self.grant(gate)
        gate.acquire()

    def grant(self, gate: threading.Lock) -> None:
        """Release `gate` as soon as a core is free: the thread that waits for it then has the core.

        So a sleeping thread is not woken only to wait again.
        """
        with self._lock:
            if self.free <= 0:
                self._waiting.append(gate)
                return
            self.free -= 1
        gate.release()

    def release(self) -> None:
        """Hand the core to the thread that has waited longest."""
        with self._lock:
            if not self._waiting:
                self.free += 1
                return
            gate = self._waiting.popleft()
        gate.release()


class CoreHold:
    """One thread's hold of a core; of nothing where `cores` is None."""

    __slots__ = ("_cores", "_until")

    def __init__(self, cores: Cores | None) -> None:
        self._cores = cores
        self._until = 0.0

    def take(self) -> None:
        if self._cores is not None:
            self._cores.acquire()
        self.granted()

    def granted(self) -> None:
        """A core was taken for this thread by the caller that woke it."""
        if self._cores is not None:
            self._until = time.monotonic() + SLICE_SECONDS

    def give(self) -> None:
        if self._cores is not None:
            self._cores.release()

    def yield_if_due(self) -> None:
        """Let a waiting thread run when this one has held the core for `SLICE_SECONDS`."""
        cores = self._cores
        if cores is not None and cores.waiting and time.monotonic() >= self._until:
            self.give()
            self.take()


@dataclass(frozen=True, slots=True)
class ThreadBudget:
    """Threads of one process. Embedding and searching share `cores`; None where they do not."""

    embed: int
    search: int
    cores: Cores | None


def divide(embed: int, search: int) -> ThreadBudget:
    """The threads of each kind for the configured numbers; 0 is automatic.

    A configured number is not held back by shared cores.
    """
    count = host.cores()
    shared = Cores(count) if embed == search == 0 else None
    return ThreadBudget(embed or count, search or count, shared)
