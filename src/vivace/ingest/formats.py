"""Chooses the reader of each file: the pipeline's entry to the readers.

Readers are imported when needed: listing a folder must not load an HTML parser.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from vivace.errors import IngestError, MissingExtra
from vivace.ingest.decode import DEFAULT_MAX_BYTES, Boundary, FileReader, Position, absolute
from vivace.protocols import Reader
from vivace.settings import Parse
from vivace.types import Document

SMALL: Final = 1 << 20
"""Bytes of a file up to which this process reads it itself, where the reader is ours."""
_SMALL_MARKDOWN: Final = 1 << 18
_SANDBOXED: Final = -1
"""For readers with parsers of others, which always run in the sandbox."""
_READERS: Final = (
    ("vivace.ingest.decode:TextReader", SMALL, (".txt", ".text", ".rst", ".log")),
    ("vivace.ingest.markdown:MarkdownReader", _SMALL_MARKDOWN, (".md", ".markdown")),
    ("vivace.ingest.jsonfiles:JsonLinesReader", SMALL, (".jsonl", ".ndjson")),
    ("vivace.ingest.tables:CsvReader", SMALL, (".csv", ".tsv")),
    ("vivace.ingest.jsonfiles:JsonReader", SMALL, (".json",)),
    ("vivace.ingest.jsonfiles:NotebookReader", SMALL, (".ipynb",)),
    ("vivace.ingest.html:HtmlReader", _SANDBOXED, (".html", ".htm")),
    ("vivace.ingest.pdf:PdfReader", _SANDBOXED, (".pdf",)),
    ("vivace.ingest.docx:DocxReader", _SANDBOXED, (".docx",)),
    ("vivace.ingest.office:XlsxReader", _SANDBOXED, (".xlsx",)),
    ("vivace.ingest.office:PptxReader", _SANDBOXED, (".pptx",)),
    ("vivace.ingest.office:EpubReader", _SANDBOXED, (".epub",)),
)
_BY_SUFFIX: Final = {
    suffix: (name, small) for name, small, suffixes in _READERS for suffix in suffixes
}

SUFFIXES: Final = tuple(_BY_SUFFIX)
"""Every readable suffix, lower case, with the dot."""


def sandboxed(path: Path, size: int) -> bool:
    """Whether the built-in reader reads a file of `size` bytes in a killable process."""
    _, small = _BY_SUFFIX.get(path.suffix.lower(), ("", SMALL))
    return size > small


def known_suffixes() -> str:
    """The readable suffixes, for messages."""
    return ", ".join(SUFFIXES)


def reader_for(
    path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, parse: Parse | None = None
) -> FileReader | None:
    """The reader for the file's suffix, upper or lower case; None if there is none.

    See `FileReader` for the limits.
    """
    name, _ = _BY_SUFFIX.get(path.suffix.lower(), ("", 0))
    if not name:
        return None
    module, _, reader = name.partition(":")
    made: FileReader = getattr(importlib.import_module(module), reader)(max_bytes, parse)
    return made


def read(
    path: Path,
    *,
    max_bytes: int,
    parse: Parse | None = None,
    reader: Reader | None = None,
    boundary: Boundary | None = None,
) -> Iterator[Document | IngestError]:
    """Yield the file's documents and its errors.

    Args:
        reader: instead of the built-in one. It opens the path by itself, unless it is a
            `FileReader`.

    Raises:
        MemoryError: the caller knows the limit. Nothing else is raised.
    """
    reader = reader or reader_for(path, max_bytes=max_bytes, parse=parse)
    if reader is None:
        yield _no_reader(path)
    elif isinstance(reader, FileReader):
        yield from _reported(path, partial(reader.read, path, boundary))
    else:
        yield from _reported(path, partial(reader.read, path))


def read_part(
    path: Path,
    *,
    max_bytes: int,
    parse: Parse,
    boundary: Boundary | None = None,
    start: Position | None = None,
) -> Iterator[Document | IngestError | Position]:
    """As `read` by a built-in reader, of the part of the file from `start` on."""
    reader = reader_for(path, max_bytes=max_bytes, parse=parse)
    if reader is None:
        yield _no_reader(path)
    else:
        yield from _reported(path, partial(reader.read_part, path, boundary, start))


T = TypeVar("T", Document | IngestError, Document | IngestError | Position)


def _reported(path: Path, reading: Callable[[], Iterator[T]]) -> Iterator[T | IngestError]:
    """What a reader yields, with an `IngestError` instead of what it raises."""
    source = absolute(path).as_posix()
    try:
        yield from reading()
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
    except Exception as error:  # a parser's bug must not fail the whole ingest
        yield IngestError(
            source,
            f"its reader failed with {type(error).__name__}: {error}",
            fix="Report it with this file, and leave the file out until then",
        )


def _no_reader(path: Path) -> IngestError:
    return IngestError(
        absolute(path).as_posix(),
        f"there is no reader for {path.suffix or 'files without a suffix'}",
        fix=f"Convert it to one of {known_suffixes()}",
    )
