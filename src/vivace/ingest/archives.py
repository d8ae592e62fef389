"""Checks zip-based files before a parser opens them."""

from __future__ import annotations

import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vivace.errors import IngestError
from vivace.ingest.decode import MIB, OpenFile
from vivace.settings import Parse

HEAD: Final = 1 << 16
"""Bytes within which the root element of an XML part has to begin; prologs are much shorter."""
_SMALL: Final = 4 * MIB
"""Unpacked size below which no ratio makes a file a zip bomb."""
_DIRECTORY_ENTRY: Final = 512
"""Most bytes per entry of a zip directory: names in packages are short."""
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED: Final = 1
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,  # of bz2, without a number
    EOFError,
    NotImplementedError,
)
_END: Final = b"PK\x05\x06"
_END_SIZE: Final = 22
_LONGEST_COMMENT: Final = 1 << 16
_PROLOG: Final = re.compile(r"\s+|<\?.*?\?>|<!--.*?-->", re.DOTALL)
_ENCODING: Final = re.compile(r"<\?xml[^>]*?encoding\s*=\s*[\"']([^\"']*)[\"']")
_SAFE_ENCODINGS: Final = frozenset({"utf-8", "utf8", "utf-16", "us-ascii", "ascii", "iso-8859-1"})
_HARMLESS_DOCTYPE: Final = re.compile(
    r"<!DOCTYPE\s+\w+(?:\s+(?:PUBLIC\s+(?:\"[^\"]*\"|'[^']*')|SYSTEM))?"
    r"(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*>",
    re.IGNORECASE,
)


def check(file: OpenFile, parse: Parse, *, doctype: bool = False) -> None:
    """Reject a zip file that unpacks to too much, or whose XML declares entities.

    `doctype` allows document types without own declarations, as in web pages.

    Raises:
        IngestError: what is wrong, and which setting allows it.
    """
    source = file.source
    _check_directory(file, parse)
    with damage_reported(source), zipfile.ZipFile(file.stream) as archive:
        entries = archive.infolist()
        _check_sizes(source, entries, file.size, parse)
        if any(entry.flag_bits & _ENCRYPTED for entry in entries):
            raise IngestError(
                source, "has parts under a password", fix="Pack it again without a password"
            )
        for entry in entries:
            if not entry.is_dir():
                with archive.open(entry) as part:
                    _check_part(source, entry.filename, part.read(HEAD), doctype=doctype)


@contextmanager
def damage_reported(source: str) -> Iterator[None]:
    """Wrap the reading of a zip file's parts: several libraries unpack them.

    Raises:
        IngestError: instead of those libraries' errors. The system's own errors pass.
    """
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = "is damaged: " + str(error).removeprefix("File is ")
        raise IngestError(source, reason, fix="Open it in its program and save it again") from None


def _check_directory(file: OpenFile, parse: Parse) -> None:
    """Check the end of the file, without building a list of its entries."""
    source, stream = file.source, file.stream
    start = stream.read(len(_OLE))
    stream.seek(max(0, file.size - _END_SIZE - _LONGEST_COMMENT))
    tail = stream.read(_END_SIZE + _LONGEST_COMMENT)
    if start == _OLE:
        raise IngestError(
            source,
            "is protected by a password, or in the format of before 2007",
            fix="Save it from its program in the present format without a password",
        )
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise IngestError(
            source,
            "is damaged: its end is missing" if start.startswith(b"PK") else "is no zip file",
            fix="Fetch it again, or open it in its program and save it again",
        )
    directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    if directory != 0xFFFFFFFF and directory > parse.zip_entries * _DIRECTORY_ENTRY:
        raise _too_many(source, parse)


def _check_sizes(source: str, entries: list[zipfile.ZipInfo], size: int, parse: Parse) -> None:
    if len(entries) > parse.zip_entries:
        raise _too_many(source, parse)
    total = sum(entry.file_size for entry in entries)
    if total > parse.zip_mib * MIB:
        raise IngestError(
            source,
            f"unpacks to {total / MIB:,.0f} MiB, more than {parse.zip_mib}",
            fix="Raise the setting parse.zip_mib if you trust it",
        )
    if total > _SMALL and total > size * parse.zip_ratio:
        raise IngestError(
            source,
            f"unpacks to {total / size:,.0f} times its size, more than {parse.zip_ratio}: it may"
            " be a zip bomb",
            fix="Raise the setting parse.zip_ratio if you trust it",
        )


def _too_many(source: str, parse: Parse) -> IngestError:
    return IngestError(
        source,
        f"has over {parse.zip_entries:,} entries",
        fix="Raise the setting parse.zip_entries if you trust it",
    )


def _check_part(source: str, name: str, head: bytes, *, doctype: bool) -> None:
    """Reject document types and entities. They precede the root element, which therefore has to
    begin within `HEAD`. Every part that begins like XML is checked, whatever its name."""
    text = _as_text(head)
    named_xml = name.lower().endswith((".xml", ".rels", ".opf", ".ncx", ".xhtml", ".vml"))
    if not text.lstrip().startswith("<"):
        if (named_xml and text.strip()) or (len(head) == HEAD and not text.strip()):
            raise _refused(source, name, "does not begin as XML in UTF-8 or UTF-16")
        return
    declared = _ENCODING.match(text.lstrip())
    if declared and declared[1].lower() not in _SAFE_ENCODINGS:
        raise _refused(source, name, f"is XML in {declared[1][:40]!r}")
    at = 0
    while True:
        found = _PROLOG.match(text, at)
        if found is None and doctype:
            found = _HARMLESS_DOCTYPE.match(text, at)
        if found is None:
            break
        at = found.end()
    if text.startswith("<!", at) or text.startswith("<?", at) or at >= len(text):
        what = "declares a document type or entities"
        if not text[at:].upper().startswith(("<!DOCTYPE", "<!ENTITY")):
            what = "has no root element in its first 64 KiB"
        raise _refused(source, name, what)


def _as_text(head: bytes) -> str:
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if head.startswith(mark):
            return head[2:].decode(encoding, "replace")
    if head[:2] == b"<\0":
        return head.decode("utf-16-le", "replace")
    if head[:2] == b"\0<":
        return head.decode("utf-16-be", "replace")
    return head.removeprefix(b"\xef\xbb\xbf").decode("latin-1")


def _refused(source: str, name: str, what: str) -> IngestError:
    return IngestError(
        source,
        f"its part {name[:100]!r} {what}, which can hide an attack",
        fix="Open it in its program and save it again",
    )
