"""BM25 in memory, over the chunks that the term index does not hold yet.

Scores them as the main index (`vivace.index.terms`) will: by its formula, its rounding of lengths,
and the statistics of both together.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivace.index import matches
from vivace.index.terms import TermSearcher, TermStatistics, distinct
from vivace.types import Bitmap, Ids, Matches

_K1, _B = 1.2, 0.75
_TIMES_BITS = 20
"""A posting is row << 20 | times: one array per term, which a reader copies in one step."""
_TIMES = (1 << _TIMES_BITS) - 1


Postings: TypeAlias = NDArray[np.int64]


class _Log:
    """Chunks in order of arrival; one thread appends, nothing is ever changed.

    A state that reads the first n rows is not affected by later ones: a reader may copy some of
    them, and drops them.
    """

    def __init__(self) -> None:
        self.ids = array("q")
        self.lengths = array("q")
        self.postings: dict[str, array[int]] = {}
        self.rows: dict[int, int] = {}
        """The newest row of each id."""

    def append(self, chunk_id: int, terms: Sequence[str]) -> None:
        row = len(self.ids)
        for term, times in Counter(terms).items():
            posting = row << _TIMES_BITS | min(times, _TIMES)
            if (postings := self.postings.get(term)) is None:
                self.postings[term] = array("q", [posting])
            else:
                postings.append(posting)
        self.lengths.append(len(terms))
        self.rows[chunk_id] = row
        self.ids.append(chunk_id)

    def first(self, rows: int) -> _Log:
        """A copy of the first rows."""
        copy = _Log()
        copy.ids, copy.lengths = self.ids[:rows], self.lengths[:rows]
        copy.rows = {chunk_id: row for row, chunk_id in enumerate(copy.ids)}
        for term in self.postings:
            if len(kept := self.of(term, rows)):
                copy.postings[term] = array("q", kept.tobytes())
        return copy

    def of(self, term: str, rows: int) -> Postings:
        """The postings of a term in the first rows."""
        postings = self.postings.get(term)
        if postings is None:
            return np.empty(0, np.int64)
        # copied: an array whose memory is borrowed cannot be appended to
        found = np.frombuffer(postings[:], np.int64)
        return found[: found.searchsorted(rows << _TIMES_BITS)]


class TermTail:
    """An immutable state of the newest chunks' terms; `changed` makes the next one.

    One thread makes states, any thread reads them. Memory is freed when a new tail is begun, as
    after each commit of the main index.
    """

    def __init__(self) -> None:
        self._log = _Log()
        self._rows = 0
        self._alive: Bitmap | None = None
        """By row: whether the chunk is there; None while all are."""

    def __len__(self) -> int:
        """The number of chunks."""
        return self._rows if self._alive is None else int(np.count_nonzero(self._alive))

    @property
    def ids(self) -> Ids:
        """Ids of its chunks, in order of arrival."""
        ids = np.frombuffer(self._log.ids[: self._rows], np.int64)
        return ids if self._alive is None else ids[self._alive]

    def holds(self, ids: Ids) -> Bitmap:
        """(len(ids),), which of these chunks are in the tail."""
        rows = [self._log.rows.get(chunk_id, self._rows) for chunk_id in ids.tolist()]
        alive = self._alive
        here = [row < self._rows and (alive is None or bool(alive[row])) for row in rows]
        return np.array(here, np.bool_)

    def changed(self, added: Iterable[tuple[int, Sequence[str]]], removed: Ids) -> Self:
        """The state after removing ids (unknown ones are ignored) and then adding (id, terms).

        A chunk replaces the one with the same id.
        """
        after = type(self)()
        # only one state may continue a log: a second one gets a copy
        ours = len(self._log.ids) == self._rows
        after._log = self._log if ours else self._log.first(self._rows)
        row_of = after._log.rows.get
        gone = [row for old in removed.tolist() if (row := row_of(old)) is not None]
        for chunk_id, terms in added:
            if (row := row_of(chunk_id)) is not None:
                gone.append(row)
            after._log.append(chunk_id, terms)
        after._rows = len(after._log.ids)
        if gone or self._alive is not None:
            after._alive = np.ones(after._rows, np.bool_)
            if self._alive is not None:
                after._alive[: self._rows] = self._alive
            after._alive[gone] = False
        return after

    def search(
        self, main: TermSearcher, terms: Sequence[str], k: int, *, allow: Bitmap | None = None
    ) -> Matches:
        """The k best of the main index and the tail as one row, by their common statistics.

        `allow` must bar removed chunks: the main index still holds those removed since its commit.
        A chunk in both, after a replayed commit, is returned once. The main index weighs its own
        chunks by its own average length.
        """
        if not len(self) or k < 1 or not terms:
            return main.search(terms, k, allow=allow)
        here, held = self._postings(terms), main.statistics(terms)
        both = _together(held, self._statistics(here))
        fresh = self._best(terms, k, here, both, allow)
        if held is None:
            return fresh
        boosts = {t: _rarity(both, t) / _rarity(held, t) for t, n in held.frequencies.items() if n}
        found = main.search(terms, k, allow=allow, boosts=boosts)
        if (twice := self.holds(found.ids[0])).any():
            found = main.search(terms, k + len(self), allow=allow, boosts=boosts)
            twice = self.holds(found.ids[0])
        found = Matches(found.ids[:, ~twice], found.scores[:, ~twice])
        total = found.ids.shape[1] + fresh.ids.shape[1]
        return matches.merge([found, fresh], 1, min(k, total))

    def _postings(self, terms: Sequence[str]) -> dict[str, Postings]:
        found = {term: self._log.of(term, self._rows) for term in distinct(terms)}
        if self._alive is None:
            return found
        return {term: at[self._alive[at >> _TIMES_BITS]] for term, at in found.items()}

    def _statistics(self, found: Mapping[str, Postings]) -> TermStatistics:
        lengths = np.frombuffer(self._log.lengths[: self._rows], np.int64)
        tokens = lengths.sum() if self._alive is None else lengths[self._alive].sum()
        frequencies = {term: len(at) for term, at in found.items()}
        return TermStatistics(len(self), float(tokens), frequencies)

    def _best(
        self,
        terms: Sequence[str],
        k: int,
        found: Mapping[str, Postings],
        both: TermStatistics,
        allow: Bitmap | None,
    ) -> Matches:
        lengths = _rounded(np.frombuffer(self._log.lengths[: self._rows], np.int64))
        average = max(both.tokens / both.chunks, 1e-9)
        norms = (_K1 * (1 - _B + _B * lengths / average)).astype(np.float32)
        scores = np.zeros(self._rows, np.float32)
        for term, wanted in distinct(terms).items():
            rows, times = found[term] >> _TIMES_BITS, (found[term] & _TIMES).astype(np.float32)
            weight = np.float32(wanted * (1 + _K1) * _rarity(both, term))
            scores[rows] += weight * (times / (times + norms[rows]))
        ids = np.frombuffer(self._log.ids[: self._rows], np.int64)
        if allow is not None:
            scores[~_allowed(ids, allow)] = 0.0
        hits = np.flatnonzero(scores)
        if len(hits) > k:
            worst = np.partition(scores[hits], len(hits) - k)[len(hits) - k]
            hits = hits[scores[hits] >= worst]
        return matches.best(ids[hits][None], scores[hits][None], min(k, len(hits)))


def _together(a: TermStatistics | None, b: TermStatistics) -> TermStatistics:
    """The statistics of two indexes as one."""
    if a is None:
        return b
    found = {term: n + a.frequencies.get(term, 0) for term, n in b.frequencies.items()}
    return TermStatistics(a.chunks + b.chunks, a.tokens + b.tokens, found)


def _rarity(of: TermStatistics, term: str) -> float:
    """BM25's inverse document frequency."""
    n = of.frequencies[term]
    return log(1 + (of.chunks - n + 0.5) / (n + 0.5))


def _rounded(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lengths as the main index stores them in a byte: exact to 40, then to four leading bits."""
    beyond = np.maximum(lengths - 24, 8)
    shift = np.log2(beyond).astype(np.int64) - 3
    rounded: NDArray[np.int64] = np.where(lengths <= 40, lengths, (beyond >> shift << shift) + 24)
    return rounded


def _allowed(ids: Ids, allow: Bitmap) -> Bitmap:
    if not len(allow):
        return np.zeros(len(ids), np.bool_)
    allowed: Bitmap = (ids < len(allow)) & allow[np.minimum(ids, len(allow) - 1)]
    return allowed
