"""Small files that are whole or known not to be: one value as JSON, with its checksum and format.

`{"format": 1, "oldest": 1, "crc32": ..., KEY: value}`; the checksum is of the value's bytes as they
stand in the file.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from vivace.errors import CorruptIndex
from vivace.index import files

T = TypeVar("T")


class _Head(msgspec.Struct, frozen=True):
    format: int
    oldest: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Checked(Generic[T]):
    """How one kind of such files is written and read."""

    kind: type[T]
    key: str
    """What the value is called in the file; none of the three others."""
    format: int
    oldest: int
    """A Vivace that knows this format can read what this one writes."""
    fix: str
    """What to do about a damaged one."""

    def write(self, path: Path, value: T) -> None:
        """Put the value at `path`, durable, as a whole or not at all.

        Raises:
            OSError: it cannot be written; what was there is still there.
        """
        body = msgspec.json.encode(value)
        head = {"format": self.format, "oldest": self.oldest, "crc32": zlib.crc32(body)}
        files.replace(path, msgspec.json.encode({**head, self.key: msgspec.Raw(body)}))

    def read(self, path: Path) -> T | None:
        """The value at `path`; None where there is no file.

        Raises:
            CorruptIndex: it is damaged, may not be read, or is of a format that this Vivace does
                not read.
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
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise self._corrupt(path, f"cannot be read: {error}") from error

    def _corrupt(self, path: Path, reason: str) -> CorruptIndex:
        return CorruptIndex(f"{path} {reason}", fix=self.fix)
