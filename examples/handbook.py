"""Ask a folder of documents, from blocking code.

python examples/handbook.py docs "How does Vivace choose an index?"
"""

import sys
import tempfile
from pathlib import Path

import vivace


def main(folder: str, question: str) -> None:
    with (
        tempfile.TemporaryDirectory() as temporary,
        vivace.open(Path(temporary) / "collection") as docs,
    ):
        report = docs.ingest(folder)
        print(f"{report.documents} documents, {report.chunks} chunks in {report.seconds:.1f} s")
        answer = docs.ask(question)
        print(answer.text)
        for citation in answer.citations:
            print(f"[{citation.number}] {Path(citation.chunk.source).name}: {citation.text[:60]}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
