"""What every reader starts from: a file, opened safely, within its limits, decoded; and plain text.

A folder may come from a stranger who changes it while it is read. So a file below a folder is
opened through its folders, one by one, none of which may be a link; and what is opened is checked,
not what the path named a moment before.
"""

from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from vivace.errors import IngestError
from vivace.settings import Parse
from vivace.text import charset
from vivace.types import Document

DEFAULT_MAX_BYTES: Final = 64 << 20
MIB: Final = 1 << 20
# a pipe is opened without waiting for its writer; the flags that a system lacks are 0
_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)


@dataclass(frozen=True, slots=True)
class Boundary:
    """A file's place below a folder that it may not lead out of.

    `root` is the folder's real path, `inside` the file's path below it; neither has links.
    """

    root: bytes
    inside: bytes


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A regular file, open and not empty.

    `path` names it in ids and titles only: another file may be there by now.
    """

    path: Path
    stream: BinaryIO
    size: int
    """Bytes when it was opened. What is appended later is not read."""

    @property
    def source(self) -> str:
        return self.path.as_posix()

    def require_size(self, max_bytes: int) -> None:
        """Check its size before a parser sees it.

        Raises:
            IngestError: it is larger than `max_bytes`.
        """
        if self.size > max_bytes:
            raise too_large(self.source, max_bytes)

    def data(self, max_bytes: int) -> bytes:
        """All of its bytes.

        Raises:
            IngestError: there are more than `max_bytes`.
        """
        self.require_size(max_bytes)
        return self.stream.read(self.size)

    def text(self, max_bytes: int, declared: Callable[[bytes], str] = lambda _: "") -> str:
        """The decoded text of the whole file; `declared` finds the encoding that its bytes name.

        Raises:
            IngestError: it is too large, blank, or not text.
        """
        data = self.data(max_bytes)
        text = decode(data, self.source, declared(data))
        if not text or text.isspace():
            raise empty(self.source)
        return text


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next part of a file begins, and what was read before it."""

    offset: int = 0
    end: int = 0
    """The file's size when its first part was read; 0 before."""
    line: int = 0
    good: int = 0
    bad: int = 0
    encoding: str = ""


@contextmanager
def opened(path: Path, boundary: Boundary | None = None) -> Iterator[OpenFile]:
    """Open a file: through no link within `boundary`, else as the path says.

    Raises:
        IngestError: it is no regular file, empty (as files of procfs pretend to be, which need not
            end), or it was replaced by a link since it was found.
        OSError: it cannot be opened.
    """
    source = path.as_posix()
    try:
        descriptor = os.open(path, _FLAGS) if boundary is None else _open_below(boundary)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _not_regular(source) from None
        if boundary is not None and error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise IngestError(
                source,
                "was replaced by a link while its folder was read",
                fix="See who changes the folder, and run it again",
            ) from None
        raise
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(source)
        if not stat.S_ISREG(status.st_mode):
            raise _not_regular(source)
        if not status.st_size:
            raise empty(source)
        yield OpenFile(path, stream, status.st_size)


def _open_below(boundary: Boundary) -> int:
    if os.open not in os.supports_dir_fd:  # Windows, where making links is a privilege
        return os.open(os.path.join(boundary.root, boundary.inside), _FLAGS)
    *folders, name = boundary.inside.split(b"/")
    at = os.open(boundary.root, _FOLDER)
    try:
        for folder in folders:
            below = os.open(folder, _FOLDER | _NO_LINK, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, _FLAGS | _NO_LINK, dir_fd=at)
    finally:
        os.close(at)


def _not_regular(source: str) -> IngestError:
    return IngestError(
        source, "is not a regular file", fix="Give a file, not a pipe, a socket or a device"
    )


class FileReader(ABC):
    """Base of the readers. They hold limits and no state: another process may run them.

    `max_bytes` bounds a file that is read as one document, and a line of JSON lines; `parse` bounds
    what a parser may do.
    """

    suffixes: frozenset[str]

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES, parse: Parse | None = None) -> None:
        self.max_bytes = max_bytes
        self.parse = parse or Parse()

    def read(
        self, path: Path, boundary: Boundary | None = None
    ) -> Iterator[Document | IngestError]:
        """See `Reader.read` and `opened`."""
        with opened(absolute(path), boundary) as file:
            yield from self.documents(file)

    def read_part(
        self, path: Path, boundary: Boundary | None = None, start: Position | None = None
    ) -> Iterator[Document | IngestError | Position]:
        """As `read`, but of a file of unlimited size only the part from `start` on. Where another
        part follows, its position is the last item."""
        with opened(absolute(path), boundary) as file:
            yield from self.part(file, start or Position())

    def part(self, file: OpenFile, start: Position) -> Iterator[Document | IngestError | Position]:
        """The documents of one part; by default the whole file is one."""
        yield from self.documents(file)

    @abstractmethod
    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        """Yield the documents of the file.

        Raises:
            IngestError: nothing (more) of the file can be read.
        """


class TextReader(FileReader):
    """Plain text, unchanged. The title is the file's stem."""

    suffixes = frozenset({".txt", ".text", ".rst", ".log"})

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        text = file.text(self.max_bytes)
        yield Document(id=file.source, text=text, title=file.path.stem, source=file.source)


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


def empty(source: str) -> IngestError:
    """The error for a source without text."""
    return IngestError(source, "is empty", fix="Give a file with text, or leave this one out")


def in_mib(size: int) -> str:
    """A size for people: MiB, or bytes below one."""
    return f"{size / MIB:.0f} MiB" if size >= MIB else f"{size} bytes"
