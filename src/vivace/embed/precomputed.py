"""Vectors computed elsewhere: the embedder of a collection that has no other, and their check."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from vivace.errors import EmbeddingError
from vivace.protocols import Kind
from vivace.types import Embedded, Vectors

MAX_DIM: Final = 65_536
"""Most dimensions of any embedder's vectors."""
_WORD: Final = re.compile(
    r"[\u3041-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # one ideograph, kana or syllable
    r"|[^\W\u3041-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\w\s]"  # one word, one sign
)


def unit_rows(rows: Vectors) -> Vectors:
    """Vectors (n, dim) float32 scaled to unit length; a zero vector stays zero.

    Raises:
        EmbeddingError: NaN or infinity, or a vector so long that its length is beyond float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():  # else every number is finite as well
        raise EmbeddingError(
            "an embedding holds NaN, infinity or numbers beyond all measure",
            fix="Check the model: its vectors mean nothing",
        )
    unit = rows / np.where(lengths > 0, lengths, np.float32(1))
    return unit.astype(np.float32, copy=False)


class Precomputed:
    """An `Embedder` that only states the dimension. Questions without a vector use keywords
    alone."""

    def __init__(self, dim: int) -> None:
        self.name = f"given:{dim}"
        self.dim = dim

    def reads(self, language: str) -> bool:
        return False

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        """Raise `EmbeddingError`."""
        raise EmbeddingError(
            f"{self.name}: there is no model to embed {len(texts)} texts with",
            fix="Pass the vectors, or set embed.model to a model such as `builtin`",
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Counts words, signs and single CJK characters; a `TokenCounter`."""
        return [sum(1 for _ in _WORD.finditer(text)) for text in texts]

    def close(self) -> None:
        """Do nothing."""
