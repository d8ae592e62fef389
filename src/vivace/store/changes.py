"""What a transaction does to whole documents, and what it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivace.errors import StoreError
from vivace.types import Chunk, Document, Float16Vectors, Ids, Signs


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A chunk to store. `hash` covers all that is indexed of it, so equal hashes share a vector."""

    chunk: Chunk
    hash: bytes
    vector: NDArray[np.float16] | None
    """(dim,); None only where the stored document has a chunk of this hash: its row is kept."""
    signs: Signs | None = None
    """Of its tokens' vectors; a chunk whose row is kept keeps those it has, or has not."""


@dataclass(frozen=True, slots=True)
class Put:
    """Add the document or replace the one with its id, keeping the chunks that did not change."""

    document: Document
    fingerprint: bytes
    """Of the content and of how it was chunked: equal fingerprints mean nothing to do."""
    chunks: tuple[NewChunk, ...]
    title_indexed: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the document with this id; nothing happens where there is none."""

    document_id: str


Change: TypeAlias = Put | Remove


class VectorGone(StoreError):
    """A chunk was to keep the vector of a stored one that is no longer there."""


@dataclass(frozen=True, slots=True)
class Committed:
    """One durable transaction: the rows that indexes must now show or drop."""

    epoch: int
    added: Ids
    vectors: Float16Vectors
    chunks: tuple[tuple[Chunk, bool], ...]
    """The added ones in the order of `added`, each with whether its title is indexed."""
    removed: Ids
