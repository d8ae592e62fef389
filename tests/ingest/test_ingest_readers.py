"""What does this file say? Plain text, Markdown, JSON lines, and the entry to all readers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vivace.errors import IngestError
from vivace.ingest import formats, jsonfiles
from vivace.ingest.decode import OpenFile, Position, TextReader
from vivace.ingest.formats import SUFFIXES, read, reader_for
from vivace.ingest.markdown import MarkdownReader, headings
from vivace.settings import Parse
from vivace.types import Document

LIMIT = 1 << 20


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def documents(path: Path) -> list[Document]:
    found = list(read(path, max_bytes=LIMIT))
    assert all(isinstance(item, Document) for item in found), found
    return [item for item in found if isinstance(item, Document)]


def errors(path: Path, limit: int = LIMIT) -> list[IngestError]:
    return [item for item in read(path, max_bytes=limit) if isinstance(item, IngestError)]


def error(path: Path, limit: int = LIMIT) -> IngestError:
    found = list(read(path, max_bytes=limit))
    assert len(found) == 1
    assert isinstance(found[0], IngestError)
    assert found[0].fix
    assert found[0].source.startswith(path.as_posix())
    return found[0]


class TestPlainText:
    def test_a_file_is_a_document(self, tmp_path: Path) -> None:
        path = write(tmp_path, "Notes of May.TXT", "\ufeffone\r\ntwo\rthree\n")
        assert documents(path) == [
            Document(
                id=path.as_posix(),
                text="one\ntwo\nthree\n",
                title="Notes of May",
                source=path.as_posix(),
            )
        ]

    def test_ids_are_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path, "a.txt", "text")
        (tmp_path / "sub").mkdir()
        monkeypatch.chdir(tmp_path / "sub")
        assert documents(Path("../a.txt"))[0].id == path.as_posix()

    @pytest.mark.parametrize("content", ["", " \n\t\n", "\ufeff"])
    def test_empty(self, tmp_path: Path, content: str) -> None:
        assert error(write(tmp_path, "a.txt", content)).reason == "is empty"

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"good \xff bad", "byte 0xff at offset 5"),
            (b"\xef\xbb\xbfgood \xff bad", "byte 0xff is not"),
            ("un café noir, déjà bu".encode("cp1252"), "byte 0xe9 at offset 6"),
            (b"%PDF\0binary", "NUL byte at offset 4"),
        ],
    )
    def test_what_is_no_text_that_can_be_told(
        self, tmp_path: Path, content: bytes, reason: str
    ) -> None:
        assert reason in error(write(tmp_path, "a.txt", content)).reason

    def test_too_large(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.txt", "x" * 100)
        assert len(list(read(path, max_bytes=100))) == 1
        found = error(path, limit=99)
        assert "larger than 99 bytes" in found.reason
        assert "ingest.max_file_mib" in found.fix
        big = write(tmp_path, "b.txt", b"x" * (LIMIT + 1))
        assert "larger than 1 MiB" in error(big).reason

    def test_real_chinese_files(self, data: Path) -> None:
        folder = data / "documents/text"
        assert documents(folder / "zh_utf8_bom.txt")[0].text[0] != "\ufeff"
        assert documents(folder / "zh_big5.txt")[0].text.startswith("繁體中文測試：")


class TestMarkdown:
    def test_sections_start_at_their_headings(self, tmp_path: Path) -> None:
        text = (
            "before\n\n# The *Title* `code`\n\nintro\n\n"
            "```\n# not a heading\n```\n\n"
            "Setext [link](http://x.y)\n---\n\nbody\n\n"
            "#### Deep ####\n\nx\n\n## Next\n### \n> # quoted\n\n- # listed\n"
        )
        found = documents(write(tmp_path, "file.md", text))[0]
        assert found.text == text
        assert found.title == "The Title code"
        assert [(text[s.start :].split("\n")[0], s.heading) for s in found.sections] == [
            ("# The *Title* `code`", ("The Title code",)),
            ("Setext [link](http://x.y)", ("The Title code", "Setext link")),
            ("#### Deep ####", ("The Title code", "Setext link", "Deep")),
            ("## Next", ("The Title code", "Next")),
        ]

    def test_front_matter_is_not_a_heading(self, tmp_path: Path) -> None:
        text = "---\ntitle: x\ntags: y\n---\n\n# Real\n\ntext\n"
        found = documents(write(tmp_path, "file.markdown", text))[0]
        assert found.title == "Real"
        assert [(s.start, s.heading) for s in found.sections] == [(text.index("# R"), ("Real",))]

    def test_a_rule_at_the_top_is_not_front_matter(self) -> None:
        assert headings("---\n\n# A\n") == [(5, 1, "A")]

    def test_without_headings_the_title_is_the_stem(self, tmp_path: Path) -> None:
        found = documents(write(tmp_path, "read me.md", "just text"))[0]
        assert (found.title, found.sections) == ("read me", ())

    def test_a_setext_heading_of_two_lines_with_an_image(self) -> None:
        assert headings("One\n![two](x.png) \\# &amp;\n===\n") == [(0, 1, "One two # &")]

    def test_crlf_offsets_fit_the_text(self, tmp_path: Path) -> None:
        found = documents(write(tmp_path, "a.md", "a\r\n\r\n## B\r\nc\r\n"))[0]
        assert found.text[found.sections[0].start :] == "## B\nc\n"


class TestJsonLines:
    def test_fields(self, tmp_path: Path) -> None:
        lines = [
            {"id": "a", "title": "A", "text": "one", "metadata": {"k": [1, None]}},
            {"id": 7, "text": "two", "year": 1999, "metadata": {"year": 2000}},
            {"id": 1.5, "text": "three", "title": None, "metadata": None, "tag": "x"},
            {"text": "four"},
        ]
        path = write(tmp_path, "a.jsonl", "\ufeff" + "\n\r\n".join(map(json.dumps, lines)))
        found = documents(path)
        assert [d.id for d in found] == ["a", "7", "1.5", f"{path.as_posix()}:7"]
        assert [d.text for d in found] == ["one", "two", "three", "four"]
        assert [d.title for d in found] == ["A", "", "", ""]
        assert [d.metadata for d in found] == [{"k": [1, None]}, {"year": 2000}, {"tag": "x"}, {}]
        assert {d.source for d in found} == {path.as_posix()}

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"{", "is not JSON"),
            (b"[1]", "is an array, not an object"),
            (b"null", "is null, not an object"),
            (b"3", "is a number"),
            (b"true", "is a boolean"),
            (b'"x"', "is a string"),
            (b"{}", "has no text"),
            (b'{"text": 3}', "text is a number"),
            (b'{"text": " "}', "is empty"),
            (b'{"text": "x", "title": {}}', "title is an object"),
            (b'{"text": "x", "metadata": []}', "metadata is an array"),
            (b'{"text": "x", "id": true}', "id is a boolean"),
            (b'{"text": "x", "id": " "}', "id is empty"),
            (b'{"text": "x", "n": NaN}', "NaN"),
            (b'{"text": "x", "n": 1e999}', "too large"),
            (b'{"text": "x", "n": ' + b"9" * 5_000 + b"}", "usable"),
            (b'{"text": "x", "n": ' + b"[" * 100_000, "recursion"),
            (b'{"text": "x", "n": ' + b"[" * 200 + b"]" * 200 + b"}", "nested over 100"),
            (b'{"text": "\xff"}', "not UTF-8"),
            (b'{"text": "a\0b"}', "NUL"),
        ],
    )
    def test_a_bad_line_is_one_error(self, tmp_path: Path, line: bytes, reason: str) -> None:
        path = write(tmp_path, "a.ndjson", b'{"text": "one"}\n' + line + b'\n{"text": "three"}\n')
        first, bad, third = read(path, max_bytes=LIMIT)
        assert isinstance(first, Document)
        assert isinstance(bad, IngestError)
        assert isinstance(third, Document)
        assert bad.source == f"{path.as_posix()}:2"
        assert reason in bad.reason
        assert bad.fix

    def test_what_no_database_takes_is_replaced(self, tmp_path: Path) -> None:
        path = write(
            tmp_path, "a.jsonl", r'{"text": "a\ud800b\u0000c", "k\udc00": ["\udfff", "é"]}'
        )
        found = documents(path)[0]
        assert found.text == "a\ufffdb\ufffdc"
        assert found.metadata == {"k\ufffd": ["\ufffd", "é"]}
        assert documents(write(tmp_path, "b.jsonl", r'{"text": "\ud83d\ude00"}'))[0].text == "😀"

    def test_a_long_line_is_passed_over(self, tmp_path: Path) -> None:
        line = json.dumps({"text": "x" * 39})
        assert len(line) == 51
        path = write(tmp_path, "a.jsonl", f"{line}\n{line}y{line}{line}\n{line}")
        first, bad, third = read(path, max_bytes=51)
        assert isinstance(first, Document)
        assert isinstance(third, Document)
        assert isinstance(bad, IngestError)
        assert "longer than 51 bytes" in bad.reason
        assert "ingest.max_file_mib" in bad.fix

    def test_an_unfinished_long_line(self, tmp_path: Path) -> None:
        assert error(write(tmp_path, "a.jsonl", "x" * 1_000), limit=10).source.endswith(":1")

    @pytest.mark.parametrize("content", ["", "\n \n"])
    def test_empty(self, tmp_path: Path, content: str) -> None:
        assert error(write(tmp_path, "a.jsonl", content)).reason == "is empty"

    def test_a_file_that_is_no_jsonl_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jsonfiles, "BAD_LINES", 10)
        found = errors(write(tmp_path, "a.jsonl", "no\n" * 100))
        assert len(found) == 11
        assert "first 10 lines are all bad" in found[-1].reason
        assert len(errors(write(tmp_path, "b.jsonl", '{"text": "x"}\n' + "no\n" * 100))) == 100

    def test_a_file_of_nearly_only_bad_lines_is_given_up(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.jsonl", '{"text": "x"}\n' + "no\n" * 5_000)
        found = errors(path)
        assert len(found) == 1_001
        assert "1,000 of its first 1,001 lines are bad" in found[-1].reason

    def test_not_every_bad_line_is_reported(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jsonfiles, "REPORTED", 3)
        path = write(tmp_path, "a.jsonl", '{"text": "x"}\nno\n' * 10)
        found = list(read(path, max_bytes=LIMIT))
        assert sum(isinstance(item, Document) for item in found) == 10
        *bad, last = (item for item in found if isinstance(item, IngestError))
        assert len(bad) == 3
        assert last.source == path.as_posix()
        assert last.reason == "has 7 more bad lines"

    def test_parts_are_the_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = [f'{{"text": "{n}{"x" * (n % 90)}"}}' if n % 7 else "no" for n in range(200)]
        path = write(tmp_path, "a.jsonl", "\n".join(lines))
        whole = list(read(path, max_bytes=50))
        monkeypatch.setattr(jsonfiles, "PART_BYTES", 300)
        monkeypatch.setattr(jsonfiles, "PART_LINES", 11)
        found: list[Document | IngestError] = []
        start: Position | None = Position()
        parts = 0
        while start is not None:
            part = formats.read_part(path, max_bytes=50, parse=Parse(), start=start)
            start, parts = None, parts + 1
            for item in part:
                if isinstance(item, Position):
                    start = item
                else:
                    found.append(item)
        assert parts > 200 / 11
        assert [repr(item) for item in found] == [repr(item) for item in whole]
        assert [repr(item) for item in read(path, max_bytes=50)] == [repr(item) for item in whole]

    def test_what_is_appended_while_it_is_read_is_left(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.jsonl", '{"text": "x"}\n' * 3)
        found = 0
        for item in read(path, max_bytes=LIMIT):
            assert isinstance(item, Document)
            found += 1
            with path.open("a") as file:
                file.write('{"text": "x"}\n' * 100)
        assert found == 3

    def test_what_is_cut_off_while_it_is_read_ends_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jsonfiles, "PART_LINES", 10)
        path = write(tmp_path, "a.jsonl", '{"text": "x"}\n' * 30)
        first = list(formats.read_part(path, max_bytes=LIMIT, parse=Parse()))
        assert isinstance(first[-1], Position)
        path.write_text('{"text": "x"}\n')
        rest = list(formats.read_part(path, max_bytes=LIMIT, parse=Parse(), start=first[-1]))
        assert rest == []

    def test_lines_in_another_encoding(self, tmp_path: Path) -> None:
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in ("数据库的性能", "ok")]
        path = write(tmp_path, "a.jsonl", "\n".join(lines).encode("gb18030"))
        assert [d.text for d in documents(path)] == ["数据库的性能", "ok"]

    def test_real_corpus(self, data: Path) -> None:
        found = documents(data / "qa/cmrc_zh/corpus.jsonl")
        assert len(found) == 1_104
        assert found[0].id == "cmrc-d0"
        assert found[0].title == "战国无双3"


class TestEntry:
    def test_every_suffix_has_a_reader_that_knows_it(self) -> None:
        for suffix in SUFFIXES:
            reader = reader_for(Path("x" + suffix.upper()))
            assert reader is not None
            assert suffix in reader.suffixes
        known = {
            s for suffix in SUFFIXES if (r := reader_for(Path("x" + suffix))) for s in r.suffixes
        }
        assert known == set(SUFFIXES)

    def test_unknown_suffixes_have_none(self, tmp_path: Path) -> None:
        assert reader_for(Path("a.xyz")) is None
        assert ".xyz" in error(write(tmp_path, "a.xyz", "x")).reason
        found = error(write(tmp_path, "Makefile", "x"))
        assert "without a suffix" in found.reason
        assert ".md" in found.fix

    def test_parsers_are_imported_late(self) -> None:
        code = (
            "import sys, vivace.ingest.formats\n"
            "print([m for m in ('selectolax', 'markdown_it') if m in sys.modules])"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.stdout.strip() == "[]", run.stderr

    def test_a_vanished_file(self, tmp_path: Path) -> None:
        for name in ("a.txt", "a.jsonl"):
            assert "does not exist" in error(tmp_path / name).reason

    def test_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").mkdir()
        assert "directory" in error(tmp_path / "a.txt").reason

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.txt")
        assert "not a regular file" in error(tmp_path / "a.txt").reason

    @pytest.mark.parametrize(
        ("raised", "reason"),
        [
            (PermissionError(13, "denied"), "may not be read"),
            (OSError(5, "Input/output error"), "Input/output error"),
            (OSError("odd"), "odd"),
            (RuntimeError("boom"), "RuntimeError: boom"),
        ],
    )
    def test_foreign_errors_are_translated(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, reason: str
    ) -> None:
        def fail(self: TextReader, file: OpenFile) -> Iterator[Document | IngestError]:
            raise raised
            yield

        monkeypatch.setattr(TextReader, "documents", fail)
        assert reason in error(write(tmp_path, "a.txt", "x")).reason

    def test_readers_have_a_limit_by_default(self, tmp_path: Path) -> None:
        assert MarkdownReader().max_bytes == TextReader().max_bytes == 64 << 20
        assert formats.known_suffixes().startswith(".txt, ")
