"""Which characters are these bytes?"""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path
from typing import Final

from vivace.errors import IngestError

DEFAULT_MAX_BYTES: Final = 64 << 20
MIB: Final = 1 << 20

_OTHER_BOMS: Final = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def decode(data: bytes, source: str) -> str:
    """The text of UTF-8 bytes, without a byte order mark, its line ends as \\n.

    Raises:
        IngestError: the bytes are not UTF-8 or hold a NUL, so they are not text; names the offset.
    """
    for bom, name in _OTHER_BOMS.items():
        if data.startswith(bom):
            raise IngestError(source, f"is {name}, not UTF-8", fix="Convert it to UTF-8")
    nul = data.find(b"\0")
    if nul >= 0:
        raise IngestError(
            source,
            f"has a NUL byte at offset {nul}, so it is not a text file",
            fix="Give a text file, or leave this one out",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind the byte order mark.
        at = error.start + (3 if data.startswith(codecs.BOM_UTF8) else 0)
        raise IngestError(
            source, f"is not UTF-8: byte 0x{data[at]:02x} at offset {at}", fix="Convert it to UTF-8"
        ) from None
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def read_text(path: Path, *, max_bytes: int) -> str:
    """The decoded text of a whole file.

    Raises:
        IngestError: it is not a regular file, too large, empty, or not text.
        OSError: it cannot be opened or read.
    """
    source = path.as_posix()
    require_regular(path)
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise IngestError(
            source,
            f"is larger than {in_mib(max_bytes)}",
            fix="Raise the setting ingest.max_file_mib or split the file",
        )
    text = decode(data, source)
    if not text or text.isspace():
        raise empty(source)
    return text


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
