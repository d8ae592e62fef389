"""BM25 over the chunks that the term index does not hold yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from vivace.index.terms import TermSearcher
from vivace.types import Bitmap, Ids, Matches


class TermTail:
    """One state of the newest chunks' terms. `changed` makes the next; this one stays as it is.

    Making states belongs to one thread, reading them to any.
    """

    def __len__(self) -> int:
        """Chunks in it."""
        raise NotImplementedError

    @property
    def ids(self) -> Ids:
        """Ids of its chunks."""
        raise NotImplementedError

    def changed(self, added: Iterable[tuple[int, Sequence[str]]], removed: Ids) -> Self:
        """The state with chunks added, (id, terms) each, and ids removed; one not here is none."""
        raise NotImplementedError

    def search(
        self, terms: Sequence[str], k: int, *, main: TermSearcher, allow: Bitmap | None = None
    ) -> Matches:
        """The k best of the tail as one row, shorter than k where fewer match.

        Scored as the main index will score them once it holds them: document frequencies, number
        of chunks and average length are those of both together, lengths rounded as it rounds them.
        """
        raise NotImplementedError


def search(
    main: TermSearcher,
    tail: TermTail,
    terms: Sequence[str],
    k: int,
    *,
    allow: Bitmap | None = None,
) -> Matches:
    """The k best of the main index and the tail as one row, on common statistics.

    `allow` says what is live: the main index still holds what was removed since its commit. A chunk
    that both hold (a commit replayed after a crash) is returned once.
    """
    raise NotImplementedError
