"""One process that does tasks and can be killed: the pool's side, which feeds and watches it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from vivace.errors import Closed, VivaceError
from vivace.run import worker
from vivace.settings import child_environment

TICK: Final = 0.02
"""Seconds between two checks of a running worker's memory and time."""
START_SECONDS: Final = 60.0
"""Most seconds a worker may take to start; a task's own time begins afterwards."""
NOISE_BYTES: Final = 16 << 20
"""Most that a task may print. All but its end is dropped."""
_TAIL: Final = 2_000
_READ: Final = 1 << 18


class WorkerError(VivaceError):
    """A task failed in its worker, or together with it."""


class WorkerTimeout(WorkerError):
    """The task took too long; its worker was killed."""


class WorkerOutOfMemory(WorkerError):
    """The task needed more memory than it may use."""


class WorkerDied(WorkerError):
    """The worker ended by itself: killed from outside, or crashed."""


class WorkerFlooded(WorkerError):
    """The task returned or printed more than it may; its worker was killed."""


class WorkFailed(WorkerError):
    """The work raised an exception. The worker lives on."""


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """What one task may take."""

    seconds: float
    memory_bytes: int
    """On top of what the idle worker holds; enforced on Linux only."""
    output_bytes: int


class WorkerProcess:
    """One worker process, used by one thread.

    Its time, memory and output are limited. It runs as this process's user and can reach files,
    network and environment, except Vivace's settings, which may be secrets.

    Args:
        name: of its work, for errors.
        memory_bytes: that a task may use on top of what the idle process holds.

    Raises:
        OSError: the system starts no process.
    """

    def __init__(self, command: Sequence[str], name: str, memory_bytes: int) -> None:
        self._name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is not for it; its children are killed with it
            env=child_environment() | {"RUST_BACKTRACE": "0"},  # its last line is what counts
        )
        self._pipes = [
            pipe
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)
            if pipe is not None
        ]
        self._in, self._out, self._err = (pipe.fileno() for pipe in self._pipes)
        for descriptor in (self._in, self._out, self._err):
            os.set_blocking(descriptor, False)
        self._received = bytearray()
        self._printed = b""
        self._printed_bytes = 0
        self._statm = Path(f"/proc/{self._process.pid}/statm")
        self._idle_bytes = 0
        self._resident = 0
        hello = worker.Hello(parent=os.getpid(), memory_bytes=memory_bytes)
        self._unsent = memoryview(_frame(msgspec.json.encode(hello)))

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself since its last task."""
        if os.name != "posix":
            return self._process.poll() is None
        # Without reaping it: until then its process group can be killed safely.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is None

    def swollen(self, memory_bytes: int) -> bool:
        """Whether it kept so much memory that the next task could fail for lack of it."""
        return self._grown() > memory_bytes // 2

    def wait_until_ready(self, stopping: Callable[[], bool]) -> None:
        limits = TaskLimits(START_SECONDS, 1 << 62, 0)
        for kind, _ in self._frames(limits, stopping):
            if kind == worker.READY:
                self._measure()
                self._idle_bytes = self._resident
                return
        raise self._died()

    def run(
        self, request: bytes, limits: TaskLimits, unwanted: Callable[[], bool]
    ) -> Iterator[bytes]:
        """Send the task to the process and yield its frames, until `unwanted` returns True.

        Raises:
            WorkerError: see its subclasses; after all but `WorkFailed` the process is unusable.
            Closed: it was unwanted.
        """
        self._unsent = memoryview(_frame(request))
        self._printed, self._printed_bytes = b"", 0
        for kind, body in self._frames(limits, unwanted):
            if kind == worker.DATA:
                yield body
            elif kind == worker.END:
                self._measure()
                return
            elif kind == worker.OUT_OF_MEMORY:
                raise self._out_of_memory(limits)
            else:
                raise WorkFailed(body.decode("utf-8", "replace"))
        died = self._died()
        # some libraries abort when an allocation fails
        if self._grown() > limits.memory_bytes // 2 or _RUST_NO_MEMORY in self._printed:
            raise self._out_of_memory(limits)
        raise died

    def kill(self) -> None:
        """End the process and everything it started. Blocks until it is gone. Idempotent."""
        self._end()
        for pipe in self._pipes:
            pipe.close()

    def _end(self) -> None:
        if self._process.returncode is None:  # not waited for: the process id is still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):  # all ended already
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _frames(
        self, limits: TaskLimits, unwanted: Callable[[], bool]
    ) -> Iterator[tuple[int, bytes]]:
        """The frames of the process until its output ends, within the limits."""
        deadline = time.monotonic() + limits.seconds
        left = limits.output_bytes
        measured = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self._in, selectors.EVENT_WRITE)
            selector.register(self._out, selectors.EVENT_READ)
            selector.register(self._err, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(TICK)}
                now = time.monotonic()
                if unwanted():
                    raise Closed(self._name)
                if now > deadline:
                    raise WorkerTimeout(f"{self._name}: it took over {limits.seconds:g} s")
                if now - measured >= TICK:
                    measured = now
                    self._measure()
                    if self._grown() > limits.memory_bytes:
                        raise self._out_of_memory(limits)
                if self._in in ready and not self._send():
                    selector.unregister(self._in)
                if self._err in ready and not self._drain():
                    selector.unregister(self._err)
                if self._out in ready:
                    data = _read(self._out)
                    if data == b"":
                        self._measure()
                        return
                    self._received += data or b""
                    for kind, body in self._complete(left):
                        left -= len(body)
                        yield kind, body

    def _send(self) -> bool:
        """Write what the pipe takes; False when nothing is left, or the process reads no more."""
        try:
            sent = os.write(self._in, self._unsent[:_READ])
        except BlockingIOError:
            return True
        except BrokenPipeError:  # its output ends as well, and tells why
            sent = len(self._unsent)
        self._unsent = self._unsent[sent:]
        return len(self._unsent) > 0

    def _drain(self) -> bool:
        """Read what was printed and keep its end; False at the end of it."""
        data = _read(self._err)
        if not data:
            return data is None
        self._printed_bytes += len(data)
        self._printed = (self._printed + data)[-_TAIL:]
        if self._printed_bytes > NOISE_BYTES:
            raise WorkerFlooded(f"{self._name}: it printed over {NOISE_BYTES >> 20} MiB")
        return True

    def _complete(self, left: int) -> Iterator[tuple[int, bytes]]:
        """The complete frames received; refuses one larger than what is `left` before it comes."""
        size = worker.HEADER.size
        while len(self._received) >= size:
            kind, length = worker.HEADER.unpack_from(self._received)
            if length > (left if kind == worker.DATA else worker.LONGEST_FAILURE):
                raise WorkerFlooded(f"{self._name}: it returned more than it may")
            if len(self._received) < size + length:
                return
            body = bytes(memoryview(self._received)[size : size + length])
            del self._received[: size + length]
            left -= length
            yield kind, body

    def _measure(self) -> None:
        try:
            pages = int(self._statm.read_text("ascii").split()[1])
        except (OSError, IndexError):  # it has ended, or this system has no such file
            return
        if pages:  # an ended process that was not waited for has none
            self._resident = pages * _PAGE

    def _grown(self) -> int:
        return self._resident - self._idle_bytes

    def _out_of_memory(self, limits: TaskLimits) -> WorkerOutOfMemory:
        mib = limits.memory_bytes >> 20
        return WorkerOutOfMemory(f"{self._name}: it needed over {mib} MiB")

    def _died(self) -> WorkerDied:
        """The error once the output ended: how the process ended, and its last printed line."""
        until = time.monotonic() + TICK
        while self.running and time.monotonic() < until:
            time.sleep(TICK / 10)  # its own exit status tells more than our kill
        self._end()
        with contextlib.suppress(WorkerFlooded):
            self._drain()
        code = self._process.returncode
        how = f"exit status {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        last = self._printed.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return WorkerDied(f"{self._name}: it ended by {how}{': ' + last if last else ''}")


_RUST_NO_MEMORY: Final = b"memory allocation of "
_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def _frame(body: bytes) -> bytes:
    return worker.HEADER.pack(worker.DATA, len(body)) + body


def _read(descriptor: int) -> bytes | None:
    """What a pipe holds; empty at its end, None where there is nothing yet."""
    try:
        return os.read(descriptor, _READ)
    except BlockingIOError:
        return None
