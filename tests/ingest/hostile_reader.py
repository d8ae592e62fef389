"""The parse worker with readers that do what the file's name says."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator

from vivace.errors import IngestError
from vivace.ingest.decode import FileReader, OpenFile, TextReader
from vivace.ingest.markdown import MarkdownReader
from vivace.ingest.pdf import PdfReader
from vivace.ingest.worker import work
from vivace.run.worker import serve
from vivace.types import Document

MIB = 1 << 20


def documents(self: FileReader, file: OpenFile) -> Iterator[Document | IngestError]:
    held = []
    path, source = file.path, file.source
    if path.stem == "hang":
        re.match(r"(a+)+$", "a" * 64 + "b")
    elif path.stem == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif path.stem == "leak":
        while True:
            held.append(bytearray(4 * MIB))
    elif path.stem == "print":
        for _ in range(1_024):
            sys.stdout.write("x" * MIB)
    elif path.stem == "flood":
        yield Document(source, "x" * (64 * MIB), source=source)
    elif path.stem == "raise":
        raise ValueError("a parser's bug")
    yield Document(source, f"{path.stem} {os.getpid()}", source=source)


if __name__ == "__main__":
    for reader in (PdfReader, TextReader, MarkdownReader):
        reader.documents = documents  # type: ignore[method-assign]
    serve(work)
