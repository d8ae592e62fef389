"""Rows to nouns and back."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from vivace.errors import BadInput
from vivace.types import Chunk, Document, Halves, Section

CHUNK = (
    'c.id, c.text, c.start, c."end", c.section, c.page,'
    " d.id, d.title, d.source, d.metadata, d.title_indexed"
)
DOCUMENT = "d.id, d.title, d.source, d.metadata, d.sections, d.text"

_decode = msgspec.json.decode
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def chunk_of(row: Sequence[Any]) -> Chunk:
    id, text, start, end, section, page, document_id, title, source, metadata = row[:10]
    return Chunk(
        document_id,
        text,
        start,
        end,
        id,
        () if section == "[]" else tuple(_decode(section)),
        page,
        title,
        source,
        # read-only: a snapshot hands the same chunk to every caller
        _NOTHING if metadata == "{}" else MappingProxyType(_decode(metadata)),
    )


def document_of(row: Sequence[Any]) -> Document:
    id, title, source, metadata, sections, text = row
    places = [Section(start, tuple(heading), page) for start, heading, page in _decode(sections)]
    return Document(id, text, title, source, _decode(metadata), tuple(places))


def metadata_text(document: Document) -> str:
    """The metadata as JSON.

    Raises:
        BadInput: a value has no JSON form.
    """
    try:
        return msgspec.json.encode(dict(document.metadata)).decode()
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"the metadata of document {document.id!r} cannot be stored: {error}",
            fix="Use strings, numbers, booleans, lists and mappings with string keys",
        ) from error


def sections_text(document: Document) -> str:
    return msgspec.json.encode([[s.start, s.heading, s.page] for s in document.sections]).decode()


def heading_text(chunk: Chunk) -> str:
    return msgspec.json.encode(chunk.section).decode() if chunk.section else "[]"


def vectors_of(rows: Sequence[sqlite3.Row | Sequence[Any]], dim: int) -> Halves:
    """(n, dim) float16 from rows whose last column is the blob."""
    joined = b"".join(row[-1] for row in rows)
    return np.frombuffer(joined, dtype=np.float16).reshape(len(rows), dim)
