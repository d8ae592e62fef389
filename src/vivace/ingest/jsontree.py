"""What do a JSON file and a notebook say?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vivace.errors import IngestError
from vivace.ingest.decode import DEFAULT_MAX_BYTES, absolute, read_text
from vivace.ingest.jsonl import document_of, not_json, storable
from vivace.ingest.markdown import headings
from vivace.ingest.outline import outline
from vivace.ingest.prose import Prose
from vivace.settings import Parse
from vivace.types import Document

_FIX = "Check it with a JSON tool"


class JsonReader:
    """JSON: a list of objects with a "text" is read as one document each, as in JSON lines. Of
    anything else every value is a line after the keys it stands under: "address.city: Ulm"."""

    suffixes: frozenset[str] = frozenset({".json"})

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES, parse: Parse | None = None) -> None:
        self.max_bytes = max_bytes
        self.parse = parse or Parse()

    def read(self, path: Path) -> Iterator[Document | IngestError]:
        path = absolute(path)
        source = path.as_posix()
        value = _value(path, self.max_bytes)
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
        yield prose.document(path, title=title if isinstance(title, str) else "")


class NotebookReader:
    """Jupyter notebooks: Markdown cells as they are, with sections by their headings; code fenced,
    with what it printed."""

    suffixes: frozenset[str] = frozenset({".ipynb"})

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES, parse: Parse | None = None) -> None:
        self.max_bytes = max_bytes
        self.parse = parse or Parse()

    def read(self, path: Path) -> Iterator[Document | IngestError]:
        path = absolute(path)
        source = path.as_posix()
        value = _value(path, self.max_bytes)
        cells = value.get("cells") if isinstance(value, dict) else None
        if not isinstance(cells, list):
            raise IngestError(
                source, "has no cells", fix="Save it from Jupyter as a notebook of version 4"
            )
        prose = Prose(source, self.parse.chars)
        for cell in cells:
            if isinstance(cell, dict):
                _write_cell(cell, prose)
        found = prose.document(path)
        above = headings(found.text)
        title = next((text for _, level, text in above if level == 1 and text), path.stem)
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
    """A notebook's multi-line string: a string, or a list of them."""
    if isinstance(source, list):
        return "".join(part for part in source if isinstance(part, str))
    return source if isinstance(source, str) else ""


def _value(path: Path, max_bytes: int) -> Any:
    source = path.as_posix()
    text = read_text(path, max_bytes=max_bytes)
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
    """(keys above it, text) of every value; `storable` has bounded the depth."""
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
    """A number as people write it: without the zero of a float that is whole."""
    if isinstance(value, int):
        return str(value)  # of any length; a float has no room for all of them
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else str(value)
