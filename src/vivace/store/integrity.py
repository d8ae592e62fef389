"""Verifies the checksum of every row of a store; reads the whole file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from vivace.errors import StoreError
from vivace.store import rows, signs
from vivace.store.connections import Connections, translation
from vivace.types import OnUpkeep, UpkeepProgress

_BATCH = 2048
_MOST = 100
"""Findings reported of one kind; a broken disk has millions."""
_ORPHANS = {
    "chunks without a vector": "SELECT id FROM chunks EXCEPT SELECT id FROM vectors",
    "vectors without a chunk": "SELECT id FROM vectors EXCEPT SELECT id FROM chunks",
    "chunks without a document": (
        "SELECT id FROM chunks WHERE document NOT IN (SELECT n FROM documents)"
    ),
}


_Check: TypeAlias = Callable[[sqlite3.Connection, OnUpkeep], list[str]]


class _Table(NamedTuple):
    name: str
    columns: str
    intact: Callable[[Sequence[Any]], bool]
    """Whether a row of the columns is what was written."""
    damaged: str
    """What to report of a row that is not, to be formatted with its columns."""


def findings(path: Path, dim: int, progress: OnUpkeep) -> list[str]:
    """What is wrong with a store's file, a sentence each; changes nothing."""
    connections = Connections(path)
    try:
        reader = connections.reader()
        checks: list[_Check] = [_pages, _orphans]
        checks[1:1] = [partial(_rows, table) for table in _tables(dim)]
        found: list[str] = []
        for check in checks:
            try:
                found += [f"store.db: {line}" for line in check(reader, progress)]
            except (sqlite3.Error, StoreError) as error:
                known = error if isinstance(error, StoreError) else translation(error, path)
                found.append(known.what)
        return found
    finally:
        connections.close()


def _tables(dim: int) -> Iterator[_Table]:
    def intact_vector(row: Sequence[Any]) -> bool:
        chunk_id, blob, crc = row
        whole = len(blob) == 2 * dim and rows.vector_crc(chunk_id, blob) == crc
        return whole and bool(np.isfinite(np.frombuffer(blob, np.float16)).all())

    yield _Table(
        "documents",
        "n, id, title, source, metadata, title_indexed, sections, text, crc32, text_crc32",
        lambda r: (rows.document_crc(*r[:6]), rows.text_crc(r[0], *r[6:8])) == tuple(r[8:]),
        "document {1!r} fails its checksum",
    )
    yield _Table(
        "chunks",
        'id, document, start, "end", page, section, text, crc32',
        lambda r: rows.chunk_crc(*r[:7]) == r[7],
        "chunk {0} fails its checksum",
    )
    yield _Table(
        "vectors", "id, vector, crc32", intact_vector, "the vector of chunk {0} fails its checksum"
    )
    yield _Table(
        "signs",
        "id, signs, crc32",
        lambda r: rows.signs_of(r, dim) is not None,
        "the token signs of chunk {0} fail their checksum",
    )


def _pages(reader: sqlite3.Connection, progress: OnUpkeep) -> list[str]:
    progress(UpkeepProgress("store: pages", 0, 1))
    found = [row[0] for row in reader.execute(f"PRAGMA integrity_check({_MOST})")]
    progress(UpkeepProgress("store: pages", 1, 1))
    return [line for line in found if line != "ok"]


def _rows(table: _Table, reader: sqlite3.Connection, progress: OnUpkeep) -> list[str]:
    if table.name == "signs" and not signs.exist(reader):
        return []
    total = reader.execute(f"SELECT COUNT(*) FROM {table.name}").fetchone()[0]
    cursor = reader.execute(f"SELECT {table.columns} FROM {table.name}")
    done, found = 0, list[str]()
    while (batch := cursor.fetchmany(_BATCH)) and len(found) < _MOST:
        found += [table.damaged.format(*row) for row in batch if not table.intact(row)]
        done += len(batch)
        progress(UpkeepProgress(f"store: {table.name}", done, total))
    return found[:_MOST]


def _orphans(reader: sqlite3.Connection, progress: OnUpkeep) -> list[str]:
    found = []
    for what, sql in _ORPHANS.items():
        ids = [str(row[0]) for row in reader.execute(f"{sql} LIMIT {_MOST}")]
        if ids:
            found.append(f"{what}: {', '.join(ids[:10])}")
    return found
