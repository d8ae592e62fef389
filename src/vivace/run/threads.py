"""How many threads does each kind of work get, so that together they never oversubscribe the cores?

Embedding and searching alternate by the millisecond, and either may need every core: so each has a
thread a core, and `Cores` lets only as many of them run at once as there are cores. Native
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
"""A thread that has more to do keeps its core so long before it gives way: a search's hops take a
millisecond and less, an embedding batch takes thirty."""


class Cores:
    """Permits to run, shared by crews; first come, first served.

    What holds one must not wait for the work of another crew that needs one.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = count
        self._waiting: deque[threading.Lock] = deque()

    @property
    def free(self) -> bool:
        return self._free > 0

    @property
    def wanted(self) -> bool:
        return bool(self._waiting)

    def acquire(self) -> None:
        """Blocks until a core is free."""
        gate = threading.Lock()
        gate.acquire()
        self.grant(gate)
        gate.acquire()

    def grant(self, gate: threading.Lock) -> None:
        """Release `gate` as soon as a core is free: whoever waits for it then has the core.

        So a thread that sleeps is not woken only to wait again.
        """
        with self._lock:
            if self._free <= 0:
                self._waiting.append(gate)
                return
            self._free -= 1
        gate.release()

    def release(self) -> None:
        """The one who has waited longest gets it."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            gate = self._waiting.popleft()
        gate.release()


class Holding:
    """One thread's hold of a core; of nothing where the crew shares none."""

    __slots__ = ("_cores", "_until")

    def __init__(self, cores: Cores | None) -> None:
        self._cores = cores
        self._until = 0.0

    def take(self) -> None:
        if self._cores is not None:
            self._cores.acquire()
        self.granted()

    def granted(self) -> None:
        """It was taken for this thread."""
        if self._cores is not None:
            self._until = time.monotonic() + SLICE_SECONDS

    def give(self) -> None:
        if self._cores is not None:
            self._cores.release()

    def give_way(self) -> None:
        """Let another thread run that has waited, when this one's time is over."""
        cores = self._cores
        if cores is not None and cores.wanted and time.monotonic() >= self._until:
            self.give()
            self.take()


@dataclass(frozen=True, slots=True)
class Threads:
    """Of one process. `cores` is what embedding and searching share; None where they do not."""

    embed: int
    search: int
    cores: Cores | None


def divide(embed: int, search: int) -> Threads:
    """Threads for what is set: 0 is automatic. What is fixed is not held back by shared cores."""
    count = host.cores()
    shared = Cores(count) if embed == search == 0 else None
    return Threads(embed or count, search or count, shared)
