"""Do the documents hold the answer at all? Told from what a search found, before a model is asked."""

from __future__ import annotations

from collections.abc import Sequence

from vivace.types import Hit


def likelihood(question: str, hits: Sequence[Hit]) -> float | None:
    return None
