"""How is a page's text laid out in plain characters?"""

from __future__ import annotations

import re
from typing import Final

_SPACES: Final = re.compile(r"\s+")
_INVISIBLE: Final = re.compile("[\u00ad\u200b\u2060\ufeff]")


class _Row:
    """An open table row: whether its cells share a line, how many have begun, if one has text."""

    def __init__(self, data: bool) -> None:
        self.data = data
        self.cells = 0
        self.written = False


class PageWriter:
    """Collects the text of a page. Breaks are owed until text comes, so none stands at an end."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._newlines = 0
        self._space = False
        self._prefix = ""
        self._pre = 0
        self._pre_written = False
        self._rows: list[_Row] = []
        self._heading: tuple[int, int, int] | None = None
        self._headings: list[tuple[int, int, str]] = []

    def finished(self) -> tuple[str, list[tuple[int, int, str]]]:
        """The text, and its headings as (offset, level, text)."""
        return "".join(self._parts).rstrip(), self._headings

    def text(self, text: str) -> None:
        """Add running text: whitespace is collapsed, save in preformatted parts."""
        if not text.isascii():
            text = _INVISIBLE.sub("", text)
        if self._pre:
            self._preformatted(text)
            return
        collapsed = _SPACES.sub(" ", text)
        bare = collapsed.strip(" ")
        if not bare:
            self._space = self._space or bool(collapsed)
            return
        self._space = self._space or collapsed[0] == " "
        self._put(bare)
        self._space = collapsed[-1] == " "

    def newline(self) -> None:
        """End the line, as <br> does."""
        if self._pre:
            self._newlines += 1
        else:
            self._owe(1)

    def line(self) -> None:
        """What follows begins on a line of its own."""
        self._owe(1)

    def block(self) -> None:
        """What follows is a paragraph of its own."""
        if not self._prefix:
            self._owe(2)

    def open_item(self) -> None:
        """Begin a list item. Within a table row items are divided by "; " instead."""
        if self._in_data_row():
            if not self._prefix and self._rows[-1].written:
                self._prefix = "; "
            return
        self._owe(1)
        self._prefix = "- "

    def close_item(self) -> None:
        """End a list item; an empty one leaves nothing."""
        if not self._in_data_row():
            self._prefix = ""
        self._owe(1)

    def open_row(self, *, data: bool) -> None:
        """Begin a table row; the cells of a `data` row stay on one line."""
        self._owe(1)
        self._rows.append(_Row(data))

    def close_row(self) -> None:
        """End the row opened last."""
        if self._rows:
            self._rows.pop()
        self._prefix = ""
        self._owe(1)

    def open_cell(self) -> None:
        """Begin a cell; an empty one keeps its place in the row."""
        if not self._rows:
            return
        row = self._rows[-1]
        row.cells += 1
        row.written = False
        if not row.data:
            self._owe(1)
        elif row.cells > 1:
            self._prefix = self._prefix.rstrip() + " | "

    def open_heading(self, level: int) -> None:
        """Begin a heading of level 1 to 6."""
        self._owe(2)
        self._heading = (level, -1, len(self._parts))

    def close_heading(self) -> None:
        """End the heading; one without text is not kept."""
        if self._heading is not None:
            level, start, first = self._heading
            if start >= 0:
                words = " ".join("".join(self._parts[first:]).split())
                self._headings.append((start, level, words))
            self._heading = None
        self._owe(2)

    def open_pre(self) -> None:
        """Begin preformatted text."""
        self._owe(2)
        self._pre += 1
        self._pre_written = False

    def close_pre(self) -> None:
        """End preformatted text; its last line ends are not kept."""
        self._pre -= 1
        self._newlines = 0
        self._owe(2)

    def _in_data_row(self) -> bool:
        return bool(self._rows) and self._rows[-1].data

    def _owe(self, newlines: int) -> None:
        if self._in_data_row():
            self._space = True
        else:
            self._newlines = max(self._newlines, newlines)

    def _preformatted(self, text: str) -> None:
        body = text.strip("\n")
        if self._pre_written:
            # Line ends within the part are kept, all of them, but only once more text comes.
            self._newlines += len(text) - len(text.lstrip("\n"))
        if not body:
            return
        self._space = False
        self._put(body)
        self._pre_written = True
        self._newlines = len(text) - len(text.rstrip("\n"))

    def _put(self, text: str) -> None:
        if not text:
            return
        begins_line = not self._parts or self._newlines > 0
        if self._parts:
            if self._newlines:
                self._add("\n" * self._newlines)
            elif self._space and not self._prefix:
                self._add(" ")
        self._newlines, self._space = 0, False
        if self._heading is not None and self._heading[1] < 0:
            # The heading starts with its text, behind the breaks owed to what is above it.
            self._heading = (self._heading[0], self._length, len(self._parts))
        prefix, self._prefix = self._prefix, ""
        self._add((prefix.lstrip() if begins_line else prefix) + text)
        if self._rows:
            self._rows[-1].written = True

    def _add(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)
