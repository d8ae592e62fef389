"""What every reader starts from: a file within its limits, decoded; and plain text itself."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from vivace.errors import IngestError
from vivace.settings import Parse
from vivace.text import charset
from vivace.types import Document

DEFAULT_MAX_BYTES: Final = 64 << 20
MIB: Final = 1 << 20


class FileReader(ABC):
    """Base of the readers. They hold limits and no state: another process may run them.

    `max_bytes` bounds a file that is read as one document, and a line of JSON lines; `parse` bounds
    what a parser may do.
    """

    suffixes: frozenset[str]

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES, parse: Parse | None = None) -> None:
        self.max_bytes = max_bytes
        self.parse = parse or Parse()

    def read(self, path: Path) -> Iterator[Document | IngestError]:
        """See `Reader.read`."""
        path = absolute(path)
        return self.documents(path, path.as_posix())

    @abstractmethod
    def documents(self, path: Path, source: str) -> Iterator[Document | IngestError]:
        """Yield the documents of the file at an absolute path; `source` is that path as text.

        Raises:
            IngestError: nothing (more) of the file can be read.
        """


class TextReader(FileReader):
    """Plain text, unchanged. The title is the file's stem."""

    suffixes = frozenset({".txt", ".text", ".rst", ".log"})

    def documents(self, path: Path, source: str) -> Iterator[Document | IngestError]:
        text = read_text(path, max_bytes=self.max_bytes)
        yield Document(id=source, text=text, title=path.stem, source=source)


class NeedsPassword(IngestError):
    """The file is encrypted; `given` says whether a password was tried."""

    def __init__(self, source: str, *, given: bool) -> None:
        super().__init__(
            source,
            "is protected by another password than the one given"
            if given
            else "is protected by a password",
            fix="Give it as --password or the setting parse.password",
        )
        self.given = given


def decode(data: bytes, source: str, declared: str = "") -> str:
    """The text of the bytes, without a byte order mark, with \n as line ends.

    `declared` is the encoding that the file itself names, if any.

    Raises:
        IngestError: the bytes are no text in a recognisable encoding.
    """
    try:
        text = charset.decode(data, declared).text
    except charset.Undecodable as error:
        fix = "Give a text file, or leave this one out" if b"\0" in data else "Convert it to UTF-8"
        raise IngestError(source, str(error), fix=fix) from None
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def read_text(
    path: Path, *, max_bytes: int, declared: Callable[[bytes], str] = lambda _: ""
) -> str:
    """The decoded text of a whole file; `declared` finds the encoding that its bytes name.

    Raises:
        IngestError: it is not a regular file, too large, empty, or not text.
        OSError: it cannot be opened or read.
    """
    source = path.as_posix()
    require_regular(path)
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_large(source, max_bytes)
    text = decode(data, source, declared(data))
    if not text or text.isspace():
        raise empty(source)
    return text


def require_size(path: Path, max_bytes: int) -> None:
    """Reject a path that is no file, or a too large one, before a parser opens it by name.

    Raises:
        IngestError: it is not a regular file, too large, or empty.
        OSError: its status cannot be read.
    """
    require_regular(path)
    size = path.stat().st_size
    if size > max_bytes:
        raise too_large(path.as_posix(), max_bytes)
    if not size:
        raise empty(path.as_posix())


def too_large(source: str, max_bytes: int) -> IngestError:
    """The error for a file over the limit."""
    return IngestError(
        source,
        f"is larger than {in_mib(max_bytes)}",
        fix="Raise the setting ingest.max_file_mib or split the file",
    )


def absolute(path: Path) -> Path:
    """The path that names a file in ids and sources: absolute, without "..", links not resolved."""
    return Path(os.path.abspath(path))


def require_regular(path: Path) -> None:
    """Reject a path that is no file: a pipe would block for ever, a device would never end."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(path.as_posix())
    if not stat.S_ISREG(mode):
        raise IngestError(
            path.as_posix(), "is not a regular file", fix="Give a file, not a pipe or a device"
        )


def empty(source: str) -> IngestError:
    """The error for a source without text."""
    return IngestError(source, "is empty", fix="Give a file with text, or leave this one out")


def in_mib(size: int) -> str:
    """A size for people: MiB, or bytes below one."""
    return f"{size / MIB:.0f} MiB" if size >= MIB else f"{size} bytes"
