"""Leaving out hits that say nothing new: near-duplicates, and hits much like better ones."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np

from vivace.types import Scores, Vectors

_MIN_SHINGLES: Final = 0.9
"""Share of common runs of three words from which two texts count as the same."""
_MIN_WORDS: Final = 0.85
"""The same of single words: a cheap test before the expensive one."""
_FEWEST_WORDS: Final = 16
"""A shorter text is a different one as soon as one word differs."""
_SAMPLED: Final = 200
"""Characters from which a text is sampled before it is split into words."""
_LENGTHS: Final = 0.1
_EVIDENCE: Final = 0.05
"""Texts whose length (as a share of it), or whose keyword or dense score for the question, differ
by more are not alike. This spares nearly all pairs of hits the comparison of their words."""


class _SplitText:
    """A text that is split into words when they are first needed."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        words = self.text.casefold().split()
        # a script without spaces between words
        return words if len(self.text) < 12 * len(words) else list("".join(words))

    @cached_property
    def distinct(self) -> frozenset[str]:
        return frozenset(self.words)


class DistinctTexts:
    """A set of texts without near-duplicates, filled with the best ones first.

    Two texts are near-duplicates if they differ in white space and case alone, or if they share
    nine in ten of their runs of three words (Broder, "On the resemblance and containment of
    documents", 1997) and all their numbers: a table of another year is another table. Ideographs
    count as words.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, float, float, _SplitText]] = []
        """Length, keyword score and dense score of each."""

    def add(self, text: str, bm25: float = 0.0, cosine: float = 0.0) -> bool:
        """Add the text unless the set has a near-duplicate; returns whether it was added.

        `bm25` and `cosine` are its scores for the question: near-duplicates have similar ones.
        """
        this, length = _SplitText(text), len(text)
        most, apart = _LENGTHS * length, _EVIDENCE * max(1.0, bm25)
        low, high = bm25 - apart, bm25 + apart
        for its_length, its_bm25, its_cosine, other in self._kept:
            # the keyword score first: it differs for most pairs
            if (
                low <= its_bm25 <= high
                and -most <= its_length - length <= most
                and -_EVIDENCE <= its_cosine - cosine <= _EVIDENCE
                and _alike(this, other)
            ):
                return False
        self._kept.append((length, bm25, cosine, this))
        return True


def _alike(a: _SplitText, b: _SplitText) -> bool:
    if a.text == b.text:
        return bool(a.text)
    if len(a.text) >= _SAMPLED and not _sampled(a.text.lower(), b.text.lower()):
        return False
    if a.words == b.words:
        return bool(a.words)
    if len(a.words) < _FEWEST_WORDS or not _share(a.distinct, b.distinct, _MIN_WORDS):
        return False
    if any(any(map(str.isdigit, word)) for word in a.distinct ^ b.distinct):
        return False
    return _share(_shingles(a.words), _shingles(b.words), _MIN_SHINGLES)


def _sampled(a: str, b: str) -> bool:
    """Whether one of five samples of a text occurs in the other: otherwise they cannot share nine
    in ten words, and splitting both into words takes ten times as long."""
    sixth = len(a) // 6
    return any(a[at : at + 12] in b for at in range(sixth, 6 * sixth, sixth))


def _share(a: frozenset[object], b: frozenset[object], least: float) -> bool:
    both = len(a & b)
    return both >= least * (len(a) + len(b) - both)


def _shingles(words: list[str]) -> frozenset[object]:
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def marginal(scores: Scores, vectors: Vectors, k: int, weight: float) -> list[int]:
    """Places of k hits, each the best of those left by `(1-w) * score - w * similarity`.

    Similarity is the largest cosine with a hit chosen before; scores are stretched over 0 to 1.
    Maximal marginal relevance: Carbonell, Goldstein, SIGIR 1998. O(k n dim).

    Args:
        scores: (n,) best first.
        vectors: (n, dim) of the hits; a zero vector is similar to nothing.
    """
    n = len(scores)
    if n < 2 or not weight:
        return list(range(min(n, k)))
    low, high = float(scores.min()), float(scores.max())
    worth = (scores - low) / (high - low) if high > low else np.ones_like(scores)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = vectors / np.where(lengths > 0, lengths, 1)
    similarity = np.full(n, -1.0, np.float32)
    left = np.ones(n, np.bool_)
    chosen: list[int] = []
    while len(chosen) < min(n, k):
        gain = (1 - weight) * worth - (weight * similarity if chosen else 0.0)
        best = int(np.where(left, gain, -np.inf).argmax())
        chosen.append(best)
        left[best] = False
        similarity = np.maximum(similarity, rows @ rows[best])
    return chosen
