"""Reads web pages: their main text, without menus, scripts and other page furniture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from vivace.errors import IngestError
from vivace.ingest.decode import FileReader, OpenFile
from vivace.ingest.prose import outline
from vivace.types import Document


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DEEPEST: Final = 5_000
"""Deepest nesting. The parser takes time quadratic in it: 41 s for 100,000."""

_NEVER_TEXT: Final = _words(
    """
    script style noscript template svg iframe object embed canvas video audio select button textarea
    datalist dialog map annotation annotation-xml
    """
)
_FURNITURE: Final = _words("nav footer aside")
_FURNITURE_ROLES: Final = _words("navigation search banner contentinfo complementary menu")
_CONTENT: Final = frozenset({"main", "article"})
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_PARAGRAPHS: Final = _words(
    """
    p div section article main header footer aside nav ul ol dl dd table blockquote figure
    figcaption form fieldset address details summary center caption hr body
    """
)
_TAG: Final = re.compile(
    r"<!--(?:-?>|.*?(?:--!?>|\Z))"
    r"|<(?P<raw>script|style)(?=[\s/>]).*?(?:</(?P=raw)(?=[\s/>])|\Z)"
    r"|<(?P<slash>/?)(?P<name>[a-zA-Z][a-zA-Z0-9-]*)(?=[\s/>])",
    re.DOTALL | re.IGNORECASE,
)
"""A tag; or a comment, script or style sheet, in which no tag counts."""
_CHARSET: Final = re.compile(
    rb"(?:<meta[^>]*?charset|<\?xml[^>]*?encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE
)
_DECLARED_WITHIN: Final = 4_096
"""Bytes; browsers look into the first 1,024."""
_UNNESTED: Final = _words(
    """
    area base br col embed hr img input link meta param source track wbr
    p li dt dd option optgroup tr td th tbody thead tfoot colgroup rp rt a button nobr html head
    body h1 h2 h3 h4 h5 h6
    """
)
"""Elements without content, or closed by the next of their kind."""
_SPACES: Final = re.compile(r"\s+")
_INVISIBLE: Final = re.compile("[\u00ad\u200b\u2060\ufeff]")


class HtmlReader(FileReader):
    """HTML: the text of the page, with sections by its headings.

    A blank line divides paragraphs, list items begin with "- ", " | " divides the cells of a row,
    preformatted text keeps its lines. The title is the page's, else its first h1's.
    """

    suffixes = frozenset({".html", ".htm"})

    def documents(self, file: OpenFile) -> Iterator[Document | IngestError]:
        source = file.source
        html = file.text(self.max_bytes, declared)
        text, headings, title = laid_out(html, source)
        if not text:
            raise IngestError(
                source,
                "has no text outside scripts and menus",
                fix="If a browser shows text, save the page from there",
            )
        yield Document(
            id=source,
            text=text,
            title=title or file.path.stem,
            source=source,
            sections=outline(headings),
        )


def declared(data: bytes) -> str:
    """The encoding that the page's <meta> or XML declaration names; empty if none."""
    found = _CHARSET.search(data[:_DECLARED_WITHIN])
    return found[1].decode("ascii") if found else ""


def laid_out(html: str, source: str) -> tuple[str, list[tuple[int, int, str]], str]:
    """A page's text, its headings as (offset, level, text), and its title or an empty string.

    Raises:
        IngestError: it nests too deeply to be parsed in reasonable time.
        MemoryError: the parser ran out of memory; it fails in no other way.
    """
    _require_shallow(html, source)
    try:
        tree = LexborHTMLParser(html)
    except SelectolaxError:
        raise MemoryError from None
    page = _PageWriter()
    if tree.body is not None:
        _write(_main_part(tree, tree.body), page)
    text, headings = page.finished()
    return text, headings, _title(tree, headings)


def _require_shallow(html: str, source: str) -> None:
    """Reject a page that the parser would take minutes for.

    Counting tags does not find every such page: the parser reopens some elements and ignores some
    closing tags. The sandbox's limits stop the others.
    """
    depth = 0
    open_elements: Counter[str] = Counter()
    for found in _TAG.finditer(html):
        tag = (found["name"] or "").lower()
        if not tag or tag in _UNNESTED:
            continue
        if not found["slash"]:
            open_elements[tag] += 1
            depth += 1
        elif open_elements[tag]:
            open_elements[tag] -= 1
            depth -= 1
        if depth > DEEPEST:
            raise IngestError(
                source,
                f"nests over {DEEPEST:,} elements in one another",
                fix="Close its elements, or save the page as text",
            )


def _title(tree: LexborHTMLParser, headings: list[tuple[int, int, str]]) -> str:
    node = tree.css_first("head > title")
    title = " ".join(node.text().split()) if node is not None else ""
    return title or next((text for _, level, text in headings if level == 1 and text), "")


def _length(root: LexborNode) -> int:
    """Characters of displayable text below the node."""
    total = 0
    open_elements: list[LexborNode] = []
    node = root.child
    while node is not None:
        if node.is_text_node:
            total += len((node.text_content or "").strip())
        elif node.child is not None and node.tag not in _NEVER_TEXT:
            open_elements.append(node)
            node = node.child
            continue
        while node.next is None and open_elements:
            node = open_elements.pop()
        node = node.next
    return total


def _main_part(tree: LexborHTMLParser, body: LexborNode) -> LexborNode:
    """The <main> or <article> with most of the text, else the body."""
    total = _length(body)
    for selector in ("main", "[role=main]", "article"):
        for node in tree.css(selector)[:2]:
            if 2 * _length(node) > total:
                return node
    return body


def _is_furniture(node: LexborNode, tag: str, total: int) -> bool:
    """Whether the element is not part of the content; `total` is the page's characters."""
    if tag in _NEVER_TEXT or tag in _FURNITURE:
        return True
    if tag == "form":
        # some frameworks wrap the whole page in a form
        return 2 * _length(node) <= total
    attributes = node.attributes
    return "hidden" in attributes or attributes.get("role") in _FURNITURE_ROLES


def _write(root: LexborNode, page: _PageWriter) -> None:
    """Walk the elements in document order and write their text.

    Without recursion, and without comparing nodes: their equality serialises both.
    """
    total = _length(root)
    inside = int(root.tag in _CONTENT)
    open_elements: list[tuple[LexborNode, str]] = []
    node = root.child
    while node is not None:
        tag = node.tag or ""
        if node.is_text_node:
            page.text(node.text_content or "")
        elif tag == "header":
            if inside:
                _write_headings(node, page)
        elif node.is_element_node and not _is_furniture(node, tag, total):
            _open(node, tag, page)
            inside += tag in _CONTENT
            if node.child is not None:
                open_elements.append((node, tag))
                node = node.child
                continue
            _close(tag, page)
            inside -= tag in _CONTENT
        while node.next is None and open_elements:
            node, tag = open_elements.pop()
            _close(tag, page)
            inside -= tag in _CONTENT
        node = node.next


def _write_headings(header: LexborNode, page: _PageWriter) -> None:
    """Write the headings in an article's header; the rest is menus, dates and buttons."""
    for node in header.css("h1, h2, h3"):
        page.open_heading(_HEADINGS[node.tag or "h1"])
        page.text(node.text())
        page.close_heading()


def _open(node: LexborNode, tag: str, page: _PageWriter) -> None:
    if tag == "br":
        page.newline()
    elif tag in _HEADINGS:
        page.open_heading(_HEADINGS[tag])
    elif tag == "pre":
        page.open_pre()
    elif tag == "li":
        page.open_item()
    elif tag == "tr":
        # a row with a table inside is layout: its blocks keep their own lines
        page.open_row(data=node.css_first("table") is None)
    elif tag in ("td", "th"):
        page.open_cell()
    elif tag == "dt":
        page.line()
    elif tag in _PARAGRAPHS:
        page.block()


def _close(tag: str, page: _PageWriter) -> None:
    if tag in _HEADINGS:
        page.close_heading()
    elif tag == "pre":
        page.close_pre()
    elif tag == "tr":
        page.close_row()
    elif tag == "li":
        page.close_item()
    elif tag == "dt":
        page.line()
    elif tag in _PARAGRAPHS:
        page.block()


class _Row:
    """An open table row."""

    def __init__(self, data: bool) -> None:
        self.data = data
        """Whether its cells share a line."""
        self.cells = 0
        """Cells begun."""
        self.written = False
        """Whether the present cell has text."""


class _PageWriter:
    """Collects the text of a page. Breaks are written before the next text, so none is trailing."""

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
        """Add running text; whitespace is collapsed except in preformatted parts."""
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
        """What follows starts a new line."""
        self._owe(1)

    def block(self) -> None:
        """What follows starts a new paragraph."""
        if not self._prefix:
            self._owe(2)

    def open_item(self) -> None:
        """Begin a list item; inside a table row, "; " divides items."""
        if self._in_data_row():
            if not self._prefix and self._rows[-1].written:
                self._prefix = "; "
            return
        self._owe(1)
        self._prefix = "- "

    def close_item(self) -> None:
        """End a list item; an empty one leaves no trace."""
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
        """End the heading; one without text is dropped."""
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
        """End preformatted text; its trailing line ends are dropped."""
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
            # all line ends inside the part are kept, but written only before more text
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
            # the heading starts at its text, after the breaks that precede it
            self._heading = (self._heading[0], self._length, len(self._parts))
        prefix, self._prefix = self._prefix, ""
        self._add((prefix.lstrip() if begins_line else prefix) + text)
        if self._rows:
            self._rows[-1].written = True

    def _add(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)
