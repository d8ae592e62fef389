"""What does a web page say? Its main text, without menus, scripts and other furniture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from vivace.errors import IngestError
from vivace.ingest.decode import DEFAULT_MAX_BYTES, absolute, read_text
from vivace.ingest.outline import outline
from vivace.ingest.page import PageWriter
from vivace.types import Document


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DEEPEST: Final = 5_000
"""Elements inside one another. The parser takes time quadratic in this: 100,000 cost 41 s."""

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
"""A tag, or what looks like tags and holds none: a comment, a script, a style sheet."""
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
"""Elements that have no content, or that the next of their kind closes."""


class HtmlReader:
    """HTML: the text is what the page says, with sections by its headings.

    Paragraphs are divided by a blank line, list items begin with "- ", cells of a row are divided
    by " | ", preformatted text keeps its lines. The title is the page's, else its first h1's.
    """

    suffixes: frozenset[str] = frozenset({".html", ".htm"})

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes

    def read(self, path: Path) -> Iterator[Document | IngestError]:
        path = absolute(path)
        source = path.as_posix()
        html = read_text(path, max_bytes=self.max_bytes, declared=declared)
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
            title=title or path.stem,
            source=source,
            sections=outline(headings),
        )


def declared(data: bytes) -> str:
    """The encoding that a page's own <meta> or XML declaration names; empty where none does."""
    found = _CHARSET.search(data[:_DECLARED_WITHIN])
    return found[1].decode("ascii") if found else ""


def laid_out(html: str, source: str) -> tuple[str, list[tuple[int, int, str]], str]:
    """A page's text, its headings as (offset, level, text), and its title or an empty one.

    Raises:
        IngestError: it nests too deeply to be parsed in reasonable time.
        MemoryError: the parser got no more, which is the only way in which it fails.
    """
    _require_shallow(html, source)
    try:
        tree = LexborHTMLParser(html)
    except SelectolaxError:
        raise MemoryError from None
    page = PageWriter()
    if tree.body is not None:
        _write(_main_part(tree, tree.body), page)
    text, headings = page.finished()
    return text, headings, _title(tree, headings)


def _require_shallow(html: str, source: str) -> None:
    """Refuse at once what the parser would take minutes over.

    A count of tags cannot know all that a parser does: which elements it opens again, which closing
    tags it passes over. The sandbox's limits are for that.
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
    """Characters of text under the node that could be shown."""
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
    """The <main> or <article> that holds most of the text, else the body."""
    total = _length(body)
    for selector in ("main", "[role=main]", "article"):
        for node in tree.css(selector)[:2]:
            if 2 * _length(node) > total:
                return node
    return body


def _is_furniture(node: LexborNode, tag: str, total: int) -> bool:
    """Whether the element is not part of what the page says; `total` is the page's characters."""
    if tag in _NEVER_TEXT or tag in _FURNITURE:
        return True
    if tag == "form":
        # Some frameworks wrap the whole page in a form.
        return 2 * _length(node) <= total
    attributes = node.attributes
    return "hidden" in attributes or attributes.get("role") in _FURNITURE_ROLES


def _write(root: LexborNode, page: PageWriter) -> None:
    """Walk the elements in document order and write what they say.

    Without recursion, and without comparing nodes: equality serialises both.
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


def _write_headings(header: LexborNode, page: PageWriter) -> None:
    """Of an article's header its headings; the rest is menus, dates and buttons."""
    for node in header.css("h1, h2, h3"):
        page.open_heading(_HEADINGS[node.tag or "h1"])
        page.text(node.text())
        page.close_heading()


def _open(node: LexborNode, tag: str, page: PageWriter) -> None:
    if tag == "br":
        page.newline()
    elif tag in _HEADINGS:
        page.open_heading(_HEADINGS[tag])
    elif tag == "pre":
        page.open_pre()
    elif tag == "li":
        page.open_item()
    elif tag == "tr":
        # Tables within a row are layout: their blocks keep their own lines.
        page.open_row(data=node.css_first("table") is None)
    elif tag in ("td", "th"):
        page.open_cell()
    elif tag == "dt":
        page.line()
    elif tag in _PARAGRAPHS:
        page.block()


def _close(tag: str, page: PageWriter) -> None:
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
