"""Embeds passages for the store: their vectors, and their token vectors as signs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from vivace.protocols import Embedder, EmbedsTokens
from vivace.types import Embedded, Signs, Vectors

KeptTokens: TypeAlias = Literal["signs", "pooled", "off"]
"""What is kept of token vectors: `embed.tokens` of the settings."""
PIECE: Final = 32
"""Passages whose token vectors are in memory at once, as float32: 8 MB."""


@dataclass(frozen=True, slots=True)
class EmbeddedPassages:
    """`vectors` (n, dim) float32 of n passages, and for each the signs of its tokens or None."""

    vectors: Vectors
    signs: Sequence[Signs | None]


def available_tokens(embedder: Embedder, tokens: KeptTokens) -> KeptTokens:
    """`tokens`, or "off" if the embedder has no token vectors."""
    return tokens if isinstance(embedder, EmbedsTokens) else "off"


async def embed_passages(
    embedder: Embedder, texts: Sequence[str], tokens: KeptTokens
) -> EmbeddedPassages:
    """Embed the texts in one forward pass each, whether signs are kept or not.

    Raises:
        EmbeddingError: the embedder failed.
    """
    if tokens == "off" or not isinstance(embedder, EmbedsTokens) or not texts:
        found = await embedder.embed(texts, kind="passage")
        return EmbeddedPassages(found.vectors, [None] * len(texts))
    vectors: list[Vectors] = []
    rows: list[Signs | None] = []
    for at in range(0, len(texts), PIECE):
        found = await embedder.embed_tokens(texts[at : at + PIECE], kind="passage")
        vectors.append(found.vectors)
        # 0.1 ms a passage: too long for the event loop
        rows += await asyncio.to_thread(_signs_of_all, found, tokens)
    return EmbeddedPassages(np.concatenate(vectors), rows)


def _signs_of_all(found: Embedded, tokens: KeptTokens) -> list[Signs | None]:
    of_texts = found.tokens or [None] * len(found.vectors)
    return [
        None if rows is None or not len(rows) else token_signs(rows, pooled=tokens == "pooled")
        for rows in of_texts
    ]


def token_signs(tokens: Vectors, *, pooled: bool = False) -> Signs:
    """The signs (t, ceil(dim / 8)) of token vectors (t, dim): one bit per component.

    With `pooled`, the signs of the means of neighbours, two by two; an odd last one stays alone.
    """
    if pooled:
        rows = np.zeros((-(-len(tokens) // 2), tokens.shape[1]), np.float32)
        rows[:] = tokens[::2]
        rows[: len(tokens) // 2] += tokens[1::2]
        tokens = rows
    return np.packbits(tokens > 0, axis=1)
