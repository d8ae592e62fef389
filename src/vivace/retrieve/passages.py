"""What is read of the hits: chunks of one document that touch become one passage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from vivace.types import Chunk, Hit, Passage

Neighbours: TypeAlias = Callable[[Sequence[Chunk]], Mapping[int, tuple[Chunk | None, Chunk | None]]]
"""By chunk id: the chunks before and after each in its document."""

_MIN_CHARS: Final = 80
"""A hit is not cut down to a shorter piece than this."""


def passages(
    hits: Sequence[Hit], budget: int, neighbours: Neighbours | None = None
) -> tuple[Passage, ...]:
    """Passages of at most `budget` characters together, in the order of their best hits.

    Hits are taken while they fit, the first one in any case. One that does not fit is cut to the
    characters that are left, unless they are too few; then smaller ones may follow. Chunks that
    overlap or touch become one passage without repeated text, so that `document.text[start:end]` is
    it and every span in it can be cited. Then, for the best passage first, neighbouring chunks are
    added as long as they fit.
    """
    pieces: list[_Piece] = []
    left = budget
    for hit in hits:
        piece = _Piece(hit.chunk, hit.score)
        added = _added(piece.chunk, pieces)
        if pieces and added > left >= _MIN_CHARS:
            piece = _Piece(_cut(piece.chunk, added - left, pieces), hit.score)
            added = _added(piece.chunk, pieces)
        if added <= left or not pieces:
            left -= added
            _join(pieces, piece)
    if neighbours is not None and pieces:
        _widen(pieces, left, neighbours)
    return tuple(Passage(p.chunk, p.score, tuple(c.id for c in p.parts)) for p in pieces)


class _Piece:
    """Chunks of one document that touch; `chunk` is all of them, under the best hit's id."""

    __slots__ = ("chunk", "parts", "score")

    def __init__(self, chunk: Chunk, score: float) -> None:
        self.chunk = chunk
        self.score = score
        self.parts = [chunk]

    def merge(self, other: _Piece) -> None:
        a, b = self.chunk, other.chunk
        first, second = (a, b) if a.start <= b.start else (b, a)
        text = first.text
        if second.end > first.end:
            text += second.text[first.end - second.start :]
        best = a if self.score >= other.score else b
        self.chunk = replace(best, text=text, start=first.start, end=first.start + len(text))
        self.score = max(self.score, other.score)
        known = {part.id for part in self.parts}
        self.parts += [part for part in other.parts if part.id not in known]
        self.parts.sort(key=lambda part: (part.start, part.id))


def _touching(a: Chunk, b: Chunk) -> bool:
    """Whether they are of one document, touch, and have the same text where they overlap."""
    if a.document_id != b.document_id or a.end - a.start != len(a.text):
        return False
    if b.end - b.start != len(b.text):
        return False
    start, end = max(a.start, b.start), min(a.end, b.end)
    return start <= end and (
        a.text[start - a.start : end - a.start] == b.text[start - b.start : end - b.start]
    )


def _added(chunk: Chunk, pieces: Sequence[_Piece]) -> int:
    """How many of its characters no piece has yet."""
    seen = sum(
        max(0, min(chunk.end, p.chunk.end) - max(chunk.start, p.chunk.start))
        for p in pieces
        if _touching(p.chunk, chunk)
    )
    return max(0, len(chunk.text) - seen)


def _cut(chunk: Chunk, less: int, pieces: Sequence[_Piece]) -> Chunk:
    """The chunk without so many characters at the end that touches no piece."""
    if any(_touching(p.chunk, chunk) and p.chunk.start > chunk.start for p in pieces):
        return replace(chunk, text=chunk.text[less:], start=chunk.start + less)
    return replace(chunk, text=chunk.text[:-less], end=chunk.end - less)


def _join(pieces: list[_Piece], piece: _Piece) -> None:
    """Merge it with the pieces that it touches, in the place of the best of them."""
    home = next((one for one in pieces if _touching(one.chunk, piece.chunk)), None)
    if home is None:
        pieces.append(piece)
        return
    home.merge(piece)
    for other in pieces[pieces.index(home) + 1 :]:
        if _touching(other.chunk, home.chunk):
            home.merge(other)
            pieces.remove(other)


def _widen(pieces: list[_Piece], left: int, neighbours: Neighbours) -> None:
    """Add a chunk before and after each piece, if it touches the piece and fits."""
    ends = {part.id: part for p in pieces for part in (p.parts[0], p.parts[-1])}
    known = {part.id for p in pieces for part in p.parts}
    beside = neighbours(list(ends.values()))
    none = (None, None)
    wanted = [
        (piece.score, chunk)
        for piece in pieces
        for chunk in (
            beside.get(piece.parts[-1].id, none)[1],
            beside.get(piece.parts[0].id, none)[0],
        )
    ]
    for score, chunk in wanted:
        if chunk is None or chunk.id in known:
            continue
        if not any(_touching(p.chunk, chunk) for p in pieces):
            continue  # there is white space between them, which no chunk has
        added = _added(chunk, pieces)
        if added <= left:
            left -= added
            known.add(chunk.id)
            # below every hit: it never gives a piece its id or its place
            _join(pieces, _Piece(chunk, min(score, pieces[-1].score) - 1))
