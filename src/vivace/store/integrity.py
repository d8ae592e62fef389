"""Is every row of the store what was written? Reads the whole file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivace.errors import StoreError
from vivace.store import rows, signs
from vivace.store.connections import Connections, translation
from vivace.types import OnUpkeep, UpkeepProgress

_BATCH = 2048
_MOST = 100
"""Findings reported of one kind; a broken disk has millions."""

"""Called between the steps of a slow work; it may raise to stop it."""


def findings(path: Path, dim: int, progress: OnUpkeep) -> list[str]:
    """What is wrong with a store's file, a sentence each; changes nothing."""
    connections = Connections(path)
    try:
        reader = connections.reader()
        found: list[str] = []
        for check in (_file, _documents, _chunks, _vectors, _signs, _orphans):
            try:
                found += check(reader, dim, progress)
            except (sqlite3.Error, StoreError) as error:
                known = error if isinstance(error, StoreError) else translation(error, path)
                found.append(known.what)
        return found
    finally:
        connections.close()


def _file(reader: sqlite3.Connection, dim: int, progress: OnUpkeep) -> list[str]:
    progress(UpkeepProgress("store: pages", 0, 1))
    found = [row[0] for row in reader.execute(f"PRAGMA integrity_check({_MOST})")]
    progress(UpkeepProgress("store: pages", 1, 1))
    return [f"store.db: {line}" for line in found if line != "ok"]


def _documents(reader: sqlite3.Connection, dim: int, progress: OnUpkeep) -> list[str]:
    def whole(row: Sequence[Any]) -> bool:
        n, document_id, title, source, metadata, titled, sections, text, crc, text_crc = row
        head = rows.document_crc(n, document_id, title, source, metadata, titled)
        return (head, rows.text_crc(n, sections, text)) == (crc, text_crc)

    columns = "n, id, title, source, metadata, title_indexed, sections, text, crc32, text_crc32"
    return [
        f"store.db: document {row[1]!r} fails its checksum"
        for row in _failing(reader, "documents", columns, whole, progress)
    ]


def _chunks(reader: sqlite3.Connection, dim: int, progress: OnUpkeep) -> list[str]:
    columns = 'id, document, start, "end", page, section, text, crc32'
    return [
        f"store.db: chunk {row[0]} fails its checksum"
        for row in _failing(
            reader, "chunks", columns, lambda r: rows.chunk_crc(*r[:7]) == r[7], progress
        )
    ]


def _vectors(reader: sqlite3.Connection, dim: int, progress: OnUpkeep) -> list[str]:
    def whole(row: Sequence[Any]) -> bool:
        chunk_id, blob, crc = row
        return (
            len(blob) == 2 * dim
            and rows.vector_crc(chunk_id, blob) == crc
            and bool(np.isfinite(np.frombuffer(blob, np.float16)).all())
        )

    return [
        f"store.db: the vector of chunk {row[0]} fails its checksum"
        for row in _failing(reader, "vectors", "id, vector, crc32", whole, progress)
    ]


def _signs(reader: sqlite3.Connection, dim: int, progress: OnUpkeep) -> list[str]:
    if not signs.exist(reader):
        return []
    return [
        f"store.db: the token signs of chunk {row[0]} fail their checksum"
        for row in _failing(
            reader,
            "signs",
            "id, signs, crc32",
            lambda row: rows.signs_of(row, dim) is not None,
            progress,
        )
    ]


def _orphans(reader: sqlite3.Connection, dim: int, progress: OnUpkeep) -> list[str]:
    found = []
    for what, sql in (
        ("chunks without a vector", "SELECT id FROM chunks EXCEPT SELECT id FROM vectors"),
        ("vectors without a chunk", "SELECT id FROM vectors EXCEPT SELECT id FROM chunks"),
        (
            "chunks without a document",
            "SELECT id FROM chunks WHERE document NOT IN (SELECT n FROM documents)",
        ),
    ):
        ids = [row[0] for row in reader.execute(f"{sql} LIMIT {_MOST}")]
        if ids:
            found.append(f"store.db: {what}: {', '.join(map(str, ids[:10]))}")
    return found


def _failing(
    reader: sqlite3.Connection,
    table: str,
    columns: str,
    whole: Callable[[Sequence[Any]], bool],
    progress: OnUpkeep,
) -> Iterator[Sequence[Any]]:
    total = reader.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
    cursor = reader.execute(f"SELECT {columns} FROM {table}")
    done = bad = 0
    while batch := cursor.fetchmany(_BATCH):
        for row in batch:
            if not whole(row):
                bad += 1
                yield row
                if bad == _MOST:
                    return
        done += len(batch)
        progress(UpkeepProgress(f"store: {table}", done, total))
