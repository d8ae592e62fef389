"""Who reads this file? The one entry of the pipeline into the readers.

Readers are imported when first needed: listing a folder must not load an HTML parser.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vivace.errors import IngestError, MissingExtra
from vivace.ingest.decode import DEFAULT_MAX_BYTES, absolute
from vivace.protocols import Reader
from vivace.settings import Parse
from vivace.types import Document

_READERS: Final = {
    "vivace.ingest.text:TextReader": (".txt", ".text", ".rst", ".log"),
    "vivace.ingest.markdown:MarkdownReader": (".md", ".markdown"),
    "vivace.ingest.jsonl:JsonLinesReader": (".jsonl", ".ndjson"),
}
_PARSERS: Final = {
    "vivace.ingest.tables:CsvReader": (".csv", ".tsv"),
    "vivace.ingest.jsontree:JsonReader": (".json",),
    "vivace.ingest.jsontree:NotebookReader": (".ipynb",),
}
"""Readers of ours that hold a file's whole structure: a small one is not worth a process."""
_CONFINED: Final = {
    "vivace.ingest.html:HtmlReader": (".html", ".htm"),
}
_BINARY: Final = {
    "vivace.ingest.pdf:PdfReader": (".pdf",),
    "vivace.ingest.docx:DocxReader": (".docx",),
    "vivace.ingest.office:XlsxReader": (".xlsx",),
    "vivace.ingest.office:PptxReader": (".pptx",),
    "vivace.ingest.office:EpubReader": (".epub",),
}
_LIMITED: Final = _PARSERS | _BINARY
_BY_SUFFIX: Final = {
    suffix: name
    for name, suffixes in (_READERS | _CONFINED | _LIMITED).items()
    for suffix in suffixes
}

SUFFIXES: Final = tuple(_BY_SUFFIX)
"""Every suffix that can be read, lower case, with the dot."""


SMALL: Final = 4 << 20
"""Bytes; a larger file of `_PARSERS` is read in a process as well."""
_ALWAYS: Final = frozenset(s for found in (_CONFINED | _BINARY).values() for s in found)
_WHEN_LARGE: Final = frozenset(s for found in _PARSERS.values() for s in found)


def sandboxed(path: Path) -> bool:
    """Whether the file is read in a process that can be killed: its parser is not ours, or it is
    large enough to hold everything else up. A file that cannot be looked at is not."""
    suffix = path.suffix.lower()
    if suffix not in _WHEN_LARGE:
        return suffix in _ALWAYS
    try:
        return path.stat().st_size > SMALL
    except OSError:
        return False  # its reader says why


def known_suffixes() -> str:
    """The suffixes as a sentence lists them."""
    return ", ".join(SUFFIXES)


def reader_for(
    path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, parse: Parse | None = None
) -> Reader | None:
    """The reader of the file's format by its suffix, in either case; None where there is none.

    `max_bytes` bounds a file that is read as one document, and a line of JSON lines; `parse` what
    a parser may do, by default as the settings' defaults say.
    """
    name = _BY_SUFFIX.get(path.suffix.lower())
    if name is None:
        return None
    module, _, reader = name.partition(":")
    limits = (max_bytes, parse) if name in _LIMITED else (max_bytes,)
    made: Reader = getattr(importlib.import_module(module), reader)(*limits)
    return made


def read(
    path: Path, *, max_bytes: int, parse: Parse | None = None, reader: Reader | None = None
) -> Iterator[Document | IngestError]:
    """Yield the file's documents; whatever is wrong with it is yielded as well, not raised.

    Needs and keeps no state, so that it can run in another process.

    Raises:
        MemoryError: alone; who runs this knows what the limit was.
    """
    source = absolute(path).as_posix()
    reader = reader or reader_for(path, max_bytes=max_bytes, parse=parse)
    if reader is None:
        yield IngestError(
            source,
            f"there is no reader for {path.suffix or 'files without a suffix'}",
            fix=f"Convert it to one of {known_suffixes()}",
        )
        return
    try:
        yield from reader.read(path)
    except IngestError as error:
        yield error
    except MissingExtra as error:
        yield IngestError(source, f"cannot be read: {error.what}", fix=error.fix)
    except MemoryError:
        raise
    except FileNotFoundError:
        yield IngestError(
            source, "does not exist (any more)", fix="Check the path and run it again"
        )
    except PermissionError:
        yield IngestError(source, "may not be read by this user", fix="Grant read permission on it")
    except IsADirectoryError:
        yield IngestError(source, "is a directory", fix="Give its files, or ingest the directory")
    except OSError as error:
        reason = error.strerror or str(error)
        yield IngestError(source, f"cannot be read: {reason}", fix="Check the disk and the path")
    except Exception as error:  # a parser's bug must cost one file, not the batch
        yield IngestError(
            source,
            f"its reader failed with {type(error).__name__}: {error}",
            fix="Report it with this file, and leave the file out until then",
        )
