"""Passages through an embedder, for the store: their vectors, and their tokens' as signs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from vivace.embed.signs import signs
from vivace.protocols import Embedder, EmbedsTokens
from vivace.types import Embedded, Signs, Vectors

Kept: TypeAlias = Literal["signs", "pooled", "off"]
"""What of the tokens' vectors is kept: `embed.tokens` of the settings."""
PIECE: Final = 32
"""Passages whose token vectors are held at once, as float32: 8 MB."""


@dataclass(frozen=True, slots=True)
class Passages:
    """`vectors` (n, dim) float32 of n passages, and what is kept of their tokens'; None is none."""

    vectors: Vectors
    signs: Sequence[Signs | None]


def kept(embedder: Embedder, tokens: Kept) -> Kept:
    """What this embedder can give of what is wanted: some have no token vectors."""
    return tokens if isinstance(embedder, EmbedsTokens) else "off"


async def embed(embedder: Embedder, texts: Sequence[str], tokens: Kept) -> Passages:
    """The texts as passages; of one forward pass each, also where signs are kept.

    Raises:
        EmbeddingError: the embedder failed.
    """
    if tokens == "off" or not isinstance(embedder, EmbedsTokens) or not texts:
        found = await embedder.embed(texts, kind="passage")
        return Passages(found.vectors, [None] * len(texts))
    vectors: list[Vectors] = []
    rows: list[Signs | None] = []
    for at in range(0, len(texts), PIECE):
        found = await embedder.embed_tokens(texts[at : at + PIECE], kind="passage")
        vectors.append(found.vectors)
        # a tenth of a millisecond a passage, which the event loop has not
        rows += await asyncio.to_thread(_signs, found, tokens)
    return Passages(np.concatenate(vectors), rows)


def _signs(found: Embedded, tokens: Kept) -> list[Signs | None]:
    of_texts = found.tokens or [None] * len(found.vectors)
    return [
        None if rows is None or not len(rows) else signs(rows, pooled=tokens == "pooled")
        for rows in of_texts
    ]
