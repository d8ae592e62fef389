"""Every real document: what was read of it, or why not (documents_table.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ingest.documents_table import DOCUMENTS, PASSWORD, SKIPPED, Refused
from vivace.collection.preparation import Source, from_paths
from vivace.ingest.sandbox import Sandbox
from vivace.settings import Parse
from vivace.types import Document, Skipped


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def found(data: Path, sandbox: Sandbox) -> dict[str, list[Source]]:
    folder = data / "documents"
    by_file: dict[str, list[Source]] = {}
    sources = from_paths([folder], max_bytes=64 << 20, parse=Parse(), sandbox=sandbox)
    for source in sources:
        name = Path(source.source).relative_to(folder).as_posix()
        by_file.setdefault(name, []).append(source)
    return by_file


def test_every_file_is_in_the_table(found: dict[str, list[Source]], data: Path) -> None:
    folder = data / "documents"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == set(DOCUMENTS) == set(found)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_table_holds(name: str, found: dict[str, list[Source]]) -> None:
    expected = DOCUMENTS[name]
    (source,) = found[name]
    if expected is SKIPPED:
        assert isinstance(source, Skipped)
    elif isinstance(expected, Refused):
        assert not isinstance(source, Document)
        assert expected.reason in source.reason
    else:
        assert isinstance(source, Document), source
        assert expected in source.text
        assert "\ufffd" not in source.text


def test_pages_are_kept(found: dict[str, list[Source]]) -> None:
    (document,) = found["pdf/pdflatex-4-pages.pdf"]
    assert isinstance(document, Document)
    assert [section.page for section in document.sections] == [1, 2, 3, 4]
    assert document.metadata == {"pages": 4}
    assert document.sections[0].start == 0
    assert all(document.text[s.start - 2 : s.start] == "\n\n" for s in document.sections[1:])


def test_a_password_opens_a_protected_file(data: Path) -> None:
    path = data / "documents/pdf/libreoffice-writer-password.pdf"
    for parse, ask in (
        (Parse(password=PASSWORD), None),
        (Parse(), lambda _: PASSWORD),
        (Parse(password="wrong"), lambda _: PASSWORD),
    ):
        sandbox = Sandbox(parse)
        try:
            (document,) = sandbox.read(path, ask=ask)
        finally:
            sandbox.close()
        assert isinstance(document, Document)
        assert document.text


def test_a_wrong_password_is_said_to_be_wrong(data: Path, sandbox: Sandbox) -> None:
    path = data / "documents/pdf/libreoffice-writer-password.pdf"
    asked: list[str] = []

    def ask(source: str) -> str:
        asked.append(source)
        return "wrong"

    (error,) = sandbox.read(path, ask=ask)
    assert not isinstance(error, Document)
    assert "another password" in error.reason
    assert "wrong" not in str(error)
    assert asked == [path.as_posix()]
    (error,) = sandbox.read(path, ask=lambda _: None)
    assert not isinstance(error, Document)
    assert error.fix.startswith("Give it as --password")
