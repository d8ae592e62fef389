"""What goes between the sandbox and its workers: MessagePack, never pickled objects."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from vivace.settings import Parse
from vivace.types import Document


class Request(msgspec.Struct, frozen=True):
    """Read this file."""

    path: str
    max_bytes: int
    parse: Parse


class Read(msgspec.Struct, frozen=True, tag="read"):
    """One of the file's documents."""

    document: Document


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """An `IngestError`; `password` is None, or for `NeedsPassword` whether one was given."""

    source: str
    reason: str
    fix: str
    password: bool | None = None


Reply: TypeAlias = Read | Refused

request = msgspec.msgpack.Decoder(Request)
reply = msgspec.msgpack.Decoder(Reply)
encode = msgspec.msgpack.Encoder().encode
