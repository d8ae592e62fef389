"""A reranker fitted from a collection's own judged questions: one weight a feature.

The features also explain a ranking. Their words are those of `text.terms` without stop words, so
English and Chinese are treated alike. A run of Chinese is split into characters rather than pairs:
the feature `phrase` already says that neighbours of the question are neighbours in the passage.

A fitted model is of use only to the collection it was fitted on: weights carried over to others
lost up to 24 points. `tune.fitting` fits one and measures its gain; it is `enabled` only where the
gain is certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log1p
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from vivace.collection.checksummed_json import ChecksummedJson
from vivace.errors import BadSettings, CorruptIndex, RerankError
from vivace.text.terms import words as words_of
from vivace.types import Hit, Scores

FILE: Final = "reranker.json"
"""Its name in a collection's folder."""
FORMAT: Final = 1
OLDEST: Final = 1
_FIX: Final = "Delete the file, and fit the reranker again"

Features: TypeAlias = NDArray[np.float32]
"""(n, len(NAMES)) float32, one row a passage."""
NAMES: Final = ("bm25", "cosine", "coverage", "phrase", "proximity", "position", "length")
"""The columns, each between 0 and 1 but for cosine (-1 to 1) and length:

bm25: divided by the best candidate's; 0 where keyword search did not find it.
cosine: as it is.
coverage: share of the question's different words that the passage has.
phrase: share of the question's pairs of neighbouring words that are neighbours in the passage.
proximity: words of the question that the passage has, divided by the length of the shortest window
    that contains them all; 0 with fewer than two.
position: 1 where the first of them is the passage's first word, towards 0 at its end; 0 of none.
length: natural logarithm of 1 + the passage's words.
"""


class FittedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of the features, and the gain measured for them. JSON on disk."""

    collection: str
    """Uuid of the collection whose questions it was fitted on."""
    weights: tuple[float, ...]
    """Of the unscaled features, in the order of `names`."""
    blend: float
    """Weight of the reranker's side that it was judged with: see `retrieve.rerank.blend`."""
    depth: int
    """Largest number of candidates a question that it was judged with."""
    questions: int
    """Judged questions that it was fitted and validated on."""
    gain: float
    low: float
    high: float
    """Mean gain of nDCG@10 on held-out questions, and its 95 % interval."""
    enabled: bool
    """Whether the interval lies above zero."""
    names: tuple[str, ...] = NAMES

    def scores(self, features: Features) -> Scores:
        """(n,) float32, the lowest being 0: only the differences between them mean anything."""
        if not len(features):
            return np.zeros(0, np.float32)
        found = features.astype(np.float64) @ np.array(self.weights)
        lowered: Scores = (found - found.min()).astype(np.float32)
        return lowered


_FILE: Final = ChecksummedJson(FittedModel, "reranker", FORMAT, OLDEST, _FIX)


def save(model: FittedModel, path: Path) -> None:
    """Write it durably, as a whole or not at all.

    Raises:
        OSError: it cannot be written; the previous file is still there.
    """
    _FILE.write(path, model)


def load(path: Path, collection: str) -> FittedModel | None:
    """The model at `path`; None where there is none.

    Args:
        collection: uuid of the collection of the folder; a model of another one is refused.

    Raises:
        CorruptIndex: the file is damaged, may not be read, or is of a version with other features.
        BadSettings: it was fitted on another collection's questions.
    """
    model = _FILE.read(path)
    if model is None:
        return None
    if model.names != NAMES or len(model.weights) != len(NAMES):
        raise CorruptIndex(f"{path}: it was fitted on other features", fix=_FIX)
    if model.collection != collection:
        raise BadSettings(f"{path}: it was fitted on another collection's questions", fix=_FIX)
    return model


class FittedReranker:
    """Scores by a fitted model, on the search thread: 20 passages take a few milliseconds.

    Raises:
        BadSettings: the model is not enabled: it was not found to be better.
    """

    def __init__(self, model: FittedModel) -> None:
        if not model.enabled:
            raise BadSettings(
                f"the fitted reranker gains {model.low:.3f} to {model.high:.3f} of nDCG@10",
                fix="Judge more questions and fit it again, or use another search.rerank",
            )
        self.model = model

    def score_inline(self, question: str, hits: Sequence[Hit]) -> Scores:
        """One score a hit (n,) float32, from 0 up. Blocks.

        Raises:
            RerankError: the scores are not finite.
        """
        found = self.model.scores(features_of_hits(question, hits))
        if not np.isfinite(found).all():
            raise RerankError("the fitted reranker gave a score that is no number", fix=_FIX)
        return found


def features(question: str, texts: Sequence[str], bm25: Scores, cosine: Scores) -> Features:
    """The features of one question's candidates.

    Args:
        bm25: (n,), not negative; NaN counts as 0.
        cosine: (n,); NaN counts as 0.

    Raises:
        ValueError: the number of scores differs from the number of texts.
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
    found[:, 2:] = [_text_features(text, wanted, pairs) for text in texts]
    return found


def features_of_hits(question: str, hits: Sequence[Hit]) -> Features:
    """The features of hits, by the scores in their `stages`; a missing score counts as 0."""
    sides = [[hit.stages.get(side, 0.0) for hit in hits] for side in NAMES[:2]]
    bm25, cosine = np.array(sides, np.float32).reshape(2, len(hits))
    return features(question, [hit.chunk.text for hit in hits], bm25, cosine)


def _text_features(
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
    """Length in words of the shortest window that has all the different words at places `at`.

    The word seen longest ago begins the shortest window that ends here: a dictionary that keeps
    its order has that word in front.
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
