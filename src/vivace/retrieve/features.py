"""What speaks for a passage, in numbers: for explaining a ranking, and for fitting one.

Words are those of `text.terms`, stop words left out, so English and Chinese go the same way. Of a
run of Chinese the characters are the words, and not the pairs: that two neighbouring characters of
the question are neighbours in the passage is what a pair would say, and `phrase` says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log1p
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivace.text.terms import words as words_of
from vivace.types import Hit, Scores

Features: TypeAlias = NDArray[np.float32]
"""(n, len(NAMES)) float32, one row a passage."""

NAMES: Final = ("bm25", "cosine", "coverage", "phrase", "proximity", "position", "length")
"""The columns, each between 0 and 1 but for cosine (-1 to 1) and length:

bm25: of the best candidate's; 0 where the keyword side did not find it.
cosine: as it is.
coverage: share of the question's different words that the passage has.
phrase: share of the question's neighbouring words that are neighbours in the passage.
proximity: words of the question that the passage has, divided by the length of the shortest window
    that holds them all; 0 with fewer than two.
position: 1 where the first of them is the passage's first word, towards 0 at its end; 0 of none.
length: natural logarithm of 1 + the passage's words.
"""


def features(question: str, texts: Sequence[str], bm25: Scores, cosine: Scores) -> Features:
    """The features of one question's candidates.

    Args:
        bm25: (n,), not negative; NaN counts as 0.
        cosine: (n,); NaN counts as 0.

    Raises:
        ValueError: not one score a text.
    """
    n = len(texts)
    if bm25.shape != (n,) or cosine.shape != (n,):
        raise ValueError(f"{bm25.shape} and {cosine.shape} scores for {n} texts")
    found = np.empty((n, len(NAMES)), np.float32)
    if not n:
        return found
    keyword = np.nan_to_num(bm25, nan=0.0, posinf=0.0, neginf=0.0)
    best = float(keyword.max())
    found[:, 0] = keyword / np.float32(best) if best > 0 else 0
    found[:, 1] = np.nan_to_num(cosine, nan=0.0, posinf=0.0, neginf=0.0)
    words = words_of(question)
    wanted = frozenset(words)
    pairs = frozenset(pairwise(words))
    found[:, 2:] = [_of_text(text, wanted, pairs) for text in texts]
    return found


def of_hits(question: str, hits: Sequence[Hit]) -> Features:
    """The same of hits, whose stages have the scores; one that they lack counts as 0."""
    sides = [[hit.stages.get(side, 0.0) for hit in hits] for side in NAMES[:2]]
    bm25, cosine = np.array(sides, np.float32).reshape(2, len(hits))
    return features(question, [hit.chunk.text for hit in hits], bm25, cosine)


def _of_text(
    text: str, wanted: frozenset[str], pairs: frozenset[tuple[str, str]]
) -> tuple[float, float, float, float, float]:
    """Coverage, phrase, proximity, position and length of one text."""
    words = words_of(text)
    length = log1p(len(words))
    at = [n for n, word in enumerate(words) if word in wanted]
    if not at:
        return 0.0, 0.0, 0.0, 0.0, length
    matched = len({words[n] for n in at})
    phrase = 0.0
    if pairs and matched > 1:
        neighbours = {(words[n], words[m]) for n, m in pairwise(at) if m == n + 1}
        phrase = len(neighbours & pairs) / len(pairs)
    near = matched / _window(words, at, matched) if matched > 1 else 0.0
    return matched / len(wanted), phrase, near, 1 - at[0] / len(words), length


def _window(words: Sequence[str], at: Sequence[int], different: int) -> int:
    """Length in words of the shortest stretch with all the different words that stand `at` places.

    The word seen longest ago begins the shortest stretch that ends here: a dictionary that keeps
    its order has it in front.
    """
    last: dict[str, int] = {}
    shortest = at[-1] - at[0] + 1
    for n in at:
        word = words[n]
        last.pop(word, None)
        last[word] = n
        if len(last) == different:
            length = n - next(iter(last.values())) + 1
            if length < shortest:
                shortest = length
    return shortest
