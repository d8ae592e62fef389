"""What does a file of JSON lines say? One document a line: {"id", "title", "text", "metadata"}."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from vivace.errors import IngestError
from vivace.ingest.decode import DEFAULT_MAX_BYTES, absolute, decode, empty, in_mib, require_regular
from vivace.text import charset
from vivace.types import Document

BAD_LINES: Final = 1_000
"""A file that begins with so many bad lines is not JSON lines: the rest of it is not read."""

_UNSTORABLE: Final = re.compile("[\ud800-\udfff\0]")
_SHAPE: Final = 'Write one object a line: {"id": ..., "title": ..., "text": ..., "metadata": {...}}'
_DEEPEST: Final = 100


class JsonLinesReader:
    """JSON lines, read line by line: the file may be of any size, a line of at most `max_bytes`.

    `text` is required. A missing id becomes FILE:LINE, a number is taken as its digits. Unknown
    keys go into the metadata. A bad line is an error of its own; the lines after it are read.
    """

    suffixes: frozenset[str] = frozenset({".jsonl", ".ndjson"})

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes

    def read(self, path: Path) -> Iterator[Document | IngestError]:
        path = absolute(path)
        source = path.as_posix()
        require_regular(path)
        good = bad = 0
        encoding = _encoding(path)
        with path.open("rb") as file:
            for number, line in _lines(file, self.max_bytes):
                where = f"{source}:{number}"
                if line is not None and not line.strip():
                    continue
                try:
                    yield _document(line, source, where, self.max_bytes, encoding)
                    good += 1
                except IngestError as error:
                    yield error
                    bad += 1
                if bad == BAD_LINES and not good:
                    raise IngestError(source, f"its first {bad} lines are all bad", fix=_SHAPE)
        if not good and not bad:
            raise empty(source)


def _encoding(path: Path) -> str:
    """What lines that are not UTF-8 are read as, told from the beginning of the file."""
    with path.open("rb") as file:
        head = file.read(charset.SAMPLE)
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
            pass  # it may be UTF-8, or a bad line
    try:
        return line.decode("utf-8-sig") if b"\0" not in line else decode(line, where)
    except UnicodeDecodeError as error:
        what = f"is not UTF-8: byte 0x{line[error.start]:02x} at offset {error.start}"
        raise IngestError(where, what, fix="Convert it to UTF-8") from None


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, line); None for a line over the limit, which is never held whole."""
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        if len(line) <= max_bytes or (line.endswith(b"\n") and len(line) == max_bytes + 1):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(max_bytes + 1)
        yield number, None


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
    """The value with U+FFFD for what no database or encoder takes: lone surrogates and NUL."""
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
    """What a JSON value is, in JSON's words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", dict: "an object", list: "an array", str: "a string"}
    return names.get(type(value), "a number")
