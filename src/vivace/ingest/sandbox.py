"""Reads files in killable processes: their parsers may hang, leak or crash."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from vivace.errors import IngestError
from vivace.ingest.decode import DEFAULT_MAX_BYTES, Boundary, NeedsPassword, Position, absolute
from vivace.ingest.worker import DocumentReply, PartReply, ReadRequest, decode_reply, encode
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
    """A file being read. Iterate over it once for its documents and errors; it raises nothing.

    A file that is read in parts is one task after the other: the limits are of each part, and no
    more than a part is ahead of who reads.
    """

    def __init__(self, sandbox: Sandbox, request: ReadRequest, ask: Passwords | None) -> None:
        self._sandbox = sandbox
        self._ask = ask
        self._request = request
        self._task = sandbox.task(request)

    def __iter__(self) -> Iterator[Document | IngestError]:
        source = absolute(Path(self._request.path)).as_posix()
        for found in self._replies(source):
            password = self._asked(found, source)
            if password:
                parse = msgspec.structs.replace(self._request.parse, password=password)
                self._go_on(msgspec.structs.replace(self._request, parse=parse))
                yield from self._replies(source)
            else:
                yield found

    def cancel(self) -> None:
        """Give up; a worker that is reading the file is killed."""
        self._task.cancel()

    def _asked(self, found: Document | IngestError, source: str) -> str | None:
        wanted = self._ask is not None and isinstance(found, NeedsPassword)
        return self._ask(source) if self._ask is not None and wanted else None

    def _go_on(self, request: ReadRequest) -> None:
        self._request = request
        self._task = self._sandbox.task(request)

    def _replies(self, source: str) -> Iterator[Document | IngestError]:
        """What is read of all parts."""
        following: Position | None = Position()
        while following is not None:
            following = yield from self._part(source)
            if following is not None:
                self._go_on(msgspec.structs.replace(self._request, start=following))

    def _part(self, source: str) -> Generator[Document | IngestError, None, Position | None]:
        """What is read of one part; returns where the next one begins."""
        following = None
        try:
            for frame in self._task:
                reply = decode_reply(frame)
                if isinstance(reply, PartReply):
                    following = reply.following
                elif isinstance(reply, DocumentReply):
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
        return following


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
        self,
        path: Path,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        boundary: Boundary | None = None,
        ask: Passwords | None = None,
    ) -> Reading:
        """Begin to read a file; a worker reads one file, or part of one, at a time.

        Raises:
            Closed: the sandbox is closed.
        """
        request = ReadRequest(path.as_posix(), max_bytes, self.parse, boundary)
        return Reading(self, request, ask)

    def task(self, request: ReadRequest) -> ProcessTask:
        return self.pool.submit(encode(request))

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
