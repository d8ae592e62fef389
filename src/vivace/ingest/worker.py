"""The process that binary files are read in: `python -m vivace.ingest.worker`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vivace.errors import IngestError
from vivace.ingest import formats, wire
from vivace.ingest.protected import NeedsPassword
from vivace.run.worker import serve


def work(task: bytes) -> Iterator[bytes]:
    """Every document and error of the file that a request names, as replies."""
    request = wire.request.decode(task)
    path = Path(request.path)
    for found in formats.read(path, max_bytes=request.max_bytes, parse=request.parse):
        if isinstance(found, IngestError):
            given = found.given if isinstance(found, NeedsPassword) else None
            yield wire.encode(wire.Refused(found.source, found.reason, found.fix, given))
        else:
            yield wire.encode(wire.Read(found))


if __name__ == "__main__":
    serve(work)
