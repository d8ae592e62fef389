"""Is it safe to open this zip-based file?"""

from __future__ import annotations

import codecs
import random
import zipfile
from pathlib import Path

import pytest

from vivace.errors import IngestError
from vivace.ingest import archives
from vivace.ingest.decode import opened
from vivace.settings import Parse

MIB = 1 << 20
ROOT = "<w:document/>"


def packed(path: Path, *parts: bytes | str, name: str = "word/document.xml") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, part in enumerate(parts):
            archive.writestr(name if not number else f"part{number}.xml", part)
    return path


def check(path: Path, parse: Parse, *, doctype: bool = False) -> None:
    with opened(path) as file:
        archives.check(file, parse, doctype=doctype)


def refused(path: Path, parse: Parse | None = None, *, doctype: bool = False) -> str:
    with pytest.raises(IngestError) as raised:
        check(path, parse or Parse(), doctype=doctype)
    assert raised.value.fix
    assert raised.value.source == path.as_posix()
    return raised.value.reason


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.docx"


@pytest.mark.parametrize(
    "part",
    [
        ROOT,
        f'\ufeff<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\r\n<!-- c -->{ROOT}',
        codecs.BOM_UTF16_LE + f'<?xml version="1.0" encoding="UTF-16"?>{ROOT}'.encode("utf-16-le"),
        f"{ROOT[:-2]}><![CDATA[<!DOCTYPE x>]]></w:document>",
        "",
    ],
)
def test_ordinary_parts_pass(path: Path, part: bytes | str) -> None:
    check(packed(path, part), Parse())


@pytest.mark.parametrize(
    "part",
    [
        f"<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>{ROOT}",
        f"<?xml version='1.0'?>\n<!-- c --><!doctype d>{ROOT}",
        f"<!-- {'x' * 70_000} --><!DOCTYPE d>{ROOT}",
        f"<!DOCTYPE d>{ROOT}".encode("utf-16"),
        f"<!DOCTYPE d>{ROOT}".encode("utf-16-be"),
        b'<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE d>',
        f"<!DOCTYPE d>{ROOT}".encode("utf-32"),
        f"<!DOCTYPE d>{ROOT}".encode("cp037"),
        " " * 70_000 + f"<!DOCTYPE d>{ROOT}",
    ],
)
def test_document_types_are_refused(path: Path, part: bytes | str) -> None:
    assert "can hide an attack" in refused(packed(path, part))
    assert "can hide an attack" in refused(packed(path, ROOT, part))


def test_a_part_is_judged_by_its_content(path: Path) -> None:
    packed(path, f"<!DOCTYPE d>{ROOT}", name="word/document.bin")
    assert "'word/document.bin'" in refused(path)
    check(packed(path, b"\x89PNG <!DOCTYPE d>", name="image.png"), Parse())


def test_web_pages_have_a_harmless_one(path: Path) -> None:
    strict = '"-//W3C//DTD XHTML 1.1//EN" "http://www.w3.org/TR/xhtml11/DTD/xhtml11.dtd"'
    for kind in ("html", f"html PUBLIC {strict}", 'html SYSTEM "about:legacy-compat"'):
        packed(path, f"<!DOCTYPE {kind}>\n<html/>")
        check(path, Parse(), doctype=True)
        refused(path)
    packed(path, "<!DOCTYPE html [<!ENTITY a 'b'>]><html/>")
    refused(path, doctype=True)


def test_archives_over_their_limits_are_rejected(path: Path) -> None:
    packed(path, f"{ROOT}{' ' * 5 * MIB}")
    assert "times its size, more than 100" in refused(path)
    check(path, Parse(zip_ratio=10_000))
    assert "unpacks to 5 MiB, more than 4" in refused(path, Parse(zip_mib=4))
    packed(path, *[ROOT] * 11)
    assert "over 10 entries" in refused(path, Parse(zip_entries=10))
    check(packed(path, "x" * 3 * MIB, name="a.txt"), Parse())  # small, if well packed


def test_the_directory_alone_can_be_too_large(path: Path) -> None:
    packed(path, *[ROOT] * 200)
    assert "over 2 entries" in refused(path, Parse(zip_entries=2))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(100), "its end is missing"),
        (b"plain text", "is no zip file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "is protected by a password"),
        (b"PK\x05\x06" + b"\x01\0" * 9, "is damaged"),
    ],
)
def test_what_is_no_zip(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    assert reason in refused(path)


def test_a_part_under_a_password(path: Path) -> None:
    data = bytearray(packed(path, ROOT).read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags, twice
        data[data.index(mark) + at] |= 1
    path.write_bytes(data)
    assert refused(path) == "has parts under a password"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_part_that_does_not_unpack(path: Path, method: int) -> None:
    """Each library has an error of its own for it."""
    noise = random.Random(1).randbytes(2_000).hex()
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("word/document.xml", f"<a>{noise}</a>")
    whole = path.read_bytes()
    for at in (50, 70, 90):
        path.write_bytes(whole[:at] + b"\xff" * 40 + whole[at + 40 :])
        assert "is damaged" in refused(path)


def test_a_file_that_cannot_be_opened_is_not_called_damaged(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check(path, Parse())


def test_a_damaged_part(path: Path) -> None:
    data = bytearray(packed(path, ROOT * 50).read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    assert "is damaged" in refused(path)
