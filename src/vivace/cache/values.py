"""What a cached value is outside its own object: its key, its bytes on the wire, its weight.

A value on the wire, little endian; `expires` is seconds since 1970 (infinity: never), the checksum
is the CRC-32 of everything else. Anything that fails a check is a miss, never an error:

    magic 2 | format 1 | compression 1 | schema 4 | expires 8 | checksum 4 | payload

With a `Seal`, its tag of 16 bytes follows.
"""

from __future__ import annotations

import struct
import sys
import threading
import zlib
from collections.abc import Mapping
from hashlib import blake2b
from hmac import compare_digest
from math import inf
from typing import Any, Final

import zstandard

from vivace.types import Answer, Chunk, SearchResult

EMBEDDING, SEARCH, ANSWER = "embedding", "search", "answer"
"""The kinds of values, one `CacheNamespace` each."""

KEY_SCHEMA: Final = 1
"""Raised when the layout of any kind of value changes: no value of the older layout is found."""
_FLOAT: Final = struct.Struct(">d").pack
_KEY_HEAD: Final = b"vivace %d" % KEY_SCHEMA

_HEADER: Final = struct.Struct("<2sBBIdI")
_MAGIC: Final = b"Vc"
_FORMAT: Final = 1
_PLAIN, _ZSTD = 0, 1
_COMPRESSED_ABOVE: Final = 1024
"""Bytes. zstd at level 3 shrinks a result of ten hits from 9.3 to 3.3 KB in 24 microseconds; it
makes a small value larger."""
_LARGEST: Final = 64 << 20
"""Bytes of a payload: a damaged length must not exhaust the memory of the process."""
_TAG: Final = 16
"""Bytes of a seal's tag."""
_zstd = threading.local()
"""zstandard's contexts may not be shared between threads."""

_PART_BYTES: Final = 200
"""Of a citation, a span or a sentence's support, without the passages: those belong to the hits."""
_HIT_BYTES: Final = 700
"""Of a hit's objects, numbers and dictionary of stages, without its chunk."""


def key(kind: str, *parts: str | bytes | int | float | None) -> bytes:
    """BLAKE2b-128 (RFC 7693) of the kind and the parts, each framed with its type and length.

    Different lists of parts never have the same framing: ("ab", "c") and ("a", "bc") have different
    keys, and so do 1, 1.0, "1" and None.
    """
    pieces = [_KEY_HEAD]
    for part in (kind, *parts):
        if isinstance(part, str):
            tag, data = b"s", part.encode("utf-8", "surrogatepass")
        elif isinstance(part, bytes):
            tag, data = b"b", part
        elif part is None:
            tag, data = b"n", b""
        elif isinstance(part, int):
            tag, data = b"i", b"%d" % part
        else:
            tag, data = b"f", _FLOAT(part)
        pieces.append(b"%c%d:" % (tag, len(data)))
        pieces.append(data)
    return blake2b(b"".join(pieces), digest_size=16).digest()


def pack(payload: bytes, *, schema: int = 1, expires: float | None) -> bytes:
    """The payload behind its header; compressed if it is larger than 1 KB and shrinks by it.

    Args:
        schema: layout of the payload, 0 to 2**32 - 1; `unpack` reads no other.
        expires: seconds since 1970; None is never.
    """
    compression, body = _PLAIN, payload
    if len(payload) > _COMPRESSED_ABOVE:
        smaller = _compressor().compress(payload)
        if len(smaller) < len(payload):
            compression, body = _ZSTD, smaller
    until = inf if expires is None else expires
    bare = _HEADER.pack(_MAGIC, _FORMAT, compression, schema, until, 0)
    checksum = zlib.crc32(body, zlib.crc32(bare))
    return _HEADER.pack(_MAGIC, _FORMAT, compression, schema, until, checksum) + body


def unpack(data: bytes, *, schema: int = 1, now: float) -> bytes | None:
    """The payload; None if it is damaged, has another schema or format, or has expired at `now`."""
    if len(data) < _HEADER.size:
        return None
    magic, layout, compression, its_schema, until, checksum = _HEADER.unpack_from(data)
    if magic != _MAGIC or layout != _FORMAT or its_schema != schema or not now < until:
        return None
    body = data[_HEADER.size :]
    bare = _HEADER.pack(magic, layout, compression, its_schema, until, 0)
    if zlib.crc32(body, zlib.crc32(bare)) != checksum:
        return None
    if compression == _PLAIN:
        return body
    return _decompressed(body) if compression == _ZSTD else None


class Seal:
    """Keyed BLAKE2b (RFC 7693) over a value and its key: a message authentication code.

    Who may write to a tier but does not know the secret can then remove values, and put back older
    ones under the same keys until they expire, but make none and exchange none.
    """

    def __init__(self, secret: str) -> None:
        self._key = blake2b(secret.encode(), digest_size=32, person=b"vivace cache mac").digest()

    def close(self, key: bytes, data: bytes) -> bytes:
        """A packed value with its tag."""
        return data + self._tag(key, data)

    def open(self, key: bytes, sealed: bytes) -> bytes | None:
        """The packed value; None if the tag is not of this secret, this key and this value."""
        data, tag = sealed[:-_TAG], sealed[-_TAG:]
        return data if compare_digest(tag, self._tag(key, data)) else None

    def _tag(self, key: bytes, data: bytes) -> bytes:
        code = blake2b(b"%d:" % len(key), digest_size=_TAG, key=self._key)
        code.update(key)
        code.update(data)
        return code.digest()


def expiry(data: bytes) -> float | None:
    """When the value expires, in seconds since 1970, by its unchecked header; None is never."""
    if len(data) < _HEADER.size:
        return 0.0
    until: float = _HEADER.unpack_from(data)[4]
    return None if until == inf else until


def _compressor() -> zstandard.ZstdCompressor:
    found: zstandard.ZstdCompressor | None = getattr(_zstd, "compressor", None)
    if found is None:
        found = _zstd.compressor = zstandard.ZstdCompressor(level=3)
    return found


def _decompressed(body: bytes) -> bytes | None:
    found: zstandard.ZstdDecompressor | None = getattr(_zstd, "decompressor", None)
    if found is None:
        found = _zstd.decompressor = zstandard.ZstdDecompressor()
    try:
        if not 0 <= zstandard.frame_content_size(body) <= _LARGEST:
            return None
        return found.decompress(body)
    except zstandard.ZstdError:
        return None


def weigh(value: Any) -> int:
    """Bytes that a value of any kind takes in memory.

    A chunk counts with every result that holds it, even where several share the object: the true
    use is never above the sum.
    """
    if isinstance(value, SearchResult):
        return 100 + sum(_HIT_BYTES + _weigh_chunk(hit.chunk) for hit in value.hits)
    nbytes: int = value.nbytes
    return nbytes


def weigh_answer(answer: Answer) -> int:
    """As `weigh`, of an answer with its passages."""
    parts = _PART_BYTES * (len(answer.citations) + len(answer.spans) + len(answer.support))
    hits = sum(_HIT_BYTES + _weigh_chunk(hit.chunk) for hit in answer.hits)
    return sys.getsizeof(answer.text) + parts + hits


def _weigh_chunk(chunk: Chunk) -> int:
    size = sys.getsizeof
    texts = size(chunk.text) + size(chunk.document_id) + size(chunk.title) + size(chunk.source)
    section = sum(map(size, chunk.section))
    return texts + section + (_weigh_json(chunk.metadata) if chunk.metadata else 0)


def _weigh_json(value: Any) -> int:
    """Approximate bytes of a JSON value as Python objects."""
    if isinstance(value, Mapping):
        return 232 + sum(_weigh_json(name) + _weigh_json(each) for name, each in value.items())
    if isinstance(value, list | tuple):
        return 56 + sum(8 + _weigh_json(each) for each in value)
    return sys.getsizeof(value)
