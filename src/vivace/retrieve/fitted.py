"""A reranker fitted from a collection's own judged questions: one weight a feature.

It is of use only where it was fitted: weights carried over to other collections lost up to 24
points. `tune.fitting` fits one, and says with what gain; it is `enabled` only when that is sure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from vivace.collection.checksummed_json import ChecksummedJson
from vivace.errors import BadSettings, CorruptIndex, RerankError
from vivace.retrieve.features import NAMES, Features, of_hits
from vivace.types import Hit, Query, Scores

FILE: Final = "reranker.json"
"""Its name in a collection's folder."""
FORMAT: Final = 1
OLDEST: Final = 1
_FIX: Final = "Delete the file, and fit the reranker again"


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was fitted, and what it was found to gain. JSON on disk."""

    collection: str
    """Uuid of the one whose questions these were: carried over, weights do harm."""
    weights: tuple[float, ...]
    """Of the features as they are, in the order of `names`."""
    blend: float
    """Weight of the reranker's side that it was judged with: see `retrieve.rerank.blend`."""
    depth: int
    """Candidates a question that it was judged with, at most."""
    questions: int
    """Judged, of which it was fitted and validated."""
    gain: float
    low: float
    high: float
    """Mean gain of nDCG@10 on questions that it had not seen, and its 95 % interval."""
    enabled: bool
    """Whether the interval clears zero."""
    names: tuple[str, ...] = NAMES

    def scores(self, features: Features) -> Scores:
        """(n,) float32 from 0 up, the least being 0: nothing but the differences means anything."""
        if not len(features):
            return np.zeros(0, np.float32)
        found = features.astype(np.float64) @ np.array(self.weights)
        lowered: Scores = (found - found.min()).astype(np.float32)
        return lowered


_FILE: Final = ChecksummedJson(Model, "reranker", FORMAT, OLDEST, _FIX)


def save(model: Model, path: Path) -> None:
    """Write it durably, as a whole or not at all.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    _FILE.write(path, model)


def load(path: Path, collection: str) -> Model | None:
    """The model at `path`; None where there is none.

    Args:
        collection: whose folder it is in; a model of another's questions is refused.

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
    """A `Reranker` of a fitted model. A few milliseconds of one core for 20 passages.

    Raises:
        BadSettings: the model is not enabled: it was not found to be better.
    """

    name = "fitted"

    def __init__(self, model: Model) -> None:
        if not model.enabled:
            raise BadSettings(
                f"the fitted reranker gains {model.low:.3f} to {model.high:.3f} of nDCG@10",
                fix="Judge more questions and fit it again, or use another search.rerank",
            )
        self.model = model

    async def score(self, query: Query, hits: Sequence[Hit]) -> Scores:
        """One score a hit (n,) float32, from 0 up; off the event loop.

        Raises:
            RerankError: the scores are no finite numbers.
        """
        return await asyncio.to_thread(self.scored, query.text, hits)

    def scored(self, question: str, hits: Sequence[Hit]) -> Scores:
        """The same at once, for whoever is off the event loop already."""
        found = self.model.scores(of_hits(question, hits))
        if not np.isfinite(found).all():
            raise RerankError("the fitted reranker gave a score that is no number", fix=_FIX)
        return found

    async def close(self) -> None:
        """Nothing to do."""
