"""Reads the text layer of PDFs, page by page, through PDFium."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import pypdfium2
import pypdfium2.raw
from numpy.typing import NDArray

from vivace.errors import IngestError
from vivace.ingest.decode import DEFAULT_MAX_BYTES, FileReader, NeedsPassword, OpenFile
from vivace.ingest.prose import Prose
from vivace.settings import Parse
from vivace.types import Document

Ocr: TypeAlias = Callable[[NDArray[Any], int], str]
"""(a page as RGB, (height, width, 3) uint8; its number from 1) -> the text on it."""
OCR_DPI: Final = 200
MAX_OCR_PIXELS: Final = 40_000_000
"""A larger page is rendered at a lower resolution: a file may claim any page size."""

_HYPHENS: Final = re.compile("[\x02\ufffe](?:\r?\n)?")
"""PDFium's mark of a hyphen that divides a word at the end of a line."""
_LIGATURES: Final = {
    ord(char): text
    for char, text in zip("ﬀﬁﬂﬃﬄﬅﬆ", ("ff", "fi", "fl", "ffi", "ffl", "st", "st"), strict=True)
}


class PdfReader(FileReader):
    """PDF: one document with a section per page. The end of a page ends a paragraph.

    `ocr` reads pages without text. Without `ocr` the metadata lists their numbers as
    `pages_without_text`, and a file without any text is an error. `pages_damaged` lists the pages
    that PDFium cannot open.
    """

    suffixes = frozenset({".pdf"})

    def __init__(
        self,
        max_bytes: int = DEFAULT_MAX_BYTES,
        parse: Parse | None = None,
        *,
        ocr: Ocr | None = None,
    ) -> None:
        super().__init__(max_bytes, parse)
        self.ocr = ocr

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        pdf = self._pdf(file)
        try:
            yield self._document(pdf, file)
        finally:
            pdf.close()

    def _pdf(self, file: OpenFile) -> pypdfium2.PdfDocument:
        source, data = file.source, file.data(self.max_bytes)
        try:
            return pypdfium2.PdfDocument(data, password=self.parse.password or None)
        except pypdfium2.PdfiumError as error:
            if error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD:
                raise NeedsPassword(source, given=bool(self.parse.password)) from None
            if error.err_code == pypdfium2.raw.FPDF_ERR_SECURITY:
                raise IngestError(
                    source,
                    "is encrypted in a way that PDFium does not know",
                    fix="Print it to a new PDF from a reader that opens it",
                ) from None
            raise IngestError(
                source,
                "is damaged or no PDF",
                fix="Open it in a PDF reader and save it again, or fetch it again",
            ) from None

    def _document(self, pdf: pypdfium2.PdfDocument, file: OpenFile) -> Document:
        source = file.source
        count = len(pdf)
        if count > self.parse.pages:
            raise IngestError(
                source,
                f"has {count} pages, more than {self.parse.pages}",
                fix="Raise the setting parse.pages or split the file",
            )
        prose = Prose(source, self.parse.chars)
        empty: list[int] = []
        damaged: list[int] = []
        for number in range(1, count + 1):
            text = self._page(pdf, number)
            if text is None:
                damaged.append(number)
            elif text:
                prose.page(number)
                prose.paragraph(text)
            else:
                empty.append(number)
        if not prose.length and damaged:
            raise IngestError(
                source,
                f"has no text, and {len(damaged)} of {count} pages are damaged",
                fix="Open it in a PDF reader and save it again, or fetch it again",
            )
        if not prose.length:
            raise IngestError(
                source,
                f"has no text layer ({count} {'page' if count == 1 else 'pages'}): it is"
                " probably a scan",
                fix="Run text recognition on it first, e.g. `ocrmypdf in.pdf out.pdf`",
            )
        metadata: dict[str, Any] = {"pages": count}
        if empty:
            metadata["pages_without_text"] = empty
        if damaged:
            metadata["pages_damaged"] = damaged
        return prose.document(file.path, title=_title(pdf), metadata=metadata)

    def _page(self, pdf: pypdfium2.PdfDocument, number: int) -> str | None:
        """The page's text; None where the page is damaged."""
        try:
            page = pdf[number - 1]
        except pypdfium2.PdfiumError:
            return None
        try:
            layer = page.get_textpage()
            try:
                text = _clean(layer.get_text_bounded())
            finally:
                layer.close()
            if text or self.ocr is None:
                return text
            width, height = page.get_size()
            inch = 72
            pixels = width * height * (OCR_DPI / inch) ** 2
            scale = OCR_DPI / inch * min(1.0, (MAX_OCR_PIXELS / max(pixels, 1.0)) ** 0.5)
            image = page.render(scale=scale, rev_byteorder=True, force_bitmap_format=_BGR)
            return self.ocr(image.to_numpy(), number).strip()
        finally:
            page.close()


_BGR: Final = pypdfium2.raw.FPDFBitmap_BGR


def _clean(text: str) -> str:
    text = _HYPHENS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return text.translate(_LIGATURES).strip()


def _title(pdf: pypdfium2.PdfDocument) -> str:
    try:
        title = str(pdf.get_metadata_value("Title") or "")
    except (
        pypdfium2.PdfiumError,
        UnicodeError,
    ):  # damaged metadata are no reason to reject the text
        return ""
    title = " ".join(title.split())
    return "" if title.lower() in ("untitled", "(anonymous)", "anonymous", "unspecified") else title
