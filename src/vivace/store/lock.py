"""One writer a collection, over all processes."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from vivace.errors import CollectionLocked, StoreUnwritable


class WriteLock:
    """An advisory lock on a file. The kernel drops it when its process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    @property
    def held(self) -> bool:
        return self._file is not None

    def acquire(self) -> None:
        """Take the lock or fail at once.

        Raises:
            CollectionLocked: another process has it; names its pid.
            StoreUnwritable: the folder cannot be written.
        """
        if self._file is not None:
            return
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreUnwritable(
                f"{self._path.parent} cannot be written: {error.strerror}",
                fix="Check its permissions and that the disk is not mounted read-only",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise CollectionLocked(
                f"{self._path.parent} is being written by another process (pid {pid})",
                fix="Wait until it is done; searching works meanwhile",
            ) from None
        self._file = file
        with suppress(OSError):  # a full disk: the lock holds, only its owner is not named
            os.truncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
