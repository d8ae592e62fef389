"""Finds the files to read below the paths that the user names, and nothing outside of them.

A folder may come from a stranger, with links to the user's own files and to devices that never end.
So links that lead out of the named folders are skipped, as is all that is no regular file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from vivace.ingest.decode import Boundary, absolute
from vivace.ingest.formats import SUFFIXES, known_suffixes
from vivace.types import Failure, Skipped

Links: TypeAlias = Literal["inside", "never", "anywhere"]
"""Which links below a named folder are followed: those to places in the named folders that are not
hidden, none, or all. A named path may itself be a link."""

_KERNEL: Final = frozenset(
    """
    proc sysfs devtmpfs devpts debugfs tracefs securityfs configfs cgroup cgroup2 bpf pstore
    efivarfs selinuxfs smackfs binfmt_misc fusectl mqueue rpc_pipefs nsfs
    """.split()  # noqa: SIM905
)
"""File systems whose files are calls to the kernel: they may block, never end, or have effects."""
_MOUNTS: Final = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to read: `path` names it, and `boundary` is where to open it, if it is below a named
    folder."""

    path: Path
    size: int
    boundary: Boundary | None = None


Found: TypeAlias = FoundFile | Skipped | Failure


def walk(
    paths: Sequence[Path], suffixes: Collection[str] = SUFFIXES, links: Links = "inside"
) -> Iterator[Found]:
    """Yield the readable files below `paths`, with absolute paths, in a stable order.

    Directories are entered in order of name. No file or directory is visited twice, so loops of
    links end. Inside a directory, hidden entries, files of unknown formats, links that are not
    followed and whatever is no file are skipped; a hidden directory is reported once. A path in
    `paths` that cannot be read is a failure.
    """
    named = [absolute(path) for path in paths]
    folders = [path for path in named if path.is_dir()]
    walking = _Walk(folders, suffixes, links)
    for path in named:
        yield from walking.named(path)


class _Walk:
    """One walk over all named paths."""

    def __init__(self, roots: Sequence[Path], suffixes: Collection[str], links: Links) -> None:
        real = {os.path.realpath(root) for root in roots}
        self._roots = sorted(real, key=len, reverse=True)
        self._suffixes = suffixes
        self._links = links
        self._seen: set[str] = set()
        """The real paths visited."""
        self._kernel = _kernel_devices()

    def named(self, path: Path) -> Iterator[Found]:
        """A path that the user names, and all below it."""
        try:
            status = path.stat()
        except OSError as error:
            yield _unreachable(path, error)
            return
        if kernel := self._kernel.get(status.st_dev):
            fix = "Copy what it says into a file of its own"
            yield Failure(_shown(path), f"belongs to the kernel ({kernel})", fix)
        elif stat.S_ISDIR(status.st_mode):
            yield from self._below(path)
        elif not stat.S_ISREG(status.st_mode):
            fix = "Give a file or a directory, not a pipe or a device"
            yield Failure(_shown(path), "is neither a file nor a directory", fix)
        elif path.suffix.lower() not in self._suffixes:
            kind = path.suffix or "files without a suffix"
            fix = f"Convert it to one of {known_suffixes()}"
            yield Failure(_shown(path), f"there is no reader for {kind}", fix)
        else:
            yield from self._once(path, os.path.realpath(path), status.st_size, None)

    def _below(self, root: Path) -> Iterator[Found]:
        """The files below a directory, depth first."""
        stack = [(str(root), os.path.realpath(root))]
        while stack:
            name, real = stack.pop()
            path = Path(name)
            try:
                real, status = self._resolved(path, real)
            except _NotFollowedError as error:
                yield Skipped(_shown(path), error.reason)
                continue
            if stat.S_ISDIR(status.st_mode):
                for entry in self._entries(path, real):
                    if isinstance(entry, str):
                        stack.append((os.path.join(name, entry), os.path.join(real, entry)))
                    else:
                        yield entry
            elif not stat.S_ISREG(status.st_mode):
                yield Skipped(_shown(path), "is neither a file nor a directory")
            elif path.suffix.lower() not in self._suffixes:
                kind = path.suffix or "files without a suffix"
                yield Skipped(_shown(path), f"there is no reader for {kind}")
            else:
                yield from self._once(path, real, status.st_size, self._boundary(real))

    def _resolved(self, path: Path, real: str) -> tuple[str, os.stat_result]:
        """The place of an entry of a directory, behind a link that is followed, and its status.

        Raises:
            _NotFollowedError: it is left out.
        """
        try:
            status = os.lstat(real)
            if stat.S_ISLNK(status.st_mode):
                real = self._target(real)
                status = os.lstat(real)
        except OSError:
            reason = "is a broken link" if path.is_symlink() else "has vanished"
            raise _NotFollowedError(reason) from None
        if kernel := self._kernel.get(status.st_dev):
            raise _NotFollowedError(f"belongs to the kernel ({kernel})")
        return real, status

    def _target(self, link: str) -> str:
        if self._links == "never":
            raise _NotFollowedError("is a link, and ingest.links follows none")
        target = os.path.realpath(link, strict=True)
        if self._links == "inside":
            root = self._root_of(target)
            if root is None:
                raise _NotFollowedError("is a link that leads out of the folder")
            if any(part.startswith(".") for part in target[len(root) :].split(os.sep)):
                raise _NotFollowedError("is a link to something hidden")
        return target

    def _entries(self, path: Path, real: str) -> Iterator[str | Skipped | Failure]:
        """What a directory that was not visited yet holds: the names to visit, last one first."""
        if not self._is_new(real):
            return
        try:
            with os.scandir(real) as found:
                names = sorted((entry.name for entry in found), reverse=True)
        except OSError as error:
            yield _unreachable(path, error)
            return
        for name in reversed(names):
            if name.startswith("."):
                yield Skipped(_shown(path / name), "is hidden")
        yield from (name for name in names if not name.startswith("."))

    def _once(
        self, path: Path, real: str, size: int, boundary: Boundary | None
    ) -> Iterator[FoundFile | Failure]:
        if not self._is_new(real):
            return
        if _shown(path) != path.as_posix():
            # such a path cannot be a document's id in the store
            yield Failure(_shown(path), "its name is not UTF-8", "Rename the file")
            return
        yield FoundFile(path, size, boundary)

    def _is_new(self, real: str) -> bool:
        if real in self._seen:
            return False
        self._seen.add(real)
        return True

    def _root_of(self, real: str) -> str | None:
        """The named folder that a place is in, the innermost of several."""
        for root in self._roots:
            if real == root or real.startswith(root.rstrip(os.sep) + os.sep):
                return root
        return None

    def _boundary(self, real: str) -> Boundary | None:
        root = self._root_of(real)
        if root is None:
            return None  # behind a link that `ingest.links` allows to lead anywhere
        return Boundary(os.fsencode(root), os.fsencode(real[len(root) :].lstrip(os.sep)))


class _NotFollowedError(Exception):
    """An entry of a directory is left out, for this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _kernel_devices() -> dict[int, str]:
    """The device numbers of the kernel's file systems, with their types; none where the system does
    not tell."""
    devices: dict[int, str] = {}
    with suppress(OSError):
        for line in _MOUNTS.read_bytes().splitlines():
            fields = line.split()
            kind = fields[fields.index(b"-") + 1].decode("ascii", "replace")
            if kind in _KERNEL:
                major, minor = map(int, fields[2].split(b":"))
                devices[os.makedev(major, minor)] = kind
    return devices


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
