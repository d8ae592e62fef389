"""Puts a document together from paragraphs, headings, pages and table rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from vivace.errors import IngestError
from vivace.ingest.decode import empty
from vivace.types import Document, Section

_UNWANTED: Final = re.compile(
    "[\0-\x08\x0b\x0e-\x1f\x7f\ufeff\u200b\u00ad\ufffe\uffff\ud800-\udfff]"
)
_SPACES: Final = re.compile(r"\s+")


class Prose:
    """Collects a document's text: a blank line between paragraphs, a line end between list items
    and rows.

    Raises:
        IngestError: from any method that adds text, above `chars` characters.
    """

    def __init__(self, source: str, chars: int) -> None:
        self.source = source
        self.length = 0
        self._chars = chars
        self._parts: list[str] = []
        self._above: list[tuple[int, str]] = []
        self._page: int | None = None
        self._sections: list[Section] = []
        self._owed: Section | None = None
        self._together = False

    def paragraph(self, text: str) -> None:
        """Add a paragraph; its own line ends are kept."""
        self._add(text, "\n\n")
        self._together = False

    def line(self, text: str) -> None:
        """Add a list item or row, directly below the one before."""
        self._add(text, "\n" if self._together else "\n\n")
        self._together = True

    def row(self, cells: Iterable[str]) -> None:
        """Add a table row; empty cells keep their place, a row of empty cells is omitted."""
        texts = [_SPACES.sub(" ", cell).strip() for cell in cells]
        if any(texts):
            self.line(" |".join(f" {text}" if text else "" for text in texts).strip())

    def heading(self, level: int, text: str) -> None:
        """Add a heading; what follows is below it and the earlier ones of lower levels."""
        text = _SPACES.sub(" ", _UNWANTED.sub("", text)).strip()
        if not text:
            return
        _stand(self._above, level, text)
        self._begin()
        self.paragraph(text)

    def page(self, number: int) -> None:
        """What follows is on this page (slide, sheet)."""
        self._page = number
        self._begin()

    def separate(self) -> None:
        """What follows starts a new paragraph."""
        self._together = False

    def document(
        self, path: Path, *, title: str = "", metadata: Mapping[str, Any] | None = None
    ) -> Document:
        """The document of all that was added.

        Raises:
            IngestError: there is no text.
        """
        if not self.length:
            raise empty(self.source)
        first = next((h.heading[0] for h in self._sections if h.heading), "")
        return Document(
            id=self.source,
            text="".join(self._parts),
            title=_UNWANTED.sub("", title).strip() or first or path.stem,
            source=self.source,
            metadata=metadata or {},
            sections=tuple(self._sections),
        )

    def _begin(self) -> None:
        self._owed = Section(0, tuple(text for _, text in self._above), self._page)
        self._together = False

    def _add(self, text: str, gap: str) -> None:
        text = _UNWANTED.sub("", text).strip("\n")
        if not text.strip():
            return
        before = gap if self._parts else ""
        self.length += len(before) + len(text)
        if self.length > self._chars:
            raise IngestError(
                self.source,
                f"has over {self._chars:,} characters",
                fix="Raise the setting parse.chars or split the file",
            )
        if self._owed is not None:
            start = self.length - len(text)
            self._sections.append(Section(start, self._owed.heading, self._owed.page))
            self._owed = None
        self._parts += (before, text) if before else (text,)


def outline(headings: Iterable[tuple[int, int, str]]) -> tuple[Section, ...]:
    """Sections of headings given in order as (start, level, text), each with its heading path.

    A heading is below the nearest earlier one with a lower level, so a skipped level (h1, then h3)
    leaves no gap in the path. Headings without text are omitted.
    """
    above: list[tuple[int, str]] = []
    sections: list[Section] = []
    for start, level, text in headings:
        if text:
            _stand(above, level, text)
            sections.append(Section(start, tuple(heading for _, heading in above)))
    return tuple(sections)


def _stand(above: list[tuple[int, str]], level: int, text: str) -> None:
    """Append a heading to the path `above`, after removing those that it is not below."""
    while above and above[-1][0] >= level:
        above.pop()
    above.append((level, text))
