"""What does a Word document say?"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from vivace.errors import IngestError
from vivace.ingest.docx import DocxReader
from vivace.ingest.formats import read
from vivace.settings import Parse
from vivace.types import Document

FOOTNOTES = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
KIND = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"


def parsed(package: Any, folder: Path, parse: Parse | None = None) -> Document:
    path = folder / "a.docx"
    package.save(str(path))
    (found,) = read(path, max_bytes=1 << 24, parse=parse)
    assert isinstance(found, Document), found
    return found


def test_paragraphs_lists_and_tables_keep_their_order(tmp_path: Path) -> None:
    package = docx.Document()
    package.add_heading("The Title", 0)
    package.add_paragraph("Before.")
    package.add_heading("One", 1)
    package.add_paragraph("first", style="List Bullet")
    package.add_paragraph("second", style="List Number")
    table = package.add_table(2, 2)
    for at, text in enumerate(("Name", "Age\nyears", "", "7")):
        table.cell(at // 2, at % 2).text = text
    package.add_paragraph("After.")
    package.add_heading("Deep", 3)
    package.add_heading("Two", 1)
    found = parsed(package, tmp_path)
    assert found.text == (
        "The Title\n\nBefore.\n\nOne\n\n- first\n- second\n\nName | Age years\n| 7\n\nAfter."
        "\n\nDeep\n\nTwo"
    )
    assert [(found.text[s.start :].split("\n")[0], s.heading) for s in found.sections] == [
        ("The Title", ("The Title",)),
        ("One", ("The Title", "One")),
        ("Deep", ("The Title", "One", "Deep")),
        ("Two", ("The Title", "Two")),
    ]
    assert found.title == "The Title"
    package.core_properties.title = "Named"
    assert parsed(package, tmp_path).title == "Named"


def test_what_is_wrapped_is_read_and_what_was_deleted_is_not(tmp_path: Path) -> None:
    package = docx.Document()
    body = package.element.body
    wrapped = (
        f"<w:sdt {nsdecls('w')}><w:sdtContent><w:p><w:r><w:t>in a control</w:t></w:r></w:p>"
        "</w:sdtContent></w:sdt>"
    )
    revised = (
        f"<w:p {nsdecls('w')}><w:r><w:t xml:space='preserve'>kept </w:t></w:r>"
        "<w:del><w:r><w:delText>deleted</w:delText><w:t>gone</w:t></w:r></w:del>"
        "<w:ins><w:r><w:t>new</w:t><w:br/><w:t>li</w:t><w:noBreakHyphen/><w:t>ne</w:t></w:r>"
        "</w:ins><w:hyperlink><w:r><w:tab/><w:t>link</w:t></w:r></w:hyperlink></w:p>"
    )
    for number, xml in enumerate((wrapped, revised)):
        body.insert(number, parse_xml(xml))
    assert parsed(package, tmp_path).text == "in a control\n\nkept new\nli-ne\tlink"


def test_notes_stand_at_the_end(tmp_path: Path) -> None:
    package = docx.Document()
    paragraph = package.add_paragraph("A claim")
    reference = f"<w:r {nsdecls('w')}><w:footnoteReference w:id='2'/></w:r>"
    paragraph._p.append(parse_xml(reference))
    package.add_comment(paragraph.runs, text="Is it so?", author="Ann")
    package.add_paragraph("The rest.")
    path = tmp_path / "a.docx"
    package.save(str(path))
    notes = (
        f"<w:footnotes {nsdecls('w')}><w:footnote w:type='separator' w:id='-1'><w:p/></w:footnote>"
        "<w:footnote w:id='2'><w:p><w:r><w:t>The proof.</w:t></w:r></w:p></w:footnote>"
        "</w:footnotes>"
    )
    changes = {
        "[Content_Types].xml": (
            b"</Types>",
            f'<Override PartName="/word/footnotes.xml" ContentType="{KIND}"/></Types>',
        ),
        "word/_rels/document.xml.rels": (
            b"</Relationships>",
            f'<Relationship Id="rIdN" Type="{FOOTNOTES}" Target="footnotes.xml"/></Relationships>',
        ),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name in changes:
                end, instead = changes[name]
                data = data.replace(end, instead.encode())
            new.writestr(name, data)
        new.writestr("word/footnotes.xml", notes)
    path.write_bytes(buffer.getvalue())
    (found,) = read(path, max_bytes=1 << 24)
    assert isinstance(found, Document)
    assert found.text == (
        "A claim[^2]\n\nThe rest.\n\n[^2] The proof.\n\nComment by Ann: Is it so?"
    )


BOX = (
    "<mc:AlternateContent><mc:Choice Requires='wps'><w:txbxContent>{0}</w:txbxContent></mc:Choice>"
    "<mc:Fallback><w:pict><w:txbxContent>{0}</w:txbxContent></w:pict></mc:Fallback>"
    "</mc:AlternateContent>"
)
WORDS = f"{nsdecls('w')} xmlns:mc='http://schemas.openxmlformats.org/markup-compatibility/2006'"


def paragraph(text: str, box: str = "", attributes: str = "") -> str:
    held = f"<w:r>{box}</w:r>" if box else ""
    return f"<w:p {attributes}><w:r><w:t>{text}</w:t></w:r>{held}</w:p>"


def test_text_in_boxes_is_read_once(tmp_path: Path) -> None:
    package = docx.Document()
    nested = paragraph("outer", BOX.format(paragraph("middle", BOX.format(paragraph("inner")))))
    package.element.body.insert(0, parse_xml(paragraph("above", BOX.format(nested), WORDS)))
    cell = package.add_table(1, 2).cell(0, 0)._tc
    cell.append(parse_xml(paragraph("in a cell", BOX.format(paragraph("its box")), WORDS)))
    found = parsed(package, tmp_path)
    assert found.text == "above\n\nouter\n\nmiddle\n\ninner\n\nin a cell; its box |"


def test_size_and_characters_are_limited(tmp_path: Path) -> None:
    package = docx.Document()
    for _ in range(10):
        package.add_paragraph("x" * 100)
    path = tmp_path / "a.docx"
    package.save(str(path))
    (found,) = read(path, max_bytes=1 << 24, parse=Parse(chars=500))
    assert isinstance(found, IngestError)
    assert found.reason == "has over 500 characters"
    (found,) = read(path, max_bytes=100)
    assert isinstance(found, IngestError)
    assert "larger than 100 bytes" in found.reason


def test_another_kind_of_package(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(IngestError, match="is no Word document"):
        list(DocxReader().read(path))
