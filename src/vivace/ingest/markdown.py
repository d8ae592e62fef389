"""Reads Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.rules_block.html_block import HTML_SEQUENCES

from vivace.errors import IngestError
from vivace.ingest.decode import FileReader, OpenFile
from vivace.ingest.prose import outline
from vivace.types import Document

_FRONT_MATTER: Final = re.compile(r"---[ \t]*\n")
_FRONT_MATTER_END: Final = re.compile(r"^(?:---|\.\.\.)[ \t]*$", re.MULTILINE)
_LONGEST_FRONT_MATTER: Final = 20_000
_LONGEST_HEADING: Final = 1_000
_INLINE: Final = re.compile(r"[\\`*_\[\]<&]")
"""What begins or ends markup within a line."""
_MOST_INLINE: Final = 64
"""Marks in a heading; the time of parsing more of them would be quadratic."""


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
    """(offset of its line, level, plain text) of each top-level heading of a Markdown text.

    Time is linear in the text.
    """
    blocks = _Blocks()
    inline = MarkdownIt("commonmark")
    found: list[tuple[int, int, str]] = []
    start, size = _body(text), len(text)
    while start < size:
        end = text.find("\n", start)
        end = size if end < 0 else end
        level = blocks.add(text[start:end], start)
        if level > 0:
            found.append((start, level, _plain(_atx(text[start:end]), inline)))
        elif level < 0:
            begin = blocks.paragraph
            found.append((begin, -level, _plain(text[begin:start], inline)))
        start = end + 1
    return found


def _body(text: str) -> int:
    """Where the text begins behind its front matter, which would be a rule and a heading else."""
    first = _FRONT_MATTER.match(text)
    last = _FRONT_MATTER_END.search(text, first.end(), _LONGEST_FRONT_MATTER) if first else None
    return last.end() if last else 0


def _atx(line: str) -> str:
    """The text of a line that begins with #, without the closing ones."""
    text = line.strip(" \t").lstrip("#").strip(" \t")
    bare = text.rstrip("#")
    return bare if not bare or bare[-1] in " \t" else text


def _plain(text: str, inline: MarkdownIt) -> str:
    """A heading as displayed: without emphasis marks and link targets."""
    text = text.strip()[:_LONGEST_HEADING]
    marks = len(_INLINE.findall(text))
    if marks > _MOST_INLINE:
        text = _INLINE.sub("", text)
    elif marks:
        parts: list[str] = []
        for token in inline.parseInline(text)[0].children or ():
            if token.type in ("softbreak", "hardbreak"):
                parts.append(" ")
            elif token.type in ("text", "code_inline", "image", "text_special"):
                parts.append(token.content)
        text = "".join(parts)
    return " ".join(text.split())


# -- blocks ---------------------------------------------------------------------------------------

_NONE: Final = 0
_PARAGRAPH: Final = 1
_TABLE: Final = 2
_FENCE: Final = 3
_HTML: Final = 4

_QUOTE: Final = 0
"""A quotation among the containers; a list item is the columns by which its content is indented."""
_DEEPEST: Final = 50
"""Containers in one another; what is nested deeper is text."""
_CODE: Final = 4
"""Columns of indentation that make code."""
_SPACES: Final = re.compile(" *")
_ATX: Final = re.compile(r"(#{1,6})(?: |$)")
_FENCED: Final = re.compile(r"(`{3,})[^`]*$|(~{3,})")
_RULES: Final = {"*": " *", "-": " -", "_": " _"}
_MARKS: Final = frozenset("#`~<=-*_>+|:0123456789")
"""What begins anything but text."""
_LONGEST_TAG: Final = 4_096
_UNDERLINE: Final = re.compile(r"(=+|-+) *$")
_ITEM: Final = re.compile(r"(?:[-+*]|(\d{1,9})[.)])(?= |$)", re.ASCII)
_DELIMITERS: Final = re.compile(r"(?:[|:][-|: ]|-[-|:])[-|: ]*$")
_DELIMITER: Final = re.compile(r":?-+:?")
_BAR: Final = re.compile(r"(?<!\\)\|")


class _Blocks:
    """Follows the blocks of a text line by line, as CommonMark's parsing strategy does
    (https://spec.commonmark.org/0.31.2/#appendix-a-parsing-strategy, with GitHub's tables), and
    keeps only what decides whether a line is a heading outside of lists and quotations.

    Link definitions count as paragraphs.
    """

    def __init__(self) -> None:
        self.paragraph = 0
        """Where the last paragraph began."""
        self._containers: list[int] = []
        self._leaf = _NONE
        self._fence = ""
        """The marks that the open fence began with."""
        self._end: re.Pattern[str] | None = None
        """What ends the open HTML block; None for a blank line."""
        self._bare_item = False
        """Whether the innermost container is a list item without content so far."""
        self._last = ""

    def add(self, line: str, offset: int) -> int:
        """Take the next line. Returns the level of the heading that it is, minus the level of the
        one that it underlines (which began at `paragraph`), or 0."""
        if not self._containers and self._leaf <= _PARAGRAPH:  # most lines, in less time
            if line[:1].isalpha():
                self._text(offset)
                self._last = line
                return 0
            if not line:
                self._leaf = _NONE
                return 0
        if "\t" in line:
            line = line.expandtabs(4)
        at, depth = self._continued(line)
        whole = depth == len(self._containers)
        if whole and self._leaf >= _FENCE:
            self._go_on(line, at)
            return 0
        level = self._begin(line, at, depth, offset)
        self._last = line
        return level

    def _continued(self, line: str) -> tuple[int, int]:
        """How far the line continues the open containers: (column behind them, how many)."""
        at, size = 0, len(line)
        innermost = len(self._containers) - 1
        for depth, width in enumerate(self._containers):
            start = _skipped(line, at)
            if width == _QUOTE:
                if start - at >= _CODE or line[start : start + 1] != ">":
                    return at, depth
                at = _skipped_one(line, start + 1)
            elif start == size:
                if self._bare_item and depth == innermost:
                    return at, depth
                at = start
            elif start - at >= width:
                at += width
            else:
                return at, depth
        return at, len(self._containers)

    def _go_on(self, line: str, at: int) -> None:
        """The next line of a fenced block or of HTML."""
        start = _skipped(line, at)
        if self._leaf == _FENCE:
            ends = start - at < _CODE and line.startswith(self._fence, start)
            ends = ends and not line[start:].rstrip(" ").strip(self._fence[0])
        elif self._end is None:
            ends = start == len(line)
        else:
            ends = self._end.search(line, at) is not None
        if ends:
            self._leaf = _NONE

    def _begin(self, line: str, at: int, depth: int, offset: int) -> int:
        """Begin the blocks that the line begins behind `depth` containers; else it is text."""
        opened = self._leaf == _PARAGRAPH
        goes_on = opened and depth == len(self._containers)
        is_row = self._leaf == _TABLE and depth == len(self._containers)
        while True:
            start = _skipped(line, at)
            if start == len(line):
                if self._leaf != _NONE or depth < len(self._containers):
                    self._close(depth)
                return 0
            if start - at >= _CODE or line[start] not in _MARKS:
                break
            if goes_on and depth == 0 and self._is_delimiter_row(line, start):
                self._leaf = _TABLE
                return 0
            level = self._leaf_at(line, start, depth, opened or is_row, goes_on)
            if level is not None:
                return level
            inside = self._container_at(line, at, start, depth, goes_on)
            if inside is None:
                break
            at, depth = inside, len(self._containers)
            opened = goes_on = is_row = False
        if opened or (is_row and start - at < _CODE):
            return 0  # a paragraph's next line, although containers around it may be missing
        self._close(depth)
        if start - at < _CODE:
            self._text(offset)
        return 0

    def _leaf_at(
        self, line: str, start: int, depth: int, in_text: bool, goes_on: bool
    ) -> int | None:
        """Begin a heading, fence, HTML block or rule: the level as of `add`; None for none."""
        first = line[start]
        if first == "#":
            if found := _ATX.match(line, start):
                self._close(depth)
                return 0 if self._containers else len(found[1])
        elif first in "`~":
            if found := _FENCED.match(line, start):
                self._close(depth)
                self._leaf, self._fence = _FENCE, found[1] or found[2]
                return 0
        elif first == "<":
            return self._html_at(line, start, depth, in_text)
        elif goes_on and first in "=-" and (found := _UNDERLINE.match(line, start)):
            self._close(depth)
            level = 1 if first == "=" else 2
            return 0 if self._containers else -level
        is_rule = first in _RULES and not line[start:].strip(_RULES[first])
        if is_rule and line.count(first, start) >= 3:
            self._close(depth)
            return 0
        return None

    def _html_at(self, line: str, start: int, depth: int, in_text: bool) -> int | None:
        rest = line[start : start + _LONGEST_TAG]
        for begin, end, interrupts in HTML_SEQUENCES:
            if begin.search(rest):
                if in_text and not interrupts:
                    return None
                self._close(depth)
                self._end = None if end.search("") else end
                if self._end is None or not self._end.search(line, start):
                    self._leaf = _HTML
                return 0
        return None

    def _container_at(
        self, line: str, at: int, start: int, depth: int, goes_on: bool
    ) -> int | None:
        """Begin a quotation or a list item: the column behind its mark; None for none."""
        if depth >= _DEEPEST:
            return None
        if line[start] == ">":
            self._close(depth)
            self._containers.append(_QUOTE)
            return _skipped_one(line, start + 1)
        found = _ITEM.match(line, start)
        if found is None:
            return None
        behind = found.end()
        text = _skipped(line, behind)
        bare = text == len(line)
        if goes_on and (bare or int(found[1] or 1) != 1):
            return None  # what may be text does not interrupt a paragraph
        self._close(depth)
        if bare or text - behind > _CODE:
            text = behind + 1
        self._containers.append(text - at)
        self._bare_item = bare
        return min(text, len(line))

    def _is_delimiter_row(self, line: str, start: int) -> bool:
        """Whether the line is the second one of a table, and the last one its first."""
        head = self._last
        if "|" not in head or not _DELIMITERS.match(line, start):
            return False
        cells = [cell.strip() for cell in line[start:].split("|")]
        cells = cells[not cells[0] : len(cells) - (not cells[-1])]
        if not all(map(_DELIMITER.fullmatch, cells)) or _skipped(head, 0) >= _CODE:
            return False
        names = _BAR.split(head.strip())
        return len(names) - (not names[0]) - (not names[-1] and len(names) > 1) == len(cells)

    def _text(self, offset: int) -> None:
        if self._leaf != _PARAGRAPH:
            self._leaf = _PARAGRAPH
            self.paragraph = offset
            self._bare_item = False

    def _close(self, depth: int) -> None:
        """End the open leaf, and the containers behind the first ones."""
        del self._containers[depth:]
        self._leaf = _NONE
        self._bare_item = False


def _skipped(line: str, at: int) -> int:
    """The column of the first character from `at` on that is no space."""
    found = _SPACES.match(line, at)
    assert found is not None
    return found.end()


def _skipped_one(line: str, at: int) -> int:
    return at + 1 if line[at : at + 1] == " " else at
