"""What does a table say? CSV, JSON, notebooks, workbooks, presentations, books."""

from __future__ import annotations

import json
import random
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from vivace.errors import IngestError
from vivace.ingest.formats import read
from vivace.ingest.sandbox import Sandbox
from vivace.settings import Parse
from vivace.types import Document


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def document(path: Path) -> Document:
    (found,) = read(path, max_bytes=1 << 24)
    assert isinstance(found, Document), found
    return found


def error(path: Path, parse: Parse | None = None) -> IngestError:
    (found,) = read(path, max_bytes=1 << 24, parse=parse)
    assert isinstance(found, IngestError), found
    return found


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a,b\n1,2\n\n3,\n", "a | b\na: 1 | b: 2\na: 3"),
        ("name;town\nAnn;\"Ulm;\nDe\"\n", "name | town\nname: Ann | town: Ulm; De"),
        ("a\tb\n1\t2\n", "a | b\na: 1 | b: 2"),
        ("a|b\n1|2,5\n", "a | b\na: 1 | b: 2,5"),
        ("1,2\n3,4\n", "1 | 2\n3 | 4"),
        ("a,a\n3,4\n", "a | a\n3 | 4"),
        ("a,,c\n1,2,3\n", "a | | c\n1 | 2 | 3"),
        ("only\nlines\n", "only\nlines"),
        ("a,b\n1,2,3\n", "a | b\na: 1 | b: 2 | 3"),
        ("2024-01-01,x\n2024-01-02,y\n", "2024-01-01 | x\n2024-01-02 | y"),
    ],
)  # fmt: skip
def test_rows_are_lines_of_named_values(tmp_path: Path, content: str, text: str) -> None:
    assert document(write(tmp_path, "a.csv", content)).text == text


def test_csv_in_another_encoding_with_a_long_cell(tmp_path: Path) -> None:
    long = "数据" * 100_000
    found = document(write(tmp_path, "a.csv", f"姓名,说明\n王小明,{long}\n".encode("gb18030")))
    assert found.text == f"姓名 | 说明\n姓名: 王小明 | 说明: {long}"


def test_what_is_no_csv_is_an_error(tmp_path: Path) -> None:
    assert error(write(tmp_path, "a.csv", " , \n")).reason == "is empty"
    path = write(tmp_path, "b.csv", "a,b\n1,2\n")
    assert "over 5 characters" in error(path, Parse(chars=5)).reason


def test_json_values_stand_after_their_keys(tmp_path: Path) -> None:
    value = {
        "title": "T",
        "address": {"city": "Ulm", "zip": 89073, "old": None},
        "tags": ["a", True, 1.5],
        "deep": [{"x": 1}, {"x": 2}],
    }
    found = document(write(tmp_path, "a.json", json.dumps(value)))
    assert found.title == "T"
    assert found.text.split("\n") == [
        "title: T", "address.city: Ulm", "address.zip: 89073", "tags: a", "tags: true",
        "tags: 1.5", "deep.x: 1", "deep.x: 2",
    ]  # fmt: skip


def test_a_number_of_any_length(tmp_path: Path) -> None:
    digits = "7" * 400
    assert document(write(tmp_path, "a.json", f'{{"n": {digits}}}')).text == f"n: {digits}"


def test_json_documents(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '[{"text": "one", "id": 7}, {"text": ""}, {"text": "two"}]')
    one, bad, two = read(path, max_bytes=1 << 20)
    assert isinstance(one, Document)
    assert isinstance(bad, IngestError)
    assert isinstance(two, Document)
    assert (one.id, two.id) == ("7", f"{path.as_posix()}:3")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"a": 1,}', "is not JSON"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "recursion"),
        ("[" * 200 + "1" + "]" * 200, "nested over 100"),
        ("{}", "is empty"),
        ("", "is empty"),
    ],
)
def test_what_is_no_json_is_an_error(tmp_path: Path, content: str, reason: str) -> None:
    assert reason in error(write(tmp_path, "a.json", content)).reason


def test_a_notebooks_cells_are_read_in_order(tmp_path: Path) -> None:
    cells: list[Any] = [
        {"cell_type": "markdown", "source": ["# Top\n", "text"]},
        {"cell_type": "code", "source": "1 + 1", "outputs": [{"data": {"text/plain": ["2"]}}]},
        {"cell_type": "code", "source": "", "outputs": None},
        "odd",
    ]
    found = document(write(tmp_path, "a.ipynb", json.dumps({"cells": cells})))
    assert found.text == "# Top\ntext\n\n```\n1 + 1\n```\n\n2"
    assert found.title == "Top"
    assert found.sections[0].heading == ("Top",)
    assert "no cells" in error(write(tmp_path, "b.ipynb", "[1]")).reason


def book(path: Path, **parts: str) -> Path:
    files = {
        "META-INF/container.xml": (
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OPS/b.opf"/></rootfiles></container>'
        ),
        "OPS/b.opf": (
            '<package xmlns="http://www.idpf.org/2007/opf" '
            'xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>The Book</dc:title>'
            '</metadata><manifest><item id="2" href="t%20two.xhtml" '
            'media-type="application/xhtml+xml"/><item id="1" href="one.xhtml" '
            'media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="1"/><itemref idref="2"/><itemref idref="9"/></spine></package>'
        ),
        "OPS/one.xhtml": "<!DOCTYPE html><html><body><h1>One</h1><p>first</p></body></html>",
        "OPS/t two.xhtml": "<html><body><h1>Two</h1><p>second</p></body></html>",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (files | parts).items():
            archive.writestr(name, content)
    return path


def test_an_e_book_in_reading_order(tmp_path: Path) -> None:
    found = document(book(tmp_path / "a.epub"))
    assert found.title == "The Book"
    assert found.text == "One\n\nfirst\n\nTwo\n\nsecond"
    assert [(s.heading, found.text[s.start :][:3]) for s in found.sections] == [
        (("One",), "One"),
        (("Two",), "Two"),
    ]


def test_e_books_that_are_none(tmp_path: Path) -> None:
    attack = "<!DOCTYPE html [<!ENTITY a 'b'>]><html><body>&a;</body></html>"
    path = book(tmp_path / "a.epub", **{"OPS/one.xhtml": attack})
    assert "can hide an attack" in error(path).reason
    path = book(tmp_path / "b.epub", **{"OPS/b.opf": "<package"})
    assert "damaged" in error(path).reason
    path = book(tmp_path / "c.epub", **{"META-INF/container.xml": "<a/>"})
    assert "damaged" in error(path).reason
    assert "2 chapters, more than 1" in error(book(tmp_path / "d.epub"), Parse(pages=1)).reason


def test_damage_beyond_what_is_looked_at_first(tmp_path: Path) -> None:
    """The end of a long part is only met by its own reader."""
    noise = random.Random(1).randbytes(100_000).hex()
    for name in ("a.docx", "a.pptx", "a.epub"):
        path = book(tmp_path / name, **{"OPS/one.xhtml": f"<p>{noise}</p>"})
        with zipfile.ZipFile(path) as archive:
            parts = {entry: archive.read(entry) for entry in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in parts.items():
                archive.writestr(entry, content)
            if name != "a.epub":
                archive.writestr("[Content_Types].xml", TYPES)
                archive.writestr("_rels/.rels", RELATIONS)
        whole = bytearray(path.read_bytes())
        at = whole.index(b"OPS/one.xhtml") + 90_000
        whole[at : at + 40] = b"\xff" * 40
        path.write_bytes(whole)
        assert "is damaged: " in error(path).reason, name


PACKAGE = "http://schemas.openxmlformats.org/package/2006"
TYPES = (
    f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="xhtml" ContentType="a/b"/>'
    f'<Default Extension="rels" ContentType="a/b"/></Types>'
)
RELATIONS = (
    f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r" Type="x/officeDocument" '
    'Target="OPS/one.xhtml"/></Relationships>'
)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limits are Linux's")
def test_a_sparse_sheet_needs_too_much_memory(tmp_path: Path) -> None:
    """Two cells far apart: the library makes room for all between them, or aborts."""
    path = workbook(tmp_path / "a.xlsx", "A1", "XFD5000")
    sandbox = Sandbox(Parse(workers=1))
    try:
        (found,) = sandbox.read(path)
        (good,) = sandbox.read(workbook(tmp_path / "b.xlsx", "A1", "B2"))
    finally:
        sandbox.close()
    assert isinstance(found, IngestError)
    assert "needs over 768 MiB" in found.reason
    assert isinstance(good, Document)


def workbook(path: Path, *cells: str) -> Path:
    office = "http://schemas.openxmlformats.org"
    main = f"{office}/spreadsheetml/2006/main"
    to = f"{office}/officeDocument/2006/relationships"
    rows = "".join(
        f'<row><c r="{cell}" t="inlineStr"><is><t>x</t></is></c></row>' for cell in cells
    )
    parts = {
        "_rels/.rels": ("officeDocument", "xl/workbook.xml"),
        "xl/_rels/workbook.xml.rels": ("worksheet", "worksheets/s.xml"),
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        for name, (kind, target) in parts.items():
            relation = f'<Relationship Id="r" Type="{to}/{kind}" Target="{target}"/>'
            archive.writestr(
                name, f'<Relationships xmlns="{PACKAGE}/relationships">{relation}</Relationships>'
            )
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{to}"><sheets><sheet name="S" sheetId="1" '
            'r:id="r"/></sheets></workbook>',
        )
        sheet = f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>'
        archive.writestr("xl/worksheets/s.xml", sheet)
    return path


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package in (("a.xlsx", "python_calamine"), ("a.pptx", "pptx")):
        monkeypatch.setitem(sys.modules, package, None)
        found = error(write(tmp_path, name, "x"))
        assert "is not installed" in found.reason
        assert found.fix == "pip install 'vivace[office]'"


def test_slides_and_sheets(data: Path) -> None:
    show = document(data / "documents/office/test.pptx")
    pages = [section.page for section in show.sections if section.page is not None]
    assert pages == sorted(pages)
    assert len(set(pages)) > 1
    sheets = document(data / "documents/office/test.xlsx")
    assert (sheets.sections[0].heading, sheets.sections[0].page) == (("Sheet1",), 1)
