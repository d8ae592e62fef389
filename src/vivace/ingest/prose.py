"""How is a document put together from paragraphs, headings, pages and table rows?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from vivace.errors import IngestError
from vivace.ingest import outline
from vivace.ingest.decode import empty
from vivace.types import Document, Section

_UNWANTED: Final = re.compile(
    "[\0-\x08\x0b\x0e-\x1f\x7f\ufeff\u200b\u00ad\ufffe\uffff\ud800-\udfff]"
)
_SPACES: Final = re.compile(r"\s+")


class Prose:
    """Collects a document's text; paragraphs stand apart by a blank line, list items and rows by
    a line end.

    Raises:
        IngestError: from anything that adds text, once there are more than `chars` characters.
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
        """A paragraph; its own line ends are kept."""
        self._add(text, "\n\n")
        self._together = False

    def line(self, text: str) -> None:
        """A list item or row: directly under the one before, apart from paragraphs."""
        self._add(text, "\n" if self._together else "\n\n")
        self._together = True

    def row(self, cells: Iterable[str]) -> None:
        """A table row; empty cells keep their place, a row of nothing else is left out."""
        texts = [_SPACES.sub(" ", cell).strip() for cell in cells]
        if any(texts):
            self.line(" |".join(f" {text}" if text else "" for text in texts).strip())

    def heading(self, level: int, text: str) -> None:
        """A heading; what follows stands under it and under those before it of a lower level."""
        text = _SPACES.sub(" ", _UNWANTED.sub("", text)).strip()
        if not text:
            return
        outline.stand(self._above, level, text)
        self._begin()
        self.paragraph(text)

    def page(self, number: int) -> None:
        """What follows stands on this page (slide, sheet)."""
        self._page = number
        self._begin()

    def separate(self) -> None:
        """What follows begins a paragraph of its own."""
        self._together = False

    def document(
        self, path: Path, *, title: str = "", metadata: Mapping[str, Any] | None = None
    ) -> Document:
        """The whole.

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
        self._owed = Section(0, outline.path(self._above), self._page)
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
