"""Reads workbooks, presentations and e-books; the first two need the extra [office]."""

from __future__ import annotations

import datetime
import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from vivace.errors import IngestError, MissingExtra
from vivace.ingest import archives
from vivace.ingest.decode import FileReader, OpenFile, decode
from vivace.ingest.html import declared, laid_out
from vivace.ingest.jsonfiles import plain_number
from vivace.ingest.prose import Prose, outline
from vivace.ingest.tables import write_rows
from vivace.types import Document, Section

_FIX: Final = "Open it in its program and save it again"
_CONTAINER: Final = "META-INF/container.xml"


class _OfficeReader(FileReader):
    def _check(self, file: OpenFile, *, doctype: bool = False) -> None:
        file.require_size(self.max_bytes)
        archives.check(file, self.parse, doctype=doctype)
        file.stream.seek(0)

    def _require_pages(self, source: str, count: int, what: str) -> None:
        if count > self.parse.pages:
            raise IngestError(
                source,
                f"has {count} {what}, more than {self.parse.pages}",
                fix="Raise the setting parse.pages or split the file",
            )


class XlsxReader(_OfficeReader):
    """XLSX: a section per sheet, a line per row as for CSV; the page number is the sheet's."""

    suffixes = frozenset({".xlsx"})

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        try:
            import python_calamine as calamine
        except ImportError:
            raise MissingExtra("python-calamine", "office") from None
        source = file.source
        self._check(file)
        prose = Prose(source, self.parse.chars)
        try:
            with calamine.CalamineWorkbook.from_filelike(file.stream) as book:
                self._require_pages(source, len(book.sheet_names), "sheets")
                for number, name in enumerate(book.sheet_names, 1):
                    rows = book.get_sheet_by_index(number - 1).iter_rows()
                    prose.page(number)
                    prose.heading(1, name)
                    write_rows(([_shown(cell) for cell in row] for row in rows), prose)
        except (calamine.CalamineError, calamine.ZipError, calamine.XmlError) as error:
            raise IngestError(source, f"is no workbook or damaged: {error}", fix=_FIX) from None
        yield prose.document(file.path, title=file.path.stem)


def _shown(cell: Any) -> str:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return plain_number(cell)
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return str(cell)


class PptxReader(_OfficeReader):
    """PPTX: a section per slide, headed by its title; the page number is the slide's. Tables become
    rows, grouped shapes are included, and the speaker's notes end their slide."""

    suffixes = frozenset({".pptx"})

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        try:
            import pptx
            from pptx.exc import PythonPptxError
        except ImportError:
            raise MissingExtra("python-pptx", "office") from None
        source = file.source
        self._check(file)
        prose = Prose(source, self.parse.chars)
        try:
            with archives.damage_reported(source):
                show = pptx.Presentation(file.stream)
        except (PythonPptxError, KeyError, ValueError, SyntaxError) as error:
            reason = f"is no presentation or damaged: {error}"
            raise IngestError(source, reason, fix=_FIX) from None
        self._require_pages(source, len(show.slides), "slides")
        for number, slide in enumerate(show.slides, 1):
            prose.page(number)
            title = slide.shapes.title
            if title is not None:
                prose.heading(1, title.text_frame.text)
            _write_shapes(slide.shapes, prose, None if title is None else title.shape_id)
            if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
                prose.paragraph(_plain(slide.notes_slide.notes_text_frame.text))
        yield prose.document(file.path, title=show.core_properties.title or "")


def _write_shapes(shapes: Any, prose: Prose, title: int | None) -> None:
    for shape in shapes:
        if shape.shape_id == title:
            continue
        if hasattr(shape, "shapes"):
            _write_shapes(shape.shapes, prose, title)
        elif getattr(shape, "has_table", False):
            rows = ([cell.text_frame.text for cell in row.cells] for row in shape.table.rows)
            write_rows(rows, prose)
            prose.separate()
        elif shape.has_text_frame:
            prose.paragraph(_plain(shape.text_frame.text))


def _plain(text: str) -> str:
    """The text with PowerPoint's vertical tabs, its breaks within a paragraph, as line ends."""
    return text.replace("\v", "\n").strip()


class EpubReader(_OfficeReader):
    """EPUB: the chapters in reading order, with sections by their headings."""

    suffixes = frozenset({".epub"})

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        source = file.source
        self._check(file, doctype=True)
        try:
            with archives.damage_reported(source), zipfile.ZipFile(file.stream) as archive:
                title, chapters = _spine(archive)
                self._require_pages(source, len(chapters), "chapters")
                yield self._document(file.path, title, archive, chapters)
        except (KeyError, SyntaxError) as error:
            raise IngestError(source, f"is no e-book or damaged: {error}", fix=_FIX) from None

    def _document(
        self, path: Path, title: str, archive: zipfile.ZipFile, chapters: list[str]
    ) -> Document:
        source = path.as_posix()
        prose = Prose(source, self.parse.chars)
        found: list[tuple[int, int, str]] = []
        for name in chapters:
            data = archive.read(name)
            text, headings, _ = laid_out(decode(data, f"{source}:{name}", declared(data)), source)
            if text:
                prose.paragraph(text)
                start = prose.length - len(text)
                found += [(start + at, level, heading) for at, level, heading in headings]
        whole = prose.document(path, title=title)
        sections: tuple[Section, ...] = outline(found)
        return Document(source, whole.text, whole.title, source, sections=sections)


def _spine(archive: zipfile.ZipFile) -> tuple[str, list[str]]:
    """The book's title, and the names of its chapters in reading order.

    Raises:
        KeyError: a required part is missing.
        SyntaxError: a part is not XML.
    """
    package = _xml(archive, _CONTAINER).find(".//{*}rootfile")
    name = "" if package is None else str(package.get("full-path"))
    book = _xml(archive, name)
    items = {item.get("id"): item for item in book.iterfind(".//{*}manifest/{*}item")}
    chapters = []
    for reference in book.iterfind(".//{*}spine/{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or "html" not in str(item.get("media-type")):
            continue
        if "nav" in str(item.get("properties") or "").split():
            continue
        target = posixpath.join(posixpath.dirname(name), unquote(str(item.get("href"))))
        chapters.append(posixpath.normpath(target))
    title = book.findtext(".//{http://purl.org/dc/elements/1.1/}title") or ""
    return " ".join(str(title).split()), chapters


def _xml(archive: zipfile.ZipFile, name: str) -> Any:
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    return etree.fromstring(archive.read(name), parser)
