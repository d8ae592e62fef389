"""Files with known size and checksum, written atomically and durably."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

UNFINISHED = ".new"
"""Suffix of a file that has not been renamed to its final name yet."""
FOLDER_MODE, FILE_MODE = 0o700, 0o600
"""An index holds the words of documents: only the user who made it can read it."""
_BLOCK = 1 << 20
"""Bytes read at a time: large enough that summing them releases the GIL."""


class FileEntry(msgspec.Struct, frozen=True):
    """A file's name in its folder, its size in bytes and its CRC-32 (zlib)."""

    name: str
    bytes: int
    crc32: int


def checksum(path: Path, length: int | None = None) -> tuple[int, int]:
    """(CRC-32, bytes summed) of the first `length` bytes of a file, or of all; O(1) memory.

    Raises:
        OSError: it cannot be read.
    """
    crc, at, buffer = 0, 0, memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while length is None or at < length:
            wanted = buffer if length is None else buffer[: length - at]
            got = file.readinto(wanted)
            if not got:
                break
            crc = zlib.crc32(buffer[:got], crc)
            at += got
    return crc, at


def entry(path: Path) -> FileEntry:
    """The entry of a file as it is now.

    Raises:
        OSError: it cannot be read.
    """
    crc, size = checksum(path)
    return FileEntry(path.name, size, crc)


def damaged(folder: Path, entries: Iterable[FileEntry], *, threads: int = 2) -> list[str]:
    """Names of the entries that are missing, of another size, or fail their checksum.

    Reads every byte, on `threads` threads: reading and summing release the GIL.
    """
    listed = list(entries)
    with ThreadPoolExecutor(max(1, min(threads, len(listed)))) as pool:
        whole = list(pool.map(lambda e: _whole(folder, e), listed))
    return [e.name for e, intact in zip(listed, whole, strict=True) if not intact]


def replace(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`, atomically and durably.

    Raises:
        OSError: it cannot be written; the old file is unchanged.
    """
    aside = path.with_name(f"{path.name}{UNFINISHED}")
    write(aside, [data])
    aside.replace(path)
    sync(path.parent)


def write(path: Path, parts: Iterable[bytes | memoryview]) -> FileEntry:
    """Write a new file of these parts; it is durable once its folder is (see `sync`)."""
    crc, size = 0, 0
    with open(path, "wb", buffering=0, opener=_opened) as file:
        for part in parts:
            view = memoryview(part).cast("B")
            crc = zlib.crc32(view, crc)
            size += len(view)
            while len(view):
                view = view[file.write(view) :]
        os.fsync(file.fileno())
    return FileEntry(path.name, size, crc)


def _opened(path: str, flags: int) -> int:
    """A file that only this user can read."""
    return os.open(path, flags, FILE_MODE)


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    at = os.open(path, os.O_RDONLY)
    try:
        os.fsync(at)
    finally:
        os.close(at)


def _whole(folder: Path, expected: FileEntry) -> bool:
    path = folder / expected.name
    try:
        # the size tells a cut file without reading it
        if path.stat().st_size != expected.bytes:
            return False
        return entry(path) == expected
    except OSError:
        return False
