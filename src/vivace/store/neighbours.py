"""What stands beside a chunk in its document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from vivace.store import rows
from vivace.types import Chunk

Read: TypeAlias = Callable[[str, Sequence[object]], Iterable[tuple[Any, ...]]]

_BESIDE: Final = (
    f"SELECT {rows.CHUNK} FROM chunks c JOIN documents d ON d.n = c.document"
    " WHERE d.id = ? AND (c.start, c.id) {than} (?, ?)"
    " ORDER BY c.start {order}, c.id {order} LIMIT 1"
)
_BEFORE: Final = _BESIDE.format(than="<", order="DESC")
_AFTER: Final = _BESIDE.format(than=">", order="ASC")


def of(read: Read, chunks: Sequence[Chunk]) -> dict[int, tuple[Chunk | None, Chunk | None]]:
    """Of each by id: the chunks of its document that come before and after it in reading."""
    found: dict[int, tuple[Chunk | None, Chunk | None]] = {}
    for chunk in chunks:
        at = [chunk.document_id, chunk.start, chunk.id]
        previous, following = (list(read(query, at)) for query in (_BEFORE, _AFTER))
        found[chunk.id] = (
            rows.chunk_of(previous[0]) if previous else None,
            rows.chunk_of(following[0]) if following else None,
        )
    return found
