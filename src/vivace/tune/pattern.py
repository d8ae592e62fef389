"""How are the questions spread? It changes which index is best."""

from __future__ import annotations

import numpy as np

from vivace.tune.tuning import Pattern
from vivace.types import Ids, Vectors

NEAR = 0.98
"""Cosine from which on one question is a near-duplicate of another."""
_BLOCK = 512


def pattern(questions: Vectors, neighbours: Ids) -> Pattern:
    """The pattern of questions (q, dim), in the order asked, with true neighbours (q, k).

    O(q^2 dim).
    """
    return Pattern(_duplicates(questions), _locality(neighbours))


def _duplicates(questions: Vectors) -> float:
    lengths = np.linalg.norm(questions, axis=1, keepdims=True)
    unit = questions / np.maximum(lengths, np.finfo(np.float32).tiny)
    found = 0
    for at in range(0, len(unit), _BLOCK):
        block = unit[at : at + _BLOCK]
        near = block @ unit[: at + len(block)].T >= NEAR
        near &= np.arange(near.shape[1]) < np.arange(at, at + len(block))[:, None]
        found += int(near.any(axis=1).sum())
    return found / len(unit) if len(unit) else 0.0


def _locality(neighbours: Ids) -> float:
    counts = np.sort(np.unique(neighbours[neighbours >= 0], return_counts=True)[1])[::-1]
    if not len(counts):
        return 0.0
    # a tenth that is no whole number of neighbours takes its share of the next one
    tenth = len(counts) / 10
    whole = int(tenth)
    most = counts[:whole].sum() + (tenth - whole) * counts[whole]
    return float(most / counts.sum())
