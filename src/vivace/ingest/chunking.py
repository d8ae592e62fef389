"""Splits documents into chunks: whole sentences, packed up to a number of tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Final, TypeAlias

from vivace.errors import BadInput
from vivace.protocols import TokenCounter
from vivace.text.sentences import each_sentence
from vivace.types import Chunk, Document, Section

Span: TypeAlias = tuple[int, int]

BATCH: Final = 1_024
"""Most texts per call of the token counter."""
CHARS_A_TOKEN: Final = 16
"""Most characters of a chunk per token allowed. A word of any length can be one unknown token to a
model, so tokens alone would allow a megabyte of base64 in one chunk."""

_WORD_BREAK: Final = re.compile(
    "\\s|(?<=[\u2e80-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
    "\U00020000-\U000323af])|(?=[\u2e80-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U000323af])"
)
_UNDERLINE: Final = re.compile(r"(?:=+|-+)\s*")
_NEAR: Final = 32
_MARKUP: Final = " \t#*_`=~|>-"
_EMPHASIS: Final = str.maketrans(dict.fromkeys("*_`", " "))
_LINES_LOOKED_AT: Final = 16
_MANY_SECTIONS: Final = 1_000
_DENSE: Final = 32
_JOINED: Final = 400
"""Of more than so many sections with fewer than 32 characters on average, each is joined with the
next ones until they have 400: else a megabyte of headings would become 300,000 chunks."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """The place and tokens of a sentence, or of a part of one that was too long."""

    start: int
    end: int
    tokens: int


def split(document: Document, count: TokenCounter, *, tokens: int, overlap: int) -> list[Chunk]:
    """The chunks of a document, in order, with id -1.

    A chunk holds whole sentences of one section, at most `tokens` tokens (the sum over its
    sentences) and `CHARS_A_TOKEN * tokens` characters. It begins with the last sentences of the
    chunk before it in its section, up to `overlap` tokens and never more than half of `tokens`. A
    sentence over the budget is cut between words, or between CJK characters, or within a word that
    is over the budget by itself. A heading with nothing under it but deeper headings begins the
    first chunk of the first of these. `document.text[c.start:c.end] == c.text`, and every character
    that is not whitespace is in a chunk. Time is linear in the text.

    Raises:
        BadInput: `tokens` < 1 or `overlap` < 0.
    """
    if tokens < 1 or overlap < 0:
        raise BadInput(
            f"Chunks of {tokens} tokens with {overlap} of overlap cannot be made",
            fix="Set chunking.tokens to 1 or more and chunking.overlap to 0 or more",
        )
    overlap = min(overlap, tokens // 2)
    limit = CHARS_A_TOKEN * tokens
    parts = list(_parts(document))
    pieces = _measured(document.text, _bounded(document.text, parts, limit), count, tokens)
    chunks: list[Chunk] = []
    waiting = next(pieces, None)
    for section, end in parts:
        packing = _Packing(tokens, overlap, limit)
        while waiting is not None and waiting.start < end:
            packing.add(waiting)
            waiting = next(pieces, None)
        chunks.extend(_chunk(document, section, span) for span in packing.spans())
    return chunks


def indexed_text(chunk: Chunk, *, index_title: bool) -> str:
    """The text that is embedded and indexed: the chunk's text below a line with its heading path.

    With `index_title` the document's title leads the path. Headings with which the chunk's text
    itself begins are not repeated.
    """
    path = ((chunk.title,) if index_title and chunk.title else ()) + chunk.section
    if not path:
        return chunk.text
    shown = _leading_lines(chunk.text, len(path))
    above: list[str] = []
    for heading in path:
        if _bare(heading) not in shown and heading not in above:
            above.append(heading)
    return f"{' > '.join(above)}\n{chunk.text}" if above else chunk.text


def _leading_lines(text: str, most: int) -> set[str]:
    """The first lines with words, without markup: where headings are, if any."""
    lines: list[str] = []
    position = 0
    for _ in range(_LINES_LOOKED_AT):
        end = text.find("\n", position)
        line = _bare(text[position : end if end >= 0 else len(text)])
        if line:
            lines.append(line)
        if end < 0 or len(lines) == most:
            break
        position = end + 1
    return set(lines)


def _bare(line: str) -> str:
    return " ".join(line.translate(_EMPHASIS).strip(_MARKUP).split())


def _parts(document: Document) -> Iterator[tuple[Section, int]]:
    """(section, end) for each section with chunks of its own.

    A section may begin earlier than its heading: at headings above it that have no body. Tiny
    sections of a text that hardly has anything else are joined, below the headings that they share.
    """
    size = len(document.text)
    sections = sorted(document.sections, key=lambda section: section.start)
    if not sections or sections[0].start > 0:
        sections.insert(0, Section(0))
    dense = len(sections) > _MANY_SECTIONS and size < len(sections) * _DENSE
    start, joined = sections[0].start, None
    for section, following in zip(sections, [*sections[1:], None]):
        end = size if following is None else min(size, following.start)
        if dense and following is not None and end - start < _JOINED:
            joined = joined or section
            continue
        if joined is not None:
            section, joined = replace(section, heading=_shared(joined, section)), None
        elif (
            following is not None
            and _is_deeper(following, section)
            and not _has_body(document.text, section, end)
        ):
            continue
        yield Section(start, section.heading, section.page), end
        start = end


def _shared(one: Section, other: Section) -> tuple[str, ...]:
    """The headings that both sections are below."""
    pairs = zip(one.heading, other.heading, strict=False)
    return tuple(first for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_deeper(section: Section, above: Section) -> bool:
    depth = len(above.heading)
    return 0 < depth < len(section.heading) and section.heading[:depth] == above.heading


def _has_body(text: str, section: Section, end: int) -> bool:
    """Whether a section has more than its heading's line (and a setext underline)."""
    line_end = text.find("\n", section.start, end)
    if line_end < 0:
        return False
    rest = text[line_end:end].strip()
    return bool(rest) and _UNDERLINE.fullmatch(rest) is None


def _bounded(text: str, parts: Iterable[tuple[Section, int]], limit: int) -> Iterator[Span]:
    """The sentences of all sections, split where they have over `limit` characters."""
    for section, end in parts:
        for span in each_sentence(text, section.start, end):
            if span[1] - span[0] <= limit:
                yield span
            else:
                yield from _cut(text, span, limit)


def _cut(text: str, span: Span, size: int) -> Iterator[Span]:
    """Parts of at most `size` characters, cut between words where possible."""
    position, end = span
    while end - position > size:
        at = _last_break(text, position, position + size)
        yield _stripped(text, position, at)
        position = at
        while text[position].isspace():
            position += 1
    yield position, end


def _last_break(text: str, start: int, end: int) -> int:
    """The last place in `text[start:end]` to cut at, or `end`."""
    middle = start + (end - start + 1) // 2
    # it is usually near the end; never in the first half, which bounds the number of parts
    for first in (max(middle, end - _NEAR), middle):
        at = -1
        for found in _WORD_BREAK.finditer(text, first, end + 1):
            if found.start() <= end:
                at = found.start()
        if at > start:
            return at
    return end


def _stripped(text: str, start: int, end: int) -> Span:
    return start, start + len(text[start:end].rstrip())


def _measured(
    text: str, spans: Iterator[Span], count: TokenCounter, tokens: int
) -> Iterator[_Piece]:
    """Count the spans in batches, and cut those over the budget until they fit."""
    while batch := list(islice(spans, BATCH)):
        pieces = _counted(text, batch, count)
        while any(_is_too_long(piece, tokens) for piece in pieces):
            smaller = [part for piece in pieces for part in _smaller(text, piece, tokens)]
            unknown = [part for part in smaller if not isinstance(part, _Piece)]
            known = iter(_counted(text, unknown, count))
            pieces = [part if isinstance(part, _Piece) else next(known) for part in smaller]
        yield from pieces


def _is_too_long(piece: _Piece, tokens: int) -> bool:
    # a single character cannot be cut, whatever its tokens
    return piece.tokens > tokens and piece.end - piece.start > 1


def _smaller(text: str, piece: _Piece, tokens: int) -> Iterator[_Piece | Span]:
    if not _is_too_long(piece, tokens):
        yield piece
        return
    # aim a little below the budget: tokens are not spread evenly
    length = piece.end - piece.start
    size = max(1, min(length - 1, int(0.9 * length * tokens / piece.tokens)))
    yield from _cut(text, (piece.start, piece.end), size)


def _counted(text: str, spans: Sequence[Span], count: TokenCounter) -> list[_Piece]:
    pieces: list[_Piece] = []
    for first in range(0, len(spans), BATCH):
        batch = spans[first : first + BATCH]
        counts = count([text[start:end] for start, end in batch])
        pieces.extend(
            _Piece(start, end, tokens) for (start, end), tokens in zip(batch, counts, strict=True)
        )
    return pieces


class _Packing:
    """Packs the pieces of one section, in order, into spans within the budget."""

    def __init__(self, tokens: int, overlap: int, limit: int) -> None:
        self._tokens = tokens
        self._overlap = overlap
        self._limit = limit
        self._held: list[_Piece] = []
        self._sum = 0
        self._spans: list[Span] = []

    def add(self, piece: _Piece) -> None:
        if self._held and not self._fits(self._held[0].start, self._sum, piece):
            self._emit()
            self._held, self._sum = self._repeated(piece)
        self._held.append(piece)
        self._sum += piece.tokens

    def spans(self) -> list[Span]:
        """All spans; call it last."""
        if self._held:
            self._emit()
        return self._spans

    def _fits(self, start: int, held: int, piece: _Piece) -> bool:
        return held + piece.tokens <= self._tokens and piece.end - start <= self._limit

    def _emit(self) -> None:
        self._spans.append((self._held[0].start, self._held[-1].end))

    def _repeated(self, piece: _Piece) -> tuple[list[_Piece], int]:
        """The last pieces held: as many as the overlap allows and fit before `piece`, not all."""
        first, total = len(self._held), 0
        while first > 1:
            last = self._held[first - 1]
            more = total + last.tokens
            if more > self._overlap or not self._fits(last.start, more, piece):
                break
            first, total = first - 1, more
        return self._held[first:], total


def _chunk(document: Document, section: Section, span: Span) -> Chunk:
    start, end = span
    return Chunk(
        id=-1,
        document_id=document.id,
        text=document.text[start:end],
        start=start,
        end=end,
        section=section.heading,
        page=section.page,
        title=document.title,
        source=document.source,
        metadata=document.metadata,
    )
