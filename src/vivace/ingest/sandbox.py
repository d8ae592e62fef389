"""Reads files in killable processes: their parsers may hang, leak or crash."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from vivace.errors import IngestError
from vivace.ingest.decode import DEFAULT_MAX_BYTES, NeedsPassword, absolute
from vivace.ingest.worker import DocumentReply, ReadRequest, decode_reply, encode
from vivace.run.host import cores
from vivace.run.pools import ProcessPool, ProcessTask
from vivace.run.worker_process import (
    TaskLimits,
    WorkerDied,
    WorkerError,
    WorkerFlooded,
    WorkerOutOfMemory,
    WorkerTimeout,
    WorkFailed,
)
from vivace.settings import Parse
from vivace.types import Document

COMMAND: Final = (sys.executable, "-P", "-m", "vivace.ingest.worker")
"""With -P, a module in the working directory does not replace a library's."""
_BYTES_A_CHAR: Final = 4
_OVERHEAD: Final = 1 << 20

Passwords: TypeAlias = Callable[[str], str | None]
"""Called with the path of a file that needs a password; None or "" gives the file up."""


class Reading:
    """A file being read. Iterate over it once for its documents and errors; it raises nothing."""

    def __init__(self, sandbox: Sandbox, path: Path, max_bytes: int, ask: Passwords | None) -> None:
        self._sandbox = sandbox
        self._ask = ask
        self._path = path
        self._max_bytes = max_bytes
        self._task = sandbox.task(path, max_bytes)

    def __iter__(self) -> Iterator[Document | IngestError]:
        source = absolute(self._path).as_posix()
        for found in self._replies(self._task, source):
            password = self._asked(found, source)
            if password:
                self._task = self._sandbox.task(self._path, self._max_bytes, password)
                yield from self._replies(self._task, source)
            else:
                yield found

    def cancel(self) -> None:
        """Give up; a worker that is reading the file is killed."""
        self._task.cancel()

    def _asked(self, found: Document | IngestError, source: str) -> str | None:
        wanted = self._ask is not None and isinstance(found, NeedsPassword)
        return self._ask(source) if self._ask is not None and wanted else None

    def _replies(self, task: ProcessTask, source: str) -> Iterator[Document | IngestError]:
        try:
            for frame in task:
                reply = decode_reply(frame)
                if isinstance(reply, DocumentReply):
                    yield reply.document
                elif reply.password is not None:
                    yield NeedsPassword(reply.source, given=reply.password)
                else:
                    yield IngestError(reply.source, reply.reason, fix=reply.fix)
        except WorkerError as error:
            reason, fix = self._sandbox.explain(error)
            found = IngestError(source, reason, fix=fix)
            found.__cause__ = error
            yield found


class Sandbox:
    """A pool of parse processes, started when first needed and then reused.

    Args:
        command: a program like `vivace.ingest.worker`; tests pass one with readers of their own.
    """

    def __init__(
        self,
        parse: Parse | None = None,
        *,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.parse = parse or Parse()
        limits = TaskLimits(
            self.parse.seconds,
            self.parse.memory_mib << 20,
            self.parse.chars * _BYTES_A_CHAR + _OVERHEAD,
        )
        workers = self.parse.workers or cores()
        self.pool = ProcessPool(command, workers=workers, limits=limits, name="parse worker")

    @property
    def ahead(self) -> int:
        """Files worth reading at once: one per worker and one that waits."""
        return self.pool.size + 1

    def read(
        self, path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, ask: Passwords | None = None
    ) -> Reading:
        """Begin to read a file; a worker reads one file at a time.

        Raises:
            Closed: the sandbox is closed.
        """
        return Reading(self, path, max_bytes, ask)

    def task(self, path: Path, max_bytes: int, password: str = "") -> ProcessTask:
        parse = self.parse
        if password:
            parse = msgspec.structs.replace(parse, password=password)
        return self.pool.submit(encode(ReadRequest(path.as_posix(), max_bytes, parse)))

    def explain(self, error: WorkerError) -> tuple[str, str]:
        """(reason, fix) in terms of the file and the settings."""
        leave_out = "leave the file out, or print it to a new one from its program"
        if isinstance(error, WorkerTimeout):
            return (
                f"was given up after {self.parse.seconds:g} s",
                f"Raise the setting parse.seconds, or {leave_out}",
            )
        if isinstance(error, WorkerOutOfMemory):
            return (
                f"needs over {self.parse.memory_mib} MiB to be read",
                f"Raise the setting parse.memory_mib, or {leave_out}",
            )
        if isinstance(error, WorkerFlooded):
            return (
                "gave more output than parse.chars allows",
                f"Raise the setting parse.chars, or {leave_out}",
            )
        if isinstance(error, WorkerDied):
            return f"its reader crashed ({error.what})", leave_out.capitalize()
        assert isinstance(error, WorkFailed)
        return f"its reader failed ({error.what})", "Report it with this file, and leave it out"

    def close(self) -> None:
        """Kill the workers and wait for them. Idempotent, blocks for milliseconds."""
        self.pool.close()
