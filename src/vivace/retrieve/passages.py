"""What is read: hits of one document that touch, as one piece, and what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from vivace.types import Chunk, Hit, Passage

Beside: TypeAlias = Callable[[Sequence[Chunk]], Mapping[int, tuple[Chunk | None, Chunk | None]]]
"""Of each chunk by id: those before and after it in its document."""

_LEAST: Final = 80
"""Characters: a shorter piece of a passage is not worth its place."""


def passages(
    hits: Sequence[Hit], budget: int, neighbours: Beside | None = None
) -> tuple[Passage, ...]:
    """Passages of at most `budget` characters together, in the order of their best hits.

    Hits are taken while they fit, the first in any case; the one that does not is cut to what is
    left, unless that is too little to say anything: then smaller ones may follow.
    Chunks that overlap or touch become one passage, whose text has the overlap once, so that
    `document.text[start:end]` is it and every span in it can be cited. Then, the best passage
    first, the chunks beside are added as long as they fit.
    """
    pieces: list[_Piece] = []
    left = budget
    for hit in hits:
        piece = _Piece(hit.chunk, hit.score)
        added = _added(piece.chunk, pieces)
        if pieces and added > left >= _LEAST:
            piece = _Piece(_cut(piece.chunk, added - left, pieces), hit.score)
            added = _added(piece.chunk, pieces)
        if added <= left or not pieces:
            left -= added
            _joined(pieces, piece)
    if neighbours is not None and pieces:
        _widened(pieces, left, neighbours)
    return tuple(Passage(p.chunk, p.score, tuple(c.id for c in p.parts)) for p in pieces)


def _cut(chunk: Chunk, less: int, pieces: Sequence[_Piece]) -> Chunk:
    """So many characters less, at the end that touches no piece."""
    if any(_touching(p.chunk, chunk) and p.chunk.start > chunk.start for p in pieces):
        return replace(chunk, text=chunk.text[less:], start=chunk.start + less)
    return replace(chunk, text=chunk.text[:-less], end=chunk.end - less)


class _Piece:
    """Chunks of a document that touch. `chunk` is all of them, under the best hit's id."""

    __slots__ = ("chunk", "parts", "score")

    def __init__(self, chunk: Chunk, score: float) -> None:
        self.chunk = chunk
        self.score = score
        self.parts = [chunk]


def _added(chunk: Chunk, pieces: Sequence[_Piece]) -> int:
    """Characters of it that no piece has yet."""
    seen = sum(
        max(0, min(chunk.end, p.chunk.end) - max(chunk.start, p.chunk.start))
        for p in pieces
        if _touching(p.chunk, chunk)
    )
    return max(0, len(chunk.text) - seen)


def _joined(pieces: list[_Piece], piece: _Piece) -> None:
    """Put it into the pieces that it touches, which become one in the place of the best."""
    home: _Piece | None = None
    for other in list(pieces):
        if _touching(other.chunk, piece.chunk):
            if home is None:
                _merge(other, piece)
                home = piece = other
            else:
                _merge(home, other)
                pieces.remove(other)
    if home is None:
        pieces.append(piece)


def _touching(a: Chunk, b: Chunk) -> bool:
    """Whether they make one text: of one document, and where both are they say the same."""
    if a.document_id != b.document_id or a.end - a.start != len(a.text):
        return False
    if b.end - b.start != len(b.text):
        return False
    start, end = max(a.start, b.start), min(a.end, b.end)
    return start <= end and (
        a.text[start - a.start : end - a.start] == b.text[start - b.start : end - b.start]
    )


def _merge(into: _Piece, other: _Piece) -> None:
    a, b = into.chunk, other.chunk
    first, second = (a, b) if a.start <= b.start else (b, a)
    text = first.text
    if second.end > first.end:
        text += second.text[first.end - second.start :]
    best = a if into.score >= other.score else b
    into.chunk = replace(best, text=text, start=first.start, end=first.start + len(text))
    into.score = max(into.score, other.score)
    known = {part.id for part in into.parts}
    into.parts += [part for part in other.parts if part.id not in known]
    into.parts.sort(key=lambda part: (part.start, part.id))


def _widened(pieces: list[_Piece], left: int, neighbours: Beside) -> None:
    """One chunk before and one after each piece, as far as they touch it and fit."""
    ends = [part for p in pieces for part in dict.fromkeys((p.parts[0].id, p.parts[-1].id))]
    chunks = {part.id: part for p in pieces for part in p.parts}
    beside = neighbours([chunks[id] for id in dict.fromkeys(ends)])
    nobody = (None, None)
    wanted = [
        (piece.score, chunk)
        for piece in pieces
        for chunk in (
            beside.get(piece.parts[-1].id, nobody)[1],
            beside.get(piece.parts[0].id, nobody)[0],
        )
    ]
    for score, chunk in wanted:
        if chunk is None or chunk.id in chunks:
            continue
        if not any(_touching(p.chunk, chunk) for p in pieces):
            continue  # white space between them, which no chunk has
        added = _added(chunk, pieces)
        if added <= left:
            left -= added
            chunks[chunk.id] = chunk
            # below every hit: it never gives a piece its id or its place
            _joined(pieces, _Piece(chunk, min(score, pieces[-1].score) - 1))
