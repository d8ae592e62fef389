"""Reads JSON lines, JSON files and Jupyter notebooks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NoReturn

from vivace.errors import IngestError
from vivace.ingest.decode import FileReader, OpenFile, Position, decode, empty, in_mib
from vivace.ingest.markdown import headings
from vivace.ingest.prose import Prose, outline
from vivace.text import charset
from vivace.types import Document

BAD_LINES: Final = 1_000
"""Bad lines after which the rest of a file is not read if hardly any was good: it is no JSON lines.
"""
REPORTED: Final = 10_000
"""Bad lines of a file that are reported one by one; the others are counted."""
PART_BYTES: Final = 4 << 20
PART_LINES: Final = 20_000
"""After so many bytes or lines a part of a file ends: time and memory are limited for each part."""
_BAD_TO_GOOD: Final = 100

_UNSTORABLE: Final = re.compile("[\ud800-\udfff\0]")
_SHAPE: Final = 'Write one object a line: {"id": ..., "title": ..., "text": ..., "metadata": {...}}'
_DEEPEST: Final = 100
_FIX: Final = "Check it with a JSON tool"


class JsonLinesReader(FileReader):
    """JSON lines, one document each: {"id", "title", "text", "metadata"}. The file may have any
    size, a line at most `max_bytes`.

    `text` is required. A missing id becomes FILE:LINE, a number its digits. Unknown keys go into
    the metadata. A bad line is an error of its own; the lines after it are read, unless nearly all
    lines are bad.
    """

    suffixes = frozenset({".jsonl", ".ndjson"})

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        start: Position | None = Position()
        while start is not None:
            part, start = self.part(file, start), None
            for found in part:
                if isinstance(found, Position):
                    start = found
                else:
                    yield found

    def part(self, file: OpenFile, start: Position) -> Iterator[Document | IngestError | Position]:
        source, lines = file.source, _Lines(file, start, self.max_bytes)
        good, bad = start.good, start.bad
        for number, line in lines:
            where = f"{source}:{number}"
            if line is not None and not line.strip():
                continue
            try:
                yield _document(line, source, where, self.max_bytes, lines.encoding)
                good += 1
            except IngestError as error:
                bad += 1
                if bad <= REPORTED:
                    yield error
            if bad >= BAD_LINES and bad > _BAD_TO_GOOD * good:
                share = f"{bad:,} of its first {good + bad:,} lines are"
                what = share if good else f"its first {bad} lines are all"
                raise IngestError(source, f"{what} bad", fix=_SHAPE)
        if not lines.ended:
            yield lines.position(good, bad)
        elif bad > REPORTED:
            raise IngestError(source, f"has {bad - REPORTED:,} more bad lines", fix=_SHAPE)
        elif not good and not bad:
            raise empty(source)


class _Lines:
    """The lines of one part of a file, as (number from 1, line), or None for a line over the limit,
    which is never read whole."""

    def __init__(self, file: OpenFile, start: Position, max_bytes: int) -> None:
        self._stream = file.stream
        self._end = start.end or file.size
        self._offset, self._number = start.offset, start.line
        self._max_bytes = max_bytes
        self._last_byte, self._last_line = start.offset + PART_BYTES, start.line + PART_LINES
        self.encoding = start.encoding or _encoding(self._stream)

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        self._stream.seek(self._offset)
        end = min(self._end, self._last_byte)
        while self._offset < end and self._number < self._last_line:
            line = self._next()
            if line == b"":  # it was truncated
                self._offset = self._end
                return
            self._number += 1
            yield self._number, line

    @property
    def ended(self) -> bool:
        return self._offset >= self._end

    def position(self, good: int, bad: int) -> Position:
        return Position(self._offset, self._end, self._number, good, bad, self.encoding)

    def _next(self) -> bytes | None:
        most = self._max_bytes
        line = self._stream.readline(most + 1)
        self._offset += len(line)
        if len(line) <= most or (line.endswith(b"\n") and len(line) == most + 1):
            return line
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(most + 1)
            self._offset += len(line)
        return None


def _encoding(stream: BinaryIO) -> str:
    """The encoding of lines that are not UTF-8, detected at the beginning of the file."""
    stream.seek(0)
    head = stream.read(charset.SAMPLE)
    whole, _, _ = head.rpartition(b"\n")
    try:
        return charset.detect(whole or head)
    except charset.Undecodable:
        return "utf-8"


def _text(line: bytes, where: str, encoding: str) -> str:
    if encoding != "utf-8" and not encoding.startswith("utf-16") and b"\0" not in line:
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            pass  # UTF-8, or a bad line
    try:
        return line.decode("utf-8-sig") if b"\0" not in line else decode(line, where)
    except UnicodeDecodeError as error:
        what = f"is not UTF-8: byte 0x{line[error.start]:02x} at offset {error.start}"
        raise IngestError(where, what, fix="Convert it to UTF-8") from None


def _document(
    line: bytes | None, source: str, where: str, max_bytes: int, encoding: str
) -> Document:
    if line is None:
        raise IngestError(
            where,
            f"the line is longer than {in_mib(max_bytes)}",
            fix="Raise the setting ingest.max_file_mib or split the document",
        )
    return document_of(_object(_text(line, where, encoding), where), source, where)


def document_of(fields: dict[str, Any], source: str, where: str) -> Document:
    """The document that a JSON object describes.

    Raises:
        IngestError: a field is missing or of the wrong type.
    """
    fields = dict(fields)
    text = fields.pop("text", None)
    if not isinstance(text, str):
        what = "has no text" if text is None else f"its text is {_named(text)}, not a string"
        raise IngestError(where, what, fix=_SHAPE)
    if not text.strip():
        raise empty(where)
    title = fields.pop("title", None)
    if title is not None and not isinstance(title, str):
        raise IngestError(where, f"its title is {_named(title)}, not a string", fix=_SHAPE)
    metadata = fields.pop("metadata", None)
    if metadata is not None and not isinstance(metadata, dict):
        raise IngestError(where, f"its metadata is {_named(metadata)}, not an object", fix=_SHAPE)
    return Document(
        id=_id(fields.pop("id", None), where),
        text=text,
        title=title or "",
        source=source,
        metadata={**fields, **(metadata or {})},
    )


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=not_json)
    except json.JSONDecodeError as error:
        what = f"is not JSON: {error.msg} at column {error.colno}"
        raise IngestError(where, what, fix=_SHAPE) from None
    except (ValueError, RecursionError) as error:
        raise IngestError(where, f"is not usable JSON: {error}", fix=_SHAPE) from None
    if not isinstance(value, dict):
        raise IngestError(where, f"is {_named(value)}, not an object", fix=_SHAPE)
    usable: dict[str, Any] = storable(value, where)
    return usable


def not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def storable(value: Any, where: str, depth: int = 0) -> Any:
    """The value with U+FFFD for what databases and encoders reject: lone surrogates and NUL."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value) if not value.isascii() or "\0" in value else value
    if depth > _DEEPEST:
        raise IngestError(where, f"is nested over {_DEEPEST} levels deep", fix="Flatten it")
    if isinstance(value, dict):
        return {
            storable(key, where, depth + 1): storable(item, where, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [storable(item, where, depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise IngestError(where, "has a number too large for JSON readers", fix="Write it as text")
    return value


def _id(value: Any, where: str) -> str:
    if value is None:
        return where
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise IngestError(
            where, f"its id is {_named(value)}", fix="Give a string or a number, or leave it out"
        )
    if not value.strip():
        raise IngestError(where, "its id is empty", fix="Give an id, or leave the key out")
    return value


def _named(value: Any) -> str:
    """A value's type, in JSON's terms."""
    if value is None:
        return "null"
    names = {bool: "a boolean", dict: "an object", list: "an array", str: "a string"}
    return names.get(type(value), "a number")


class JsonReader(FileReader):
    """JSON: a list of objects with a "text" gives one document each, as in JSON lines. Otherwise
    every value is a line after its keys: "address.city: Ulm"."""

    suffixes = frozenset({".json"})

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        source, value = file.source, _value(file, self.max_bytes)
        if isinstance(value, list) and value and all(_is_document(item) for item in value):
            for number, item in enumerate(value, 1):
                try:
                    yield document_of(item, source, f"{source}:{number}")
                except IngestError as error:
                    yield error
            return
        prose = Prose(source, self.parse.chars)
        for place, text in _leaves(value):
            prose.line(f"{place}: {text}" if place else text)
        title = value.get("title") if isinstance(value, dict) else None
        yield prose.document(file.path, title=title if isinstance(title, str) else "")


class NotebookReader(FileReader):
    """Jupyter notebooks: Markdown cells unchanged, with sections by their headings; code fenced,
    with its output."""

    suffixes = frozenset({".ipynb"})

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        source, value = file.source, _value(file, self.max_bytes)
        cells = value.get("cells") if isinstance(value, dict) else None
        if not isinstance(cells, list):
            raise IngestError(
                source, "has no cells", fix="Save it from Jupyter as a notebook of version 4"
            )
        prose = Prose(source, self.parse.chars)
        for cell in cells:
            if isinstance(cell, dict):
                _write_cell(cell, prose)
        found = prose.document(file.path)
        above = headings(found.text)
        title = next((text for _, level, text in above if level == 1 and text), file.path.stem)
        yield Document(found.id, found.text, title, source, sections=outline(above))


def _write_cell(cell: dict[str, Any], prose: Prose) -> None:
    text = _joined(cell.get("source"))
    if cell.get("cell_type") != "code":
        prose.paragraph(text)
        return
    if text.strip():
        prose.paragraph(f"```\n{text}\n```")
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        if isinstance(output, dict):
            data = output.get("data")
            plain = data.get("text/plain") if isinstance(data, dict) else output.get("text")
            prose.paragraph(_joined(plain))


def _joined(source: Any) -> str:
    """A notebook's multi-line string: a string, or a list of strings."""
    if isinstance(source, list):
        return "".join(part for part in source if isinstance(part, str))
    return source if isinstance(source, str) else ""


def _value(file: OpenFile, max_bytes: int) -> Any:
    source, text = file.source, file.text(max_bytes)
    try:
        value = json.loads(text, parse_constant=not_json)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise IngestError(source, f"is not JSON: {error.msg} at {where}", fix=_FIX) from None
    except (ValueError, RecursionError) as error:
        raise IngestError(source, f"is not usable JSON: {error}", fix=_FIX) from None
    return storable(value, source)


def _is_document(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("text"), str)


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(its keys, text) of every value; `storable` has bounded the depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, place)
    elif isinstance(value, str):
        yield place, value.strip()
    elif value is not None:
        yield place, json.dumps(value) if isinstance(value, bool) else plain_number(value)


def plain_number(value: float) -> str:
    """A number as people write it: a whole float without its zero."""
    if isinstance(value, int):
        return str(value)  # of any length, which a float is not
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else str(value)
