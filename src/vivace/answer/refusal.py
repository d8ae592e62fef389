"""Do the documents hold the answer at all? Told by what a search found, before a model is asked.

A logistic model of two figures: the share of the question's terms that one hit holds, by how rare
they are among the hits, and the best cosine, where the question has a vector. Fitted and measured
by `benchmarks/grounding.py`. It tells questions about something else. A question about what the
documents treat without saying it looks like any other to a search: only a model can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Final

from vivace.text.asking import without_asking
from vivace.text.terms import terms
from vivace.types import Hit


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the hits say of the question."""

    coverage: float
    """Of the question's terms by rarity, the most that one hit holds: 0 to 1."""
    cosine: float | None
    """The best; None where the question has no vector, as a Chinese one of the built-in model."""


WITH_VECTOR: Final = (16.7, 25.8, -16.5)
"""Weights of coverage, cosine, and 1: squad2dev_en's questions against cranfield's."""
BY_WORDS: Final = (10.9, 0.0, -5.7)
"""The same without a vector: cmrc_zh's questions against themselves without their document."""


def evidence(question: str, hits: Sequence[Hit]) -> Evidence:
    """The figures of a question; coverage is 1 where it has no terms, as nothing speaks against."""
    wanted = frozenset(terms(without_asking(question)))
    held = [wanted.intersection(terms(hit.chunk.text)) for hit in hits]
    rarity = {t: log(1 + (len(held) + 1) / (0.5 + sum(t in h for h in held))) for t in wanted}
    whole = sum(rarity.values())
    most = max((sum(rarity[t] for t in words) for words in held), default=0.0)
    cosines = [hit.stages["cosine"] for hit in hits if "cosine" in hit.stages]
    return Evidence(most / whole if whole else 1.0, max(cosines, default=None))


def likelihood(question: str, hits: Sequence[Hit]) -> float | None:
    """How likely it is, from 0 to 1, that the hits hold the answer: even odds beforehand.

    None where there are no hits.
    """
    if not hits:
        return None
    found = evidence(question, hits)
    coverage, cosine, constant = BY_WORDS if found.cosine is None else WITH_VECTOR
    logit = coverage * found.coverage + cosine * (found.cosine or 0.0) + constant
    return 1 / (1 + exp(-logit))
