"""Reads Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from vivace.errors import IngestError
from vivace.ingest.decode import FileReader, OpenFile
from vivace.ingest.prose import outline
from vivace.types import Document

# without this, "---\ntitle: x\n---" at the top is a rule and a level 2 heading
_FRONT_MATTER: Final = re.compile(r"---[ \t]*\n(?:[^\n]*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_NOT_NEWLINE: Final = re.compile(r"[^\n]")
_LONGEST_FRONT_MATTER: Final = 20_000
_LONGEST_HEADING: Final = 1_000


class MarkdownReader(FileReader):
    """Markdown: the text is the raw file, and a section begins at the line of each heading.

    Headings inside lists and quotations begin no section: what follows the list is not below them.
    The title is the first heading of level 1, else the file's stem.
    """

    suffixes = frozenset({".md", ".markdown"})

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        text = file.text(self.max_bytes)
        found = headings(text)
        above = (heading for _, level, heading in found if level == 1 and heading)
        title = next(above, file.path.stem)
        yield Document(file.source, text, title, file.source, sections=outline(found))


def headings(text: str) -> list[tuple[int, int, str]]:
    """(offset of its line, level, plain text) of each top-level heading of a Markdown text."""
    front = _FRONT_MATTER.match(text[:_LONGEST_FRONT_MATTER])
    body = _NOT_NEWLINE.sub("", front[0]) + text[front.end() :] if front else text
    # inline parsing and link references are slow and, for hostile files, more than linear
    parser = MarkdownIt("commonmark").enable("table").disable(["inline", "reference"])
    inline = MarkdownIt("commonmark")
    starts = _LineStarts(text)
    found: list[tuple[int, int, str]] = []
    tokens = parser.parse(body)
    for token, content in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            plain = content.content[:_LONGEST_HEADING]
            plain = _plain(inline.parseInline(plain)[0].children or ())
            found.append((starts[token.map[0]], int(token.tag[1:]), plain))
    return found


class _LineStarts:
    """Offsets of lines' first characters, for ascending lines: one pass, without a list."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line = 0
        self._offset = 0

    def __getitem__(self, line: int) -> int:
        while self._line < line:
            self._offset = self._text.index("\n", self._offset) + 1
            self._line += 1
        return self._offset


def _plain(tokens: Sequence[Token]) -> str:
    """Inline tokens as displayed: without emphasis marks and link targets."""
    parts: list[str] = []
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif token.type in ("text", "code_inline", "image", "text_special"):
            parts.append(token.content)
    return " ".join("".join(parts).split())
