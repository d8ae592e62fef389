"""Under which key is a value kept? A digest of everything that the value depends on."""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final

SCHEMA: Final = 1
"""Grows when values of any kind are written otherwise: nothing kept before is found then."""
_PACKED: Final = struct.Struct(">d").pack
_HEAD: Final = b"vivace %d" % SCHEMA


def key(kind: str, *parts: str | bytes | int | float | None) -> bytes:
    """BLAKE2b-128 (RFC 7693) of the kind and the parts, each with its type and length.

    No two lists of parts have the same framing: ("ab", "c") is another key than ("a", "bc"), and
    1, 1.0, "1" and None are four.
    """
    pieces = [_HEAD]
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
            tag, data = b"f", _PACKED(part)
        pieces.append(b"%c%d:" % (tag, len(data)))
        pieces.append(data)
    return blake2b(b"".join(pieces), digest_size=16).digest()
