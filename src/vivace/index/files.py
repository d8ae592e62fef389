"""Files that are whole or known not to be: sizes and checksums, atomic and durable writing."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

BEGUN = ".new"
"""How the name of a file ends that is not yet in its place."""
_BLOCK = 1 << 20
"""Bytes read at a time: large enough that the GIL is free while they are summed."""


class FileEntry(msgspec.Struct, frozen=True):
    """What a file has to be: its name in its folder, size in bytes, CRC-32 (zlib)."""

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
    """A file as it is now.

    Raises:
        OSError: it cannot be read.
    """
    crc, size = checksum(path)
    return FileEntry(path.name, size, crc)


def damaged(folder: Path, entries: Iterable[FileEntry], *, threads: int = 2) -> list[str]:
    """Names of the entries that are missing, of another size, or fail their checksum.

    Every byte is read. `threads` read at once: summing and reading leave the GIL free.
    """
    listed = list(entries)
    with ThreadPoolExecutor(max(1, min(threads, len(listed)))) as pool:
        whole = list(pool.map(lambda e: _whole(folder, e), listed))
    return [e.name for e, intact in zip(listed, whole, strict=True) if not intact]


def replace(path: Path, data: bytes) -> None:
    """Put `data` at `path`, durable, as a whole or not at all.

    Raises:
        OSError: it cannot be written; what was at `path` is still there.
    """
    aside = path.with_name(f"{path.name}{BEGUN}")
    write(aside, [data])
    aside.replace(path)
    sync(path.parent)


def write(path: Path, parts: Iterable[bytes | memoryview]) -> FileEntry:
    """A new file of these parts, durable once its folder is (`sync`); summed on the way."""
    crc, size = 0, 0
    with path.open("wb", buffering=0) as file:
        for part in parts:
            view = memoryview(part).cast("B")
            crc = zlib.crc32(view, crc)
            size += len(view)
            while len(view):
                view = view[file.write(view) :]
        os.fsync(file.fileno())
    return FileEntry(path.name, size, crc)


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    at = os.open(path, os.O_RDONLY)
    try:
        os.fsync(at)
    finally:
        os.close(at)


def total(entries: Sequence[FileEntry]) -> int:
    """Bytes on disk."""
    return sum(e.bytes for e in entries)


def _whole(folder: Path, expected: FileEntry) -> bool:
    path = folder / expected.name
    try:
        # a cut file is known without reading it
        if path.stat().st_size != expected.bytes:
            return False
        return entry(path) == expected
    except OSError:
        return False
