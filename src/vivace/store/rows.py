"""Converts rows of the store to documents, chunks and vectors, and back, with their checksums."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from vivace.errors import BadInput, BadVectors, StoreError
from vivace.types import Chunk, Document, Float16Vectors, Ids, Section, Signs

CHUNK = (
    'c.id, c.text, c.start, c."end", c.section, c.page,'
    " d.id, d.title, d.source, d.metadata, d.title_indexed, d.n, d.crc32, c.crc32"
)
DOCUMENT = "d.id, d.title, d.source, d.metadata, d.sections, d.text, d.n, d.text_crc32"

_decode = msgspec.json.decode
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def chunk_crc(
    chunk_id: int, n: int, start: int, end: int, page: int | None, section: str, text: str
) -> int:
    """CRC-32 of a chunk's row; SQLite has no checksum of its own."""
    return zlib.crc32(f"{chunk_id} {n} {start} {end} {page} {section}\0{text}".encode())


def document_crc(
    n: int, document_id: str, title: str, source: str, metadata: str, title_indexed: int
) -> int:
    """CRC-32 of the document's fields that each of its chunks carries."""
    fields = [f"{n} {title_indexed}", document_id, title, source, metadata]
    return zlib.crc32("\0".join(fields).encode())


def text_crc(n: int, sections: str, text: str) -> int:
    """CRC-32 of the rest of a document's row."""
    return zlib.crc32(f"{n} {sections}\0{text}".encode())


def vector_crc(chunk_id: int, vector: bytes) -> int:
    """CRC-32 of a row of vectors or token signs. It covers the id: a vector under another's id is
    damage too."""
    return zlib.crc32(vector, chunk_id & 0xFFFFFFFF)


FUNCTIONS = (chunk_crc, document_crc, text_crc, vector_crc)
"""Registered as SQL functions under their names, for statements that compute checksums."""


def damaged(what: str) -> StoreError:
    """The error of a row that fails its checksum."""
    return StoreError(
        f"{what} is damaged in the store",
        fix="Restore a backup, or delete the document and ingest it again",
    )


def chunk_of(row: Sequence[Any]) -> Chunk:
    """The chunk of a row of `CHUNK`.

    Raises:
        StoreError: it fails its checksum.
    """
    chunk_id, text, start, end, section, page = row[:6]
    document, title, source, metadata, titled, n, document_sum, chunk_sum = row[6:14]
    if (
        document_crc(n, document, title, source, metadata, titled) != document_sum
        or chunk_crc(chunk_id, n, start, end, page, section, text) != chunk_sum
    ):
        raise damaged(f"chunk {chunk_id} of document {document!r}")
    return Chunk(
        document,
        text,
        start,
        end,
        chunk_id,
        () if section == "[]" else tuple(_decode(section)),
        page,
        title,
        source,
        # read-only: a snapshot returns the same chunk to every caller
        _NOTHING if metadata == "{}" else MappingProxyType(_decode(metadata)),
    )


def document_of(row: Sequence[Any]) -> Document:
    """The document of the first six columns of `DOCUMENT`."""
    document_id, title, source, metadata, sections, text = row[:6]
    places = [Section(start, tuple(heading), page) for start, heading, page in _decode(sections)]
    return Document(document_id, text, title, source, _decode(metadata), tuple(places))


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


def vectors_of(rows: Sequence[Sequence[Any]], dim: int) -> tuple[Ids, Float16Vectors]:
    """Ids (n,) and vectors (n, dim) of rows (id, blob, checksum).

    Raises:
        StoreError: a vector fails its checksum; names the chunk.
    """
    for chunk_id, blob, crc in rows:
        if zlib.crc32(blob, chunk_id & 0xFFFFFFFF) != crc or len(blob) != 2 * dim:
            raise damaged(f"the vector of chunk {chunk_id}")
    joined = b"".join([row[1] for row in rows])
    ids = np.array([row[0] for row in rows], np.int64)
    return ids, np.frombuffer(joined, dtype=np.float16).reshape(len(rows), dim)


def signs_blob(signs: Signs, dim: int) -> bytes:
    """Token signs (t, ceil(dim / 8)) as they are stored.

    Raises:
        BadVectors: they have another dimension or type.
    """
    width = -(-dim // 8)
    if signs.ndim != 2 or signs.shape[1] != width or signs.dtype != np.uint8:
        raise BadVectors(
            f"a chunk has token signs of shape {signs.shape} and type {signs.dtype}",
            fix=f"Give each token {width} uint8",
        )
    return signs.tobytes()


def signs_of(row: Sequence[Any], dim: int) -> Signs | None:
    """The token signs of a row (id, blob, checksum), read-only; None if they are damaged: callers
    can do without."""
    chunk_id, blob, crc = row
    width = -(-dim // 8)
    if vector_crc(chunk_id, blob) != crc or len(blob) % width:
        return None
    return np.frombuffer(blob, np.uint8).reshape(-1, width)
