"""What does a PDF say?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from vivace.errors import IngestError
from vivace.ingest.formats import read
from vivace.ingest.pdf import PdfReader
from vivace.settings import Parse
from vivace.types import Document


def pdf(path: Path, *pages: str, size: tuple[int, int] = (300, 200)) -> Path:
    """A minimal PDF whose pages say these ASCII texts; an empty one has no text."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size[0]} {size[1]}] /Contents"
            f" {5 + 2 * number} 0 R /Resources << /Font << /F 3 0 R >> >> >>".encode()
        )
        content = f"BT /F 12 Tf 20 100 Td ({text}) Tj ET".encode() if text else b""
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    data, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    data += b"trailer\n<< /Size %d /Root 1 0 R >>\n" % (len(objects) + 1)
    data += b"startxref\n%d\n%%%%EOF\n" % start
    path.write_bytes(data)
    return path


def test_pages_are_sections(tmp_path: Path) -> None:
    path = pdf(tmp_path / "a.pdf", "first page", "", "third page")
    (found,) = read(path, max_bytes=1 << 20)
    assert isinstance(found, Document)
    assert found.text == "first page\n\nthird page"
    assert [(s.start, s.heading, s.page) for s in found.sections] == [(0, (), 1), (12, (), 3)]
    assert found.metadata == {"pages": 3, "pages_without_text": [2]}
    assert found.title == "a"


def test_damaged_pages_are_told_from_empty_ones(tmp_path: Path) -> None:
    path = pdf(tmp_path / "a.pdf", "first page", "second page", "")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"6 0 R 8 0 R", b"0 0 R 8 0 R"))  # which nothing is
    (found,) = read(path, max_bytes=1 << 20)
    assert isinstance(found, Document)
    assert found.text == "first page"
    assert found.metadata == {"pages": 3, "pages_without_text": [3], "pages_damaged": [2]}
    path.write_bytes(whole.replace(b"[4 0 R 6 0 R 8 0 R]", b"[0 0 R 0 0 R 8 0 R]"))
    (found,) = read(path, max_bytes=1 << 20)
    assert isinstance(found, IngestError)
    assert found.reason == "has no text, and 2 of 3 pages are damaged"


def test_a_scan_says_so_and_can_be_recognised(tmp_path: Path) -> None:
    path = pdf(tmp_path / "a.pdf", "", "")
    (found,) = read(path, max_bytes=1 << 20)
    assert isinstance(found, IngestError)
    assert found.reason.startswith("has no text layer (2 pages)")
    assert "ocrmypdf" in found.fix
    seen = []

    def ocr(image: NDArray[Any], page: int) -> str:
        seen.append((image.shape, image.dtype.name, page))
        return f"page {page}"

    (found,) = PdfReader(ocr=ocr).read(path)
    assert isinstance(found, Document)
    assert found.text == "page 1\n\npage 2"
    assert [s.page for s in found.sections] == [1, 2]
    assert seen[0] == ((556, 834, 3), "uint8", 1)


def test_an_enormous_page_is_rendered_smaller(tmp_path: Path) -> None:
    path = pdf(tmp_path / "a.pdf", "", size=(14_000, 14_000))
    shapes = []

    def ocr(image: NDArray[Any], page: int) -> str:
        shapes.append(image.shape)
        return "text"

    list(PdfReader(ocr=ocr).read(path))
    assert shapes[0][0] * shapes[0][1] < 41_000_000


def test_pages_and_characters_are_limited(tmp_path: Path) -> None:
    path = pdf(tmp_path / "a.pdf", "one", "two", "three")
    for parse, reason in (
        (Parse(pages=2), "has 3 pages, more than 2"),
        (Parse(chars=6), "has over 6 characters"),
    ):
        (found,) = read(path, max_bytes=1 << 20, parse=parse)
        assert isinstance(found, IngestError)
        assert reason in found.reason
    (found,) = read(path, max_bytes=10)
    assert isinstance(found, IngestError)
    assert "larger than 10 bytes" in found.reason


@pytest.mark.parametrize("content", [b"%PDF-1.7\n", b"no PDF", b"%PDF-1.4\n" + bytes(1000)])
def test_a_damaged_pdf_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(content)
    (found,) = read(path, max_bytes=1 << 20)
    assert isinstance(found, IngestError)
    assert found.reason == "is damaged or no PDF"


def test_words_divided_at_a_line_end_are_joined(data: Path) -> None:
    (found,) = read(data / "documents/pdf/multicolumn.pdf", max_bytes=1 << 20)
    assert isinstance(found, Document)
    assert "adipiscing" in found.text
    assert "\x02" not in found.text
