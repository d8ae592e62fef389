"""A worker that misbehaves on request. Run by path, as `vivace.ingest.worker` is run by name."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

from vivace.run.worker import serve

MIB = 1 << 20
RESERVED = mmap.mmap(-1, 512 * MIB)
"""Mapped before the limit on address space: touching it is seen by the pool, not by the kernel."""


def work(task: bytes) -> Iterator[bytes]:
    name, _, rest = task.partition(b" ")
    if name == b"echo":
        yield from rest.split(b",")
        return
    yield str(os.getpid()).encode()
    if name == b"hang":  # without ever letting go of the interpreter
        re.match(r"(a+)+$", "a" * 64 + "b")
    elif name == b"family":
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        yield str(child.pid).encode()
        signal.pause()
    elif name == b"orphan":
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        yield str(child.pid).encode()
        os._exit(5)
    elif name == b"refused":
        print("memory allocation of 262144000 bytes failed\nnote: no more", file=sys.stderr)
        sys.stderr.flush()
        os.abort()
    elif name == b"environment":
        yield from sorted(n.encode() for n in os.environ if n.startswith(("VIVACE_", "OTHER_")))
    elif name == b"kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == b"crash":
        ctypes.string_at(0)
    elif name == b"exit":
        print("the last words", file=sys.stderr, flush=True)
        os._exit(7)
    elif name == b"leak":
        held = []
        while True:
            held.append(bytearray(4 * MIB))
    elif name == b"touch":
        while True:
            for at in range(0, len(RESERVED), mmap.PAGESIZE):
                RESERVED[at] = 1
    elif name == b"flood":
        for _ in range(1_024):
            yield bytes(MIB)
    elif name == b"print":
        for _ in range(1_024):
            sys.stdout.write("x" * MIB)
    elif name == b"raise":
        raise ValueError("no good")
    elif name == b"read":
        yield sys.stdin.read().encode()


if __name__ == "__main__":
    serve(work)
