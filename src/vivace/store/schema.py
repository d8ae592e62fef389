"""The store's file: creating it, its tables and their version, migrating older versions."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from vivace.errors import CollectionTooNew, StoreError, StoreUnwritable
from vivace.store import privacy, rows, signs
from vivace.store.connections import LOCK, Connections, translated
from vivace.types import Metric

FILE: Final = "store.db"
VERSION = 2

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- text is the last column: reading the others then never walks its overflow pages
CREATE TABLE documents (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    source TEXT NOT NULL,
    metadata TEXT NOT NULL,
    sections TEXT NOT NULL,
    title_indexed INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    text TEXT NOT NULL,
    crc32 INTEGER NOT NULL DEFAULT 0,
    text_crc32 INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX documents_source ON documents (source);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    document INTEGER NOT NULL REFERENCES documents (n),
    epoch INTEGER NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    page INTEGER,
    section TEXT NOT NULL,
    hash BLOB NOT NULL,
    text TEXT NOT NULL,
    crc32 INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX chunks_document ON chunks (document);
CREATE INDEX chunks_epoch ON chunks (epoch);
-- separate from the chunks: building an index then reads vectors only
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY, vector BLOB NOT NULL, crc32 INTEGER NOT NULL DEFAULT 0
);
-- a random stamp per transaction, by which an index knows whether its epoch is of this history
CREATE TABLE commits (epoch INTEGER PRIMARY KEY, stamp TEXT NOT NULL);
CREATE TABLE removed (id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL);
CREATE INDEX removed_epoch ON removed (epoch);
CREATE TABLE queries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    text TEXT NOT NULL,
    k INTEGER NOT NULL,
    user TEXT NOT NULL,
    hits TEXT NOT NULL,
    milliseconds REAL NOT NULL
);
"""

Migration: TypeAlias = Callable[[sqlite3.Connection], None]


def _with_checksums(connection: sqlite3.Connection) -> None:
    """Version 2: checksums of rows, the stamps of commits, a metric. Reads every row once."""
    for function in rows.FUNCTIONS:
        connection.create_function(function.__name__, -1, function, deterministic=True)
    for table, column in (
        ("documents", "crc32"),
        ("documents", "text_crc32"),
        ("chunks", "crc32"),
        ("vectors", "crc32"),
    ):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")
    connection.execute(
        "UPDATE documents SET crc32 = document_crc(n, id, title, source, metadata, title_indexed),"
        " text_crc32 = text_crc(n, sections, text)"
    )
    connection.execute(
        'UPDATE chunks SET crc32 = chunk_crc(id, document, start, "end", page, section, text)'
    )
    connection.execute("UPDATE vectors SET crc32 = vector_crc(id, vector)")
    connection.execute("CREATE TABLE commits (epoch INTEGER PRIMARY KEY, stamp TEXT NOT NULL)")
    connection.execute(
        "INSERT INTO commits SELECT value, lower(hex(randomblob(8))) FROM meta WHERE key = 'epoch'"
    )
    connection.executemany("INSERT INTO meta VALUES (?, ?)", list(LATER.items()))


LATER: Mapping[str, str | int] = {"metric": "cosine", "generation": 0, "trimmed": 0}
"""Keys of `meta` that version 2 added. `generation` grows when stored vectors are replaced under
the same ids; removals up to the epoch `trimmed` are no longer listed."""
PRIVATE: Final = "private"
"""The key of `meta` that says that other users' rights were taken: what is given later stays."""
MIGRATIONS: Mapping[int, Migration] = {1: _with_checksums}
"""`MIGRATIONS[v]` turns version v into v + 1, inside one transaction."""


def is_file(path: Path) -> bool:
    """Whether there is a store.

    Raises:
        StoreError: no file can have this path.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise StoreError(
            f"{path.parent} is no usable path: {error.strerror}", fix="Give a shorter or other path"
        ) from error


def check_new(folder: Path) -> None:
    """Accept an empty store as one that another process is creating, unless it has indexes.

    Raises:
        StoreError: there are indexes, made from what the store held before.
    """
    others = [p.name for p in folder.iterdir() if not p.name.startswith((FILE, LOCK))]
    if others:
        raise StoreError(
            f"{folder / FILE} is empty or gone, but {', '.join(sorted(others))} were made from it",
            fix="Restore a backup of it, or delete the folder and ingest its sources again",
        )


def create_store(folder: Path, embedder: str, dim: int, metric: Metric) -> None:
    """Create the folder and an empty store in it.

    Raises:
        StoreUnwritable: it cannot be created.
        StoreError: the folder holds something else, or the remains of a collection.
    """
    path = folder / FILE
    try:
        privacy.make_folder(folder)
    except OSError as error:
        raise StoreUnwritable(
            f"{folder} cannot be made: {error.strerror}", fix="Choose a folder you can write to"
        ) from error
    if any(folder.iterdir()) and not path.exists():
        if not (folder / LOCK).exists():
            raise StoreError(
                f"{folder} holds other files and no collection",
                fix="Give an empty or new folder for the collection",
            )
        check_new(folder)
    privacy.tighten(folder)
    connections = Connections(path)
    try:
        with suppress(OSError):  # the connection says why it cannot be made
            privacy.make_file(path)
        create_tables(connections.writer(), embedder, dim, metric)
    finally:
        connections.close()


def create_tables(writer: sqlite3.Connection, embedder: str, dim: int, metric: Metric) -> None:
    """Create the tables of a collection with a new identity, unless another process has done so."""
    meta: dict[str, str | int] = {
        **LATER,
        PRIVATE: 1,
        "uuid": uuid.uuid4().hex,
        "embedder": embedder,
        "dim": dim,
        "metric": metric,
        "epoch": 0,
    }
    with translated(Path(FILE)):
        writer.execute("BEGIN IMMEDIATE")
        with writer:
            if version(writer):
                return
            for statement in TABLES.split(";\n"):
                if statement.strip():
                    writer.execute(statement)
            writer.execute(signs.TABLE)
            writer.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
            writer.execute("INSERT INTO commits VALUES (0, lower(hex(randomblob(8))))")
            writer.execute(f"PRAGMA user_version = {VERSION:d}")


def version(connection: sqlite3.Connection) -> int:
    """0 for a database without our tables."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(
    connection: sqlite3.Connection,
    where: str,
    *,
    target: int = VERSION,
    migrations: Mapping[int, Migration] = MIGRATIONS,
) -> None:
    """Bring an older database to `target`; each step commits on its own.

    Raises:
        CollectionTooNew: a later version of Vivace wrote it.
        StoreError: it is older than the oldest version this one can read.
    """
    found = version(connection)
    if found > target:
        raise CollectionTooNew(
            f"{where} has schema {found}; this Vivace reads up to {target}",
            fix="Upgrade: pip install -U vivace",
        )
    while found < target:
        step = migrations.get(found)
        if step is None:
            raise StoreError(
                f"{where} has schema {found}, older than this Vivace reads",
                fix="Ingest its sources into a new collection",
            )
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            if version(connection) == found:  # else another process did it meanwhile
                step(connection)
                connection.execute(f"PRAGMA user_version = {found + 1:d}")
        found += 1
