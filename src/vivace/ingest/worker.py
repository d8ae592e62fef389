"""The process that reads files in the sandbox: `python -m vivace.ingest.worker`.

Requests and replies are MessagePack, never pickled objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from vivace.errors import IngestError
from vivace.ingest import formats
from vivace.ingest.decode import Boundary, NeedsPassword, Position
from vivace.run.worker import serve
from vivace.settings import Parse
from vivace.types import Document


class ReadRequest(msgspec.Struct, frozen=True):
    """Read this file, from `start` on where it has been read in part."""

    path: str
    max_bytes: int
    parse: Parse
    boundary: Boundary | None = None
    start: Position | None = None


class DocumentReply(msgspec.Struct, frozen=True, tag="read"):
    """One of the file's documents."""

    document: Document


class FailureReply(msgspec.Struct, frozen=True, tag="refused"):
    """An `IngestError`; for `NeedsPassword`, `password` says whether one was given, else None."""

    source: str
    reason: str
    fix: str
    password: bool | None = None


class PartReply(msgspec.Struct, frozen=True, tag="part"):
    """The last reply where only a part was read: where the next one begins."""

    following: Position


Reply: TypeAlias = DocumentReply | FailureReply | PartReply

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(ReadRequest).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode


def work(task: bytes) -> Iterator[bytes]:
    """Every document and error of the requested file or part, as replies."""
    request = decode_request(task)
    for found in formats.read_part(
        Path(request.path),
        max_bytes=request.max_bytes,
        parse=request.parse,
        boundary=request.boundary,
        start=request.start,
    ):
        if isinstance(found, Position):
            yield encode(PartReply(found))
        elif isinstance(found, IngestError):
            given = found.given if isinstance(found, NeedsPassword) else None
            yield encode(FailureReply(found.source, found.reason, found.fix, given))
        else:
            yield encode(DocumentReply(found))


if __name__ == "__main__":
    serve(work)
