"""Which files are there to read?"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from vivace.ingest.decode import absolute
from vivace.ingest.formats import SUFFIXES, known_suffixes
from vivace.types import Failure, Skipped


def walk(
    paths: Sequence[Path], suffixes: Collection[str] = SUFFIXES
) -> Iterator[Path | Skipped | Failure]:
    """Yield the readable files under `paths` as absolute paths, in a stable order.

    Directories are entered in order of name; symbolic links are followed, but no file or directory
    is visited twice. Within a directory hidden entries (named once, not their contents) and files
    of unknown formats are skipped; a path named by the caller that cannot be read is a failure.
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
    """Everything under a directory, depth first; `seen` holds real paths already visited."""
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
                # Resolving costs a system call a component: only links need it.
                link = entry.is_symlink()
                target = os.path.realpath(entry.path) if link else os.path.join(real, entry.name)
                stack.append((entry.path, target))


def _file(
    path: Path, real: str, seen: set[str], suffixes: Collection[str]
) -> Iterator[Path | Skipped | Failure]:
    """One entry of a directory that is not a directory itself."""
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
        # Such a path cannot be stored as a document's id.
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
    """The path for people and for storage: bytes that are not UTF-8 as U+FFFD."""
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")
