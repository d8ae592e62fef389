"""Small files whose damage is noticed: one value as JSON, with its checksum and format.

`{"format": 1, "oldest": 1, "crc32": ..., KEY: value}`; the checksum covers the bytes of the value.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import msgspec

from vivace.errors import CorruptIndex
from vivace.index import files

T = TypeVar("T")
Signature: TypeAlias = tuple[int, int, int]
ABSENT: Signature = (0, 0, 0)


class _Head(msgspec.Struct, frozen=True):
    format: int
    oldest: int
    crc32: int


@dataclass(frozen=True, slots=True)
class ChecksummedJson(Generic[T]):
    """Writes and reads one kind of such files."""

    kind: type[T]
    key: str
    """The value's key in the file."""
    format: int
    oldest: int
    """The oldest format whose readers can read what this version writes."""
    fix: str
    """What to do about a damaged file."""

    def write(self, path: Path, value: T) -> None:
        """Replace the file at `path` atomically and durably.

        Raises:
            OSError: it cannot be written; the old file is unchanged.
        """
        body = msgspec.json.encode(value)
        head = {"format": self.format, "oldest": self.oldest, "crc32": zlib.crc32(body)}
        files.replace(path, msgspec.json.encode({**head, self.key: msgspec.Raw(body)}))

    def read(self, path: Path) -> T | None:
        """The value at `path`; None where there is no file.

        Raises:
            CorruptIndex: the file is damaged, unreadable, or of a later, incompatible format.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._corrupt(path, f"cannot be read: {error.strerror}") from error
        try:
            head = msgspec.json.decode(data, type=_Head)
            body = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get(self.key)
            if body is None or zlib.crc32(bytes(body)) != head.crc32:
                raise self._corrupt(path, "fails its checksum")
            if head.oldest > self.format:
                reads = f"this Vivace reads up to {self.format}"
                raise self._corrupt(path, f"has format {head.format}; {reads}")
            return msgspec.json.decode(body, type=self.kind)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise self._corrupt(path, f"cannot be read: {error}") from error

    def _corrupt(self, path: Path, reason: str) -> CorruptIndex:
        return CorruptIndex(f"{path} {reason}", fix=self.fix)


def signature(path: Path) -> Signature:
    """Changes whenever any process replaces the file; `ABSENT` where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ABSENT
    return status.st_ino, status.st_mtime_ns, status.st_size
