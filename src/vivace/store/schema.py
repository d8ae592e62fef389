"""The tables, their version, and how older versions become this one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import TypeAlias

from vivace.errors import CollectionTooNew, StoreError

VERSION = 1

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- text comes last: reading the columns before it never walks its overflow pages
CREATE TABLE documents (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    source TEXT NOT NULL,
    metadata TEXT NOT NULL,
    sections TEXT NOT NULL,
    title_indexed INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    text TEXT NOT NULL
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
    text TEXT NOT NULL
);
CREATE INDEX chunks_document ON chunks (document);
CREATE INDEX chunks_epoch ON chunks (epoch);
-- apart from the chunks, so that building an index reads vectors only
CREATE TABLE vectors (id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
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
MIGRATIONS: Mapping[int, Migration] = {}
"""`MIGRATIONS[v]` turns version v into v + 1, inside one transaction."""


def create(connection: sqlite3.Connection, meta: Mapping[str, str | int]) -> None:
    """Make the tables and write the identity in one transaction; nothing if another process did."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        if version(connection):
            return
        for statement in TABLES.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
        connection.execute(f"PRAGMA user_version = {VERSION:d}")


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
