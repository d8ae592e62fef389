"""The inside of a worker process: receives tasks from the pool and sends their frames.

A module that is run as a worker calls `serve` with the function that does the work. Frames go over
the process's own standard output; whatever a library prints goes to standard error instead, which
the pool drains and counts.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

HEADER: Final = struct.Struct("<BI")
"""Kind of the frame, and how many bytes follow."""
DATA: Final = 0
END: Final = 1
FAILED: Final = 2
"""The work raised; the frame holds the error's text."""
LONGEST_FAILURE: Final = 10_000
"""Bytes of that text."""
OUT_OF_MEMORY: Final = 3
READY: Final = 4

_PR_SET_PDEATHSIG: Final = 1


class Hello(msgspec.Struct, frozen=True):
    """The first frame that the pool sends."""

    parent: int
    memory_bytes: int


def serve(work: Callable[[bytes], Iterator[bytes]]) -> None:
    """Do task after task until standard input ends; then the process exits at once.

    `work` turns a task's bytes into frames of bytes. The pool is sent what it raises, and the
    worker goes on.
    """
    tasks = os.fdopen(os.dup(0), "rb")
    frames = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    hello = _read(tasks)
    if hello is None:
        return
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # Before the memory limit: a thread reserves address space of its own.
    threading.Thread(target=_receive, args=(tasks, waiting), daemon=True).start()
    _confine(msgspec.json.decode(hello, type=Hello))
    _write(frames, READY)
    while True:
        _do(work, waiting.get(), frames)


def _do(work: Callable[[bytes], Iterator[bytes]], task: bytes, frames: BinaryIO) -> None:
    try:
        for frame in work(task):
            _write(frames, DATA, frame)
    except MemoryError:
        _write(frames, OUT_OF_MEMORY)
    except Exception as error:  # sent to the pool, which raises it for the task
        text = f"{type(error).__name__}: {error}".encode("utf-8", "replace")
        _write(frames, FAILED, text[:LONGEST_FAILURE])
    else:
        _write(frames, END)


def _receive(tasks: BinaryIO, waiting: queue.SimpleQueue[bytes]) -> None:
    """Pass tasks on. When the input ends the pool is gone, and this process exits."""
    while (task := _read(tasks)) is not None:
        waiting.put(task)
    os._exit(0)


def _read(file: BinaryIO) -> bytes | None:
    head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    _, size = HEADER.unpack(head)
    body = file.read(size)
    return body if len(body) == size else None


def _write(file: BinaryIO, kind: int, body: bytes = b"") -> None:
    file.write(HEADER.pack(kind, len(body)))
    file.write(body)
    file.flush()


def _confine(hello: Hello) -> None:
    """Die with the parent, dump no core, and limit the memory to what the pool allows."""
    if sys.platform == "linux":
        # A parser that never releases the interpreter would keep `_receive` from noticing.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != hello.parent:  # it died before the call
            os._exit(0)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = hello.memory_bytes + _address_space()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        if sys.platform == "linux":  # other systems refuse or ignore it
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _address_space() -> int:
    """Bytes the interpreter and its libraries have mapped before the first task."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
