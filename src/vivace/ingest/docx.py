"""Reads Word documents: paragraphs, lists and tables in order, notes at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import docx
from docx.opc.exceptions import OpcError
from lxml import etree

from vivace.errors import IngestError
from vivace.ingest import archives
from vivace.ingest.decode import FileReader, OpenFile
from vivace.ingest.prose import Prose
from vivace.types import Document

_W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M_T: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_FALLBACK: Final = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_WRAPPERS: Final = frozenset({_W + "sdt", _W + "sdtContent", _W + "ins", _W + "customXml"})
_REMOVED: Final = frozenset({_W + "del", _W + "moveFrom", _W + "instrText", _FALLBACK})
_NOTES: Final = (
    ("footnotes", "footnote", "^"),
    ("endnotes", "endnote", "^e"),
    ("comments", "comment", ""),
)
_NO_MEMORY: Final = frozenset({0, 2})
"""Codes of libxml2's errors when it runs out of memory: none, or out of memory."""
_HEADING: Final = re.compile(r"heading (\d)", re.IGNORECASE)
_BODY_TEXT: Final = 9
"""The outline level of text that is no heading."""


class DocxReader(FileReader):
    """DOCX: sections by headings (by style or outline level), list items begin with "- ", " | "
    divides the cells of a row. Text deleted under revision is omitted.

    Footnotes, endnotes and comments are at the end; the text refers to notes as [^2].
    """

    suffixes = frozenset({".docx"})

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        source = file.source
        file.require_size(self.max_bytes)
        archives.check(file, self.parse)
        try:
            with archives.damage_reported(source):
                package = docx.Document(file.stream)
        except (OpcError, KeyError, ValueError, etree.XMLSyntaxError) as error:
            if isinstance(error, etree.XMLSyntaxError) and error.code in _NO_MEMORY:
                raise MemoryError from None
            raise IngestError(
                source,
                f"is no Word document or damaged: {error}",
                fix="Open it in Word and save it again as .docx",
            ) from None
        writer = _Writer(Prose(source, self.parse.chars), _levels(package))
        writer.blocks(package.element.body)
        _write_notes(package, writer)
        yield writer.prose.document(file.path, title=package.core_properties.title or "")


class _Writer:
    """Walks the elements of a story in document order."""

    def __init__(self, prose: Prose, levels: dict[str, tuple[int | None, bool]]) -> None:
        self.prose = prose
        self._levels = levels

    def blocks(self, parent: Any) -> None:
        for child in parent:
            if child.tag == _W + "p":
                self._paragraph(child)
            elif child.tag == _W + "tbl":
                self._table(child)
            elif child.tag in _WRAPPERS:
                self.blocks(child)

    def _paragraph(self, paragraph: Any) -> None:
        text = _text(paragraph).strip()
        level, item, depth = self._kind(paragraph)
        if text:
            if level is not None:
                self.prose.heading(level, text)
            elif item:
                self.prose.line("  " * depth + "- " + text)
            else:
                self.prose.paragraph(text)
        for box in paragraph.iter(_W + "txbxContent"):
            # a box inside a box belongs to its own paragraph
            if next(box.iterancestors(_W + "p")) is paragraph and not _is_fallback(box):
                self.blocks(box)

    def _kind(self, paragraph: Any) -> tuple[int | None, bool, int]:
        """(heading level, whether it is a list item, its depth in lists)."""
        properties = paragraph.find(_W + "pPr")
        if properties is None:
            return None, False, 0
        level, item = self._levels.get(_value(properties, "pStyle"), (None, False))
        outline = _value(properties, "outlineLvl")
        if outline.isdigit():
            level = int(outline) + 1 if int(outline) < _BODY_TEXT else None
        numbering = properties.find(_W + "numPr")
        depth = 0
        if numbering is not None:
            item = _value(numbering, "numId") != "0"
            deep = _value(numbering, "ilvl")
            depth = min(int(deep), 8) if deep.isdigit() else 0
        return level, item, depth

    def _table(self, table: Any) -> None:
        self.prose.separate()
        for row in _through(table, "tr"):
            self.prose.row(_cell(cell) for cell in _through(row, "tc"))
        self.prose.separate()


def _through(parent: Any, tag: str) -> Iterator[Any]:
    """Children with that tag, including those wrapped in content controls."""
    for child in parent:
        if child.tag == _W + tag:
            yield child
        elif child.tag in _WRAPPERS:
            yield from _through(child, tag)


def _cell(cell: Any) -> str:
    """A cell on one line; "; " divides its paragraphs, including those of nested tables."""
    paragraphs = (_text(p).strip() for p in cell.iter(_W + "p") if not _is_fallback(p))
    return "; ".join(text for text in paragraphs if text)


def _is_fallback(node: Any) -> bool:
    """Whether the node is a second copy, for programs that do not know the first's markup."""
    return next(node.iterancestors(_FALLBACK), None) is not None


def _text(paragraph: Any) -> str:
    """The text of a paragraph, without that of text boxes anchored in it."""
    parts: list[str] = []
    stack = list(reversed(paragraph))
    while stack:
        node = stack.pop()
        tag = node.tag
        if tag in (_W + "t", _M_T):
            parts.append(node.text or "")
        elif tag in (_W + "tab", _W + "ptab"):
            parts.append("\t" if node.getparent().tag == _W + "r" else "")
        elif tag in (_W + "br", _W + "cr"):
            parts.append("\n")
        elif tag == _W + "noBreakHyphen":
            parts.append("-")
        elif tag == _W + "footnoteReference":
            parts.append(f"[^{node.get(_W + 'id')}]")
        elif tag == _W + "endnoteReference":
            parts.append(f"[^e{node.get(_W + 'id')}]")
        elif tag not in _REMOVED and tag != _W + "txbxContent":
            stack.extend(reversed(node))
    return "".join(parts)


def _value(properties: Any, name: str) -> str:
    node = properties.find(_W + name)
    return "" if node is None else str(node.get(_W + "val") or "")


def _levels(package: Any) -> dict[str, tuple[int | None, bool]]:
    """By paragraph style: its heading level, and whether it makes list items; both may be
    inherited. Built-in styles have English names in documents of any language."""
    own: dict[str, tuple[int | None, bool | None, str]] = {}
    try:
        styles = package.part.styles.element
    except (KeyError, AttributeError, ValueError):
        return {}
    for style in styles.iterfind(_W + "style"):
        name = _value(style, "name")
        heading = _HEADING.fullmatch(name)
        level = int(heading[1]) if heading else 0 if name.lower() == "title" else None
        properties = style.find(_W + "pPr")
        item: bool | None = None
        if properties is not None:
            outline = _value(properties, "outlineLvl")
            if level is None and outline.isdigit() and int(outline) < _BODY_TEXT:
                level = int(outline) + 1
            numbering = properties.find(_W + "numPr")
            item = None if numbering is None else _value(numbering, "numId") != "0"
        own[str(style.get(_W + "styleId"))] = (level, item, _value(style, "basedOn"))
    return {style: _inherited(style, own) for style in own}


def _inherited(
    style: str, own: dict[str, tuple[int | None, bool | None, str]]
) -> tuple[int | None, bool]:
    level: int | None = None
    item: bool | None = None
    seen: set[str] = set()
    while style in own and style not in seen:
        seen.add(style)
        level = own[style][0] if level is None else level
        item = own[style][1] if item is None else item
        style = own[style][2]
    return level, bool(item)


def _write_notes(package: Any, writer: _Writer) -> None:
    by_type = {
        relation.reltype.rpartition("/")[2]: relation
        for relation in package.part.rels.values()
        if not relation.is_external
    }
    for part, tag, mark in _NOTES:
        if part not in by_type:
            continue
        try:
            root = docx.oxml.parse_xml(by_type[part].target_part.blob)
        except etree.XMLSyntaxError as error:
            raise IngestError(
                writer.prose.source, f"its {part} are damaged: {error}", fix="Save it again in Word"
            ) from None
        writer.prose.separate()
        for note in root.iterfind(_W + tag):
            if note.get(_W + "type") in ("separator", "continuationSeparator"):
                continue
            text = " ".join(
                _text(p).strip() for p in note.iter(_W + "p") if not _is_fallback(p)
            ).strip()
            if not text:
                continue
            if mark:
                writer.prose.line(f"[{mark}{note.get(_W + 'id')}] {text}")
            else:
                author = str(note.get(_W + "author") or "").strip()
                writer.prose.line(f"Comment{' by ' + author if author else ''}: {text}")
