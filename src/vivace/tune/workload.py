"""Which questions is a collection to be tuned by? Its users', or until there are some, its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from vivace.index.flat import FlatIndex
from vivace.protocols import Embedder
from vivace.store.store import Store
from vivace.text.language import language
from vivace.text.sentences import sentences
from vivace.tune.tuning import Workload
from vivace.types import Chunk, Float16Vectors, Vectors

MOST: Final = 1_000
"""Questions, the newest of those logged: a third of them tells recall to half a point."""
LEAST: Final = 100
"""Logged questions below which they say too little of what is asked."""
_DISTINCT: Final = 50
"""Of those, at least so many different ones: else a few are all there is to judge by."""
_SHORTEST, _LONGEST = 20, 400
"""Characters of a sentence that is taken for a question."""
_OWN_SHARE: Final = 0.5
"""Most of its chunk that a sentence may be. One that is nearly all of it has nearly its vector, and
every index finds a vector that it holds: recall would be flattered. The chunk itself stays among
the rows, as a passage that answers a real question does."""
_NEAR: Final = 4_096
"""Rows among which neighbours are looked for where questions are mixed from vectors."""
_NOISE: Final = np.float32(1.2)
"""Length of the noise in a mixed question, in ways between a row and its neighbour."""
_TEXTS_AT_ONCE: Final = 256


async def questions(
    store: Store, flat: FlatIndex, embedder: Embedder, *, log: bool = True, seed: int = 0
) -> Workload:
    """Questions for tuning an index over the rows of `flat`, at most `MOST`.

    From the query log where `log` allows it and it holds enough: in the order asked, repeats kept,
    since they change what is best. Else sentences and headings of chunks, one a chunk. Where there
    are no texts that the embedder reads, mixes of neighbouring vectors.

    Raises:
        EmbeddingError: the embedder failed.
        StoreError: the store cannot be read.
    """
    if log:
        asked = await asyncio.to_thread(store.query_texts, limit=MOST)
        asked = [text for text in asked if embedder.reads(language(text))]
        if len(asked) >= LEAST and len(set(asked)) >= _DISTINCT:
            return Workload(_told(await _embedded(asked, embedder)), "log")
    texts = await asyncio.to_thread(_made, store, flat, embedder, seed)
    if texts and len(texts) >= min(LEAST, len(flat.ids)):
        return Workload(_told(await _embedded(texts, embedder)), "synthetic")
    return Workload(await asyncio.to_thread(mixed, flat, MOST, seed), "synthetic")


def mixed(flat: FlatIndex, n: int, seed: int) -> Vectors:
    """(n, dim) questions from vectors alone: each lies between a row and one of its neighbours.

    The neighbours are those of a sample, so that it costs the same however many rows there are.
    Noise, longer than the way between them, takes it as far from the rows as real questions are:
    without, it lies so near to one of them that recall is flattered (docs/decisions/0023).
    """
    rng = np.random.default_rng(seed)
    rows = _rows(flat, np.sort(rng.permutation(len(flat.ids))[: max(_NEAR, n)]))
    if not len(rows):
        return np.empty((0, flat.vectors.shape[1]), np.float32)
    sample = FlatIndex.build(np.arange(len(rows)), rows, metric=flat.metric)
    of = rng.permutation(len(rows))[:n]
    own = rows[of].astype(np.float32)
    # its nearest is itself, or a duplicate of it
    near = sample.search(own, min(6, len(rows))).ids[:, 1:]
    if near.shape[1]:
        picked = near[np.arange(len(of)), rng.integers(0, near.shape[1], len(of))]
    else:
        picked = of
    way = rows[picked].astype(np.float32) - own
    noise = rng.standard_normal(own.shape, np.float32) / np.sqrt(own.shape[1], dtype=np.float32)
    length = np.linalg.norm(way, axis=1, keepdims=True)
    share = rng.uniform(0.2, 0.5, (len(of), 1)).astype(np.float32)
    found: Vectors = own + share * way + _NOISE * length * noise
    if flat.metric == "cosine":
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return found


async def _embedded(texts: Sequence[str], embedder: Embedder) -> Vectors:
    """A vector a text (n, dim); each different text is embedded once."""
    distinct = list(dict.fromkeys(texts))
    parts = []
    for at in range(0, len(distinct), _TEXTS_AT_ONCE):
        batch = distinct[at : at + _TEXTS_AT_ONCE]
        parts.append((await embedder.embed(batch, kind="query")).vectors)
    place = {text: at for at, text in enumerate(distinct)}
    found: Vectors = np.concatenate(parts)[[place[text] for text in texts]]
    return found


def _told(vectors: Vectors) -> Vectors:
    """Those that the embedder could read."""
    kept: Vectors = vectors[np.any(vectors, axis=1)]
    return kept


def _made(store: Store, flat: FlatIndex, embedder: Embedder, seed: int) -> list[str]:
    """A question each from some chunks, in no order."""
    rng = np.random.default_rng(seed)
    sampled = flat.ids[rng.permutation(len(flat.ids))[:MOST]]
    chunks = store.chunks(sampled.tolist())
    texts = []
    for id in sampled.tolist():
        if (chunk := chunks.get(id)) is not None:
            choices = [t for t in _phrases(chunk) if embedder.reads(language(t))]
            if choices:
                texts.append(choices[int(rng.integers(len(choices)))])
    return texts


def _phrases(chunk: Chunk) -> list[str]:
    """What of a chunk somebody might ask: its heading, and sentences that are not all of it."""
    found = [chunk.text[start:end] for start, end in sentences(chunk.text)]
    longest = min(_LONGEST, _OWN_SHARE * len(chunk.text))
    found = [text for text in found if _SHORTEST <= len(text) <= longest]
    return [*chunk.section[-1:], *found]


def _rows(flat: FlatIndex, at: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Float16Vectors:
    # as bytes: mapped rows are unaligned, and numpy would copy them all to gather some
    return flat.vectors.view(np.uint8)[at].view(np.float16)
