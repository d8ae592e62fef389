"""Finds the files to read, and the reader of each: the pipeline's entry to the readers.

Readers are imported when needed: listing a folder must not load an HTML parser.
"""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

from vivace.errors import IngestError, MissingExtra
from vivace.ingest.decode import DEFAULT_MAX_BYTES, absolute
from vivace.protocols import Reader
from vivace.settings import Parse
from vivace.types import Document, Failure, Skipped

_LIGHT: Final = {
    "vivace.ingest.decode:TextReader": (".txt", ".text", ".rst", ".log"),
    "vivace.ingest.markdown:MarkdownReader": (".md", ".markdown"),
    "vivace.ingest.jsonfiles:JsonLinesReader": (".jsonl", ".ndjson"),
}
"""Readers that run in this process: they are ours and take little time and memory."""
_WHOLE: Final = {
    "vivace.ingest.tables:CsvReader": (".csv", ".tsv"),
    "vivace.ingest.jsonfiles:JsonReader": (".json",),
    "vivace.ingest.jsonfiles:NotebookReader": (".ipynb",),
}
"""Readers of ours that hold a file's whole structure: they run in the sandbox above `SMALL`."""
_SANDBOXED: Final = {
    "vivace.ingest.html:HtmlReader": (".html", ".htm"),
    "vivace.ingest.pdf:PdfReader": (".pdf",),
    "vivace.ingest.docx:DocxReader": (".docx",),
    "vivace.ingest.office:XlsxReader": (".xlsx",),
    "vivace.ingest.office:PptxReader": (".pptx",),
    "vivace.ingest.office:EpubReader": (".epub",),
}
"""Readers with parsers of others: they always run in the sandbox."""
_BY_SUFFIX: Final = {
    suffix: name for name, suffixes in (_LIGHT | _WHOLE | _SANDBOXED).items() for suffix in suffixes
}

SUFFIXES: Final = tuple(_BY_SUFFIX)
"""Every readable suffix, lower case, with the dot."""
SMALL: Final = 4 << 20
"""Bytes of a file up to which the readers in `_WHOLE` run in this process."""


def sandboxed(path: Path) -> bool:
    """Whether the file is read in a killable process; not if its status cannot be read."""
    name = _BY_SUFFIX.get(path.suffix.lower(), "")
    if name not in _WHOLE:
        return name in _SANDBOXED
    try:
        return path.stat().st_size > SMALL
    except OSError:
        return False  # its reader reports why


def known_suffixes() -> str:
    """The readable suffixes, for messages."""
    return ", ".join(SUFFIXES)


def reader_for(
    path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, parse: Parse | None = None
) -> Reader | None:
    """The reader for the file's suffix, upper or lower case; None if there is none.

    See `FileReader` for the limits.
    """
    name = _BY_SUFFIX.get(path.suffix.lower())
    if name is None:
        return None
    module, _, reader = name.partition(":")
    made: Reader = getattr(importlib.import_module(module), reader)(max_bytes, parse)
    return made


def read(
    path: Path, *, max_bytes: int, parse: Parse | None = None, reader: Reader | None = None
) -> Iterator[Document | IngestError]:
    """Yield the file's documents and its errors; stateless, so that another process can run it.

    Raises:
        MemoryError: the caller knows the limit. Nothing else is raised.
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
    except Exception as error:  # a parser's bug must not fail the whole ingest
        yield IngestError(
            source,
            f"its reader failed with {type(error).__name__}: {error}",
            fix="Report it with this file, and leave the file out until then",
        )


def walk(
    paths: Sequence[Path], suffixes: Collection[str] = SUFFIXES
) -> Iterator[Path | Skipped | Failure]:
    """Yield the readable files below `paths` as absolute paths, in a stable order.

    Directories are entered in order of name. Symbolic links are followed, but no file or directory
    is visited twice. Inside a directory, hidden entries and files of unknown formats are skipped; a
    hidden directory is reported once. A path in `paths` that cannot be read is a failure.
    """
    seen: set[str] = set()
    for path in paths:
        path = absolute(path)
        try:
            mode = path.stat().st_mode
        except OSError as error:
            yield _unreachable(path, error)
            continue
        if stat.S_ISDIR(mode):
            yield from _directory(path, seen, suffixes)
        elif not stat.S_ISREG(mode):
            fix = "Give a file or a directory, not a pipe or a device"
            yield Failure(_shown(path), "is neither a file nor a directory", fix)
        elif path.suffix.lower() not in suffixes:
            kind = path.suffix or "files without a suffix"
            fix = f"Convert it to one of {known_suffixes()}"
            yield Failure(_shown(path), f"there is no reader for {kind}", fix)
        else:
            yield from _once(path, os.path.realpath(path), seen)


def _directory(
    root: Path, seen: set[str], suffixes: Collection[str]
) -> Iterator[Path | Skipped | Failure]:
    """The files below a directory, depth first; `seen` holds the real paths visited."""
    stack: list[tuple[str, str]] = [(str(root), os.path.realpath(root))]
    while stack:
        path, real = stack.pop()
        if not os.path.isdir(real):
            yield from _file(Path(path), real, seen, suffixes)
            continue
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            yield _unreachable(Path(path), error)
            continue
        hidden = [entry for entry in entries if entry.name.startswith(".")]
        for entry in reversed(hidden):
            yield Skipped(_shown(Path(entry.path)), "is hidden")
        for entry in entries:
            if not entry.name.startswith("."):
                # resolving takes a system call per path component: only links need it
                link = entry.is_symlink()
                target = os.path.realpath(entry.path) if link else os.path.join(real, entry.name)
                stack.append((entry.path, target))


def _file(
    path: Path, real: str, seen: set[str], suffixes: Collection[str]
) -> Iterator[Path | Skipped | Failure]:
    """An entry of a directory that is no directory itself."""
    try:
        regular = stat.S_ISREG(os.stat(real).st_mode)
    except OSError:
        yield Skipped(_shown(path), "is a broken link" if path.is_symlink() else "has vanished")
        return
    if not regular:
        yield Skipped(_shown(path), "is neither a file nor a directory")
    elif path.suffix.lower() not in suffixes:
        yield Skipped(
            _shown(path), f"there is no reader for {path.suffix or 'files without a suffix'}"
        )
    else:
        yield from _once(path, real, seen)


def _once(path: Path, real: str, seen: set[str]) -> Iterator[Path | Failure]:
    if real in seen:
        return
    seen.add(real)
    if _shown(path) != path.as_posix():
        # such a path cannot be a document's id in the store
        yield Failure(_shown(path), "its name is not UTF-8", "Rename the file")
        return
    yield path


def _unreachable(path: Path, error: OSError) -> Failure:
    source = _shown(path)
    if isinstance(error, FileNotFoundError):
        return Failure(
            source,
            "does not exist",
            f"Check the path; relative ones start at {Path.cwd().as_posix()}",
        )
    if isinstance(error, PermissionError):
        return Failure(source, "may not be read by this user", "Grant read permission on it")
    return Failure(source, f"cannot be read: {error.strerror or error}", "Check the disk and path")


def _shown(path: Path) -> str:
    """The path for people and for storage, with U+FFFD for bytes that are not UTF-8."""
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")
