"""Which characters are these bytes?"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vivace.errors import IngestError
from vivace.text import charset

DEFAULT_MAX_BYTES: Final = 64 << 20
MIB: Final = 1 << 20


def decode(data: bytes, source: str, declared: str = "") -> str:
    """The text of the bytes, without a byte order mark, its line ends as \n.

    `declared` is the encoding that the file itself names, if it does.

    Raises:
        IngestError: the bytes are no text in an encoding that can be told.
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
    """Refuse what is no file or a too large one, before a parser opens it by its name.

    Raises:
        IngestError: it is not a regular file, too large, or empty.
        OSError: it cannot be looked at.
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
    """The path that names a file in ids and sources: from the root, without "..", links kept."""
    return Path(os.path.abspath(path))


def require_regular(path: Path) -> None:
    """Refuse what is not a file: opening a pipe would wait forever, a device would never end."""
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
    """Bytes as people read them."""
    return f"{size / MIB:.0f} MiB" if size >= MIB else f"{size} bytes"
