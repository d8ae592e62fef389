"""Reads CSV, and writes the rows of any table as text."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from vivace.errors import IngestError
from vivace.ingest.decode import FileReader, OpenFile
from vivace.ingest.prose import Prose
from vivace.types import Document

_DELIMITERS: Final = ",;\t|"
_SNIFFED: Final = 1 << 16
_SNIFFED_ROWS: Final = 20
_NUMBER: Final = re.compile(r"[-+]?[\d.,\s]*\d[%€$¥]?|\d[\d.\-/: T年月日]*")
_LONGEST_NAME: Final = 60


class CsvReader(FileReader):
    """CSV and TSV: one document with a line per row, of "name: value" pairs divided by " | ", so
    that each row is understandable alone.

    Of comma, semicolon, tab and bar, the delimiter is the one that gives the most even rows. If the
    first row is no header (it has a number, or an empty or repeated cell), names are left out.
    """

    suffixes = frozenset({".csv", ".tsv"})

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        text = file.text(self.max_bytes)
        delimiter = "\t" if file.path.suffix.lower() == ".tsv" else _delimiter(text)
        csv.field_size_limit(max(csv.field_size_limit(), self.max_bytes))
        prose = Prose(file.source, self.parse.chars)
        try:
            write_rows(csv.reader(_lines(text), delimiter=delimiter), prose)
        except csv.Error as error:
            raise IngestError(
                file.source, f"is not CSV: {error}", fix="Check its quotation marks"
            ) from None
        yield prose.document(file.path)


def write_rows(rows: Iterator[Sequence[str]], prose: Prose) -> None:
    """Write rows, with the column's name before each value if the first row is a header."""
    filled = (row for row in rows if any(cell.strip() for cell in row))
    first = list(islice(filled, 2))
    prose.separate()
    if len(first) < 2 or not is_header(first[0]):
        for row in (*first, *filled):
            prose.row(row)
        return
    names = [" ".join(name.split()) for name in first[0]]
    prose.row(names)
    for row in (first[1], *filled):
        cells = [" ".join(cell.split()) for cell in row]
        prose.line(
            " | ".join(
                f"{names[at]}: {cell}" if at < len(names) else cell
                for at, cell in enumerate(cells)
                if cell
            )
        )


def _lines(text: str) -> Iterator[str]:
    """The lines with their ends. A StringIO would copy the text, at four bytes per character."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def is_header(row: Sequence[str]) -> bool:
    """Whether a first row is a header: two or more short, different names, none a number."""
    names = [name.strip() for name in row]
    while names and not names[-1]:
        names.pop()
    return (
        len(names) > 1
        and all(names)
        and len(set(names)) == len(names)
        and all(len(name) <= _LONGEST_NAME and not _NUMBER.fullmatch(name) for name in names)
    )


def _delimiter(text: str) -> str:
    """The delimiter with which most of the first rows have the same number of cells, above one."""
    head = text[:_SNIFFED]
    best, most = ",", 0.0
    for delimiter in _DELIMITERS:
        try:
            rows = list(islice(csv.reader(_lines(head), delimiter=delimiter), _SNIFFED_ROWS))
        except csv.Error:
            continue
        widths = [len(row) for row in rows if row]
        usual = max(set(widths), key=widths.count, default=0)
        if usual < 2:
            continue
        share = widths.count(usual) / len(widths) + usual / 1000
        if share > most:
            best, most = delimiter, share
    return best
