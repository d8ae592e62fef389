"""Checks and groups documents and chunks that callers pass in, with or without vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vivace.embed.passages import KeptTokens, embed_passages
from vivace.errors import BadInput, BadVectors
from vivace.ingest.chunking import indexed_text
from vivace.protocols import Embedder
from vivace.run.background import BackgroundExecutor, short_switch_interval
from vivace.store.transaction import NewChunk, Put
from vivace.types import Chunk, Document, Metric, Signs, Vectors

_LONGEST = 500_000_000
"""Characters a document made of chunks may have."""
_LARGEST = float(np.finfo(np.float16).max)


def checked_vectors(
    vectors: NDArray[np.floating], *, count: int, dim: int, metric: Metric = "cosine"
) -> Vectors:
    """The vectors as float32, scaled to unit length for `cosine`; a zero vector stays zero.

    Raises:
        BadVectors: a wrong shape, NaN or infinity, or a number beyond float16; names the row.
    """
    array = np.asarray(vectors, np.float32)
    if array.shape != (count, dim):
        raise BadVectors(
            f"vectors have the shape {array.shape}", fix=f"{count} chunks need ({count}, {dim})"
        )
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise BadVectors(
            f"vector {bad[0]} holds NaN or infinity ({len(bad)} such)",
            fix="Remove or repair those rows; nothing was added",
        )
    if metric != "cosine":
        beyond = np.flatnonzero((np.abs(array) > _LARGEST).any(axis=1))
        if len(beyond):
            raise BadVectors(
                f"vector {beyond[0]} has a component beyond {_LARGEST:,.0f}",
                fix="Scale them down: vectors are kept as float16; nothing was added",
            )
        return array
    # in float64: squares of large components overflow float32
    lengths = np.linalg.norm(array.astype(np.float64), axis=1, keepdims=True)
    beyond = np.flatnonzero(lengths > np.finfo(np.float32).max)
    if len(beyond):
        raise BadVectors(
            f"vector {beyond[0]} is longer than a float32 can say ({len(beyond)} such)",
            fix="Scale them down; nothing was added",
        )
    lengths = lengths.astype(np.float32)
    scaled: Vectors = np.divide(array, lengths, out=np.zeros_like(array), where=lengths > 0)
    return scaled


async def changes(
    chunks: Sequence[Chunk],
    vectors: NDArray[np.floating] | None,
    embedder: Embedder,
    executor: BackgroundExecutor,
    metric: Metric = "cosine",
    *,
    tokens: KeptTokens = "off",
) -> tuple[list[Put], int]:
    """One `Put` per document, and how many chunks were embedded: none if `vectors` are given.

    `tokens` says what is kept of the token vectors of embedded chunks. Everything but the embedding
    runs on `executor`.

    Raises:
        BadInput: see `puts`.
        BadVectors: see `checked_vectors`.
        EmbeddingError: the embedder failed.
    """
    embedded = len(chunks) if vectors is None else 0
    signs: Sequence[Signs | None] = [None] * len(chunks)
    if vectors is None:
        texts = [indexed_text(chunk, index_title=False) for chunk in chunks]
        found = await embed_passages(embedder, texts, tokens)
        vectors, signs = found.vectors, found.signs

    def prepared() -> list[Put]:
        with short_switch_interval:
            rows = checked_vectors(vectors, count=len(chunks), dim=embedder.dim, metric=metric)
            return puts(chunks, rows, signs)

    return await executor.run(prepared), embedded


def puts(
    chunks: Sequence[Chunk], vectors: Vectors, signs: Sequence[Signs | None] = ()
) -> list[Put]:
    """One `Put` per document of the chunks, grouped by `document_id`; vectors (n, dim).

    `signs` are those of their token vectors: one per chunk, or empty.

    A chunk without offsets (`end` 0) is placed after the one before it. The text between the chunks
    of a document is unknown; it is stored as spaces, so that offsets stay true.

    Raises:
        BadInput: an empty chunk or id, or chunks with different text at the same offsets.
    """
    by_document: dict[str, list[int]] = {}
    for at, chunk in enumerate(chunks):
        if not chunk.document_id or not chunk.text.strip():
            raise BadInput(
                f"chunk {at} has no {'text' if chunk.document_id else 'document id'}",
                fix="Give every chunk both; nothing was added",
            )
        by_document.setdefault(chunk.document_id, []).append(at)
    halves = vectors.astype(np.float16)
    signs = signs or [None] * len(chunks)
    return [
        _put(_placed([chunks[at] for at in places]), halves[places], [signs[at] for at in places])
        for places in by_document.values()
    ]


def _put(
    chunks: Sequence[Chunk], vectors: NDArray[np.float16], signs: Sequence[Signs | None]
) -> Put:
    first = chunks[0]
    for chunk in chunks:
        if (chunk.title, chunk.source, chunk.metadata) != (
            first.title,
            first.source,
            first.metadata,
        ):
            raise BadInput(
                f"chunks of {first.document_id!r} disagree about title, source or metadata",
                fix="These belong to the document: give each of its chunks the same",
            )
    document = Document(first.document_id, _text(chunks), first.title, first.source, first.metadata)
    hashes = [_hash(chunk, vector) for chunk, vector in zip(chunks, vectors, strict=True)]
    fingerprint = hashlib.blake2b(
        document.content_hash() + b"".join(hashes), digest_size=16
    ).digest()
    new = [NewChunk(*parts) for parts in zip(chunks, hashes, vectors, signs, strict=True)]
    return Put(document, fingerprint, tuple(new))


def _placed(chunks: Sequence[Chunk]) -> list[Chunk]:
    placed, end = list[Chunk](), 0
    for chunk in chunks:
        if chunk.end == 0:
            start = end + 1 if placed else 0
            chunk = replace(chunk, start=start, end=start + len(chunk.text))
        placed.append(chunk)
        end = max(end, chunk.end)
    return placed


def _text(chunks: Sequence[Chunk]) -> str:
    for chunk in chunks:
        if chunk.start < 0 or chunk.end - chunk.start != len(chunk.text) or chunk.end > _LONGEST:
            raise BadInput(
                f"a chunk of {chunk.document_id!r} spans {chunk.start}-{chunk.end} with"
                f" {len(chunk.text)} characters",
                fix=f"Give offsets of that length up to {_LONGEST:,}, or none (end = 0)",
            )
    text = [" "] * max(chunk.end for chunk in chunks)
    filled = bytearray(len(text))
    for chunk in chunks:
        here = slice(chunk.start, chunk.end)
        # most chunks overlap no other, and have nothing to compare
        first = filled.find(1, chunk.start, chunk.end)
        for at in range(first, chunk.end) if first >= 0 else ():
            if filled[at] and text[at] != chunk.text[at - chunk.start]:
                raise BadInput(
                    f"chunks of {chunk.document_id!r} disagree about the text at {at}",
                    fix="Give offsets into one text, or none (end = 0)",
                )
        text[here] = chunk.text
        filled[here] = b"\1" * len(chunk.text)
    return "".join(text)


def _hash(chunk: Chunk, vector: NDArray[np.float16]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    digest.update("\0".join([*chunk.section, chunk.text]).encode("utf-8", "surrogatepass"))
    digest.update(vector.tobytes())
    return digest.digest()


def checked_items(items: Sequence[Document] | Sequence[Chunk]) -> list[Document | Chunk]:
    """The items as a list.

    Raises:
        BadInput: one is neither a document nor a chunk.
    """
    listed: list[Document | Chunk] = list(items)
    for at, item in enumerate(listed):
        if not isinstance(item, Document | Chunk):
            raise BadInput(
                f"item {at} is a {type(item).__name__}",
                fix="Give Document(id, text) or Chunk(document_id, text); nothing was added",
            )
    return listed


def check_document(document: Document) -> None:
    """Reject a document that cannot be stored.

    Raises:
        BadInput: it has no id, no text, or no JSON form.
    """
    if not document.id or not document.text.strip():
        raise BadInput(
            f"document {document.id!r} has no {'text' if document.id else 'id'}",
            fix="Give every document both; nothing was added",
        )
    try:
        json.dumps(dict(document.metadata))
        document.id.encode()
        document.text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"document {document.id!r} has no JSON form: {error}",
            fix="Use JSON values in its metadata, and text without lone surrogates",
        ) from error
