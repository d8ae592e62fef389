"""What does a plain text file say?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vivace.errors import IngestError
from vivace.ingest.decode import DEFAULT_MAX_BYTES, absolute, read_text
from vivace.types import Document


class TextReader:
    """Plain text, as it is. The title is the file's stem."""

    suffixes: frozenset[str] = frozenset({".txt", ".text", ".rst", ".log"})

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes

    def read(self, path: Path) -> Iterator[Document | IngestError]:
        path = absolute(path)
        source = path.as_posix()
        text = read_text(path, max_bytes=self.max_bytes)
        yield Document(id=source, text=text, title=path.stem, source=source)
