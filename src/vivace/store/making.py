"""Making the store of a new collection, and what may not be taken for one."""

from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path

from vivace.errors import StoreError, StoreUnwritable
from vivace.store import schema
from vivace.store.connections import Connections, translated
from vivace.types import Metric

FILE = "store.db"
_LOCK = "write.lock"


def is_file(path: Path) -> bool:
    """Whether there is a store.

    Raises:
        StoreError: the path is none.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise StoreError(
            f"{path.parent} is no usable path: {error.strerror}", fix="Give a shorter or other path"
        ) from error


def check_begun(folder: Path) -> None:
    """An empty store is one that somebody has just begun to make, unless others stand beside it.

    Raises:
        StoreError: indexes were made from what it held.
    """
    others = [p.name for p in folder.iterdir() if not p.name.startswith((FILE, _LOCK))]
    if others:
        raise StoreError(
            f"{folder / FILE} is empty or gone, but {', '.join(sorted(others))} were made from it",
            fix="Restore a backup of it, or delete the folder and ingest its sources again",
        )


def make(folder: Path, path: Path, embedder: str, dim: int, metric: Metric) -> None:
    """Make the folder and an empty store in it.

    Raises:
        StoreUnwritable: it cannot be made.
        StoreError: the folder holds something else, or what is left of a collection.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnwritable(
            f"{folder} cannot be made: {error.strerror}", fix="Choose a folder you can write to"
        ) from error
    if any(folder.iterdir()) and not path.exists():
        if not (folder / _LOCK).exists():
            raise StoreError(
                f"{folder} holds other files and no collection",
                fix="Give an empty or new folder for the collection",
            )
        check_begun(folder)
    connections = Connections(path)
    try:
        write_identity(connections.writer(), embedder, dim, metric)
    finally:
        connections.close()


def write_identity(writer: sqlite3.Connection, embedder: str, dim: int, metric: Metric) -> None:
    """Make the tables of a collection with a new identity, unless another process has done so."""
    with translated(Path(FILE)):
        identity: dict[str, str | int] = {
            "uuid": uuid.uuid4().hex,
            "embedder": embedder,
            "dim": dim,
            "metric": metric,
            "epoch": 0,
        }
        schema.create(writer, identity)
