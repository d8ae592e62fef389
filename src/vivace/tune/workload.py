"""Which questions is an index tuned by, how are they spread, and what are their true neighbours?

The users' logged questions, or until there are enough, questions made from the collection itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from vivace.errors import BadInput
from vivace.index.flat import FlatIndex
from vivace.protocols import Embedder, Kind, VectorIndex
from vivace.store.store import Store
from vivace.text.language import language
from vivace.text.sentences import sentences
from vivace.tune import measure
from vivace.tune.metrics import Recalls
from vivace.types import Chunk, Float16Vectors, Ids, Matches, Vector, Vectors

QuestionSource: TypeAlias = Literal["log", "synthetic", "given"]
"""The query log, chunks of the collection, or the caller."""

MOST: Final = 1_000
"""Questions of a workload; a third of them measures recall to half a point."""
LEAST_LOGGED: Final = 100
"""Logged questions below which the log is not representative."""
_LEAST_DISTINCT: Final = 50
"""Different questions among the logged ones below which the log is not representative."""
_SHORTEST, _LONGEST = 20, 400
"""Characters of a sentence that can serve as a question."""
_OWN_SHARE: Final = 0.5
"""The greatest share of its chunk that a sentence may be. A sentence that is nearly all of its
chunk has nearly the chunk's vector, and every index finds a vector that it holds: recall would be
flattered. The chunk itself stays among the rows, as a passage that answers a real question does."""
_NEAR: Final = 4_096
"""Rows among which `mixed` looks for neighbours."""
_NOISE: Final = np.float32(1.2)
"""Length of the noise in a mixed question, in distances between a row and its neighbour."""
_TEXTS_AT_ONCE: Final = 256

NEAR_DUPLICATE: Final = 0.98
"""Cosine from which on one question is a near-duplicate of another."""
_PATTERN_BLOCK: Final = 512

MOST_JUDGED: Final = 1_500
"""Questions beyond which a tuning learns little more."""
LEAST_JUDGED: Final = 12
_REPEATS: Final = 3
"""Questions with the same neighbours that count."""
_FIRST: Final = 48
"""Questions that measure what finding true neighbours costs."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The questions a tuning is judged by: `vectors` (q, dim) float32, in the order asked."""

    vectors: Vectors
    source: QuestionSource


@dataclass(frozen=True, slots=True)
class WorkloadPattern:
    """How the questions are spread, which changes what index is best."""

    duplicates: float
    """Share of the questions that have a near-duplicate (cosine >= 0.98) before them."""
    locality: float
    """Share of all true neighbours that belong to the tenth of neighbours found most often; 0.1
    where all are found equally often."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions `vectors` (q, dim) and their true neighbours."""

    vectors: Vectors
    true: Matches
    groups: list[bytes]
    """A name for each; questions that share one have the same neighbours and vary together."""

    def __len__(self) -> int:
        return len(self.vectors)

    def recalls(self, found: Matches, first: int, last: int) -> Recalls:
        """Recalls (last - first,) of the questions from `first` to `last`, answered by `found`."""
        return measure.recalls(found, measure.of(self.true, np.arange(first, last)))

    def at(self, places: Ids) -> Questions:
        """The questions at these places, in this order."""
        groups = [self.groups[place] for place in places]
        return Questions(self.vectors[places], measure.of(self.true, places), groups)


# -- where the questions come from ------------------------------------------------------------


async def workload_for(
    store: Store, flat: FlatIndex, embedder: Embedder, *, log: bool = True, seed: int = 0
) -> Workload:
    """Questions for tuning an index over the rows of `flat`, at most `MOST`.

    From the query log where `log` allows it and the log holds enough: in the order asked, repeats
    kept, because they change what is best. Otherwise sentences and headings of chunks, one per
    chunk. Where the embedder reads none of the texts, mixes of neighbouring vectors.

    Raises:
        EmbeddingError: the embedder failed.
        StoreError: the store cannot be read.
    """
    if log:
        asked = await asyncio.to_thread(store.query_texts, limit=MOST)
        asked = [text for text in asked if embedder.reads(language(text))]
        if len(asked) >= LEAST_LOGGED and len(set(asked)) >= _LEAST_DISTINCT:
            return await _embedded(asked, embedder, "log")
    texts = await asyncio.to_thread(_made, store, flat, embedder, seed)
    if texts and len(texts) >= min(LEAST_LOGGED, len(flat.ids)):
        return await _embedded(texts, embedder, "synthetic")
    return Workload(await asyncio.to_thread(mixed, flat, MOST, seed), "synthetic")


def mixed(flat: FlatIndex, n: int, seed: int) -> Vectors:
    """(n, dim) questions from vectors alone: each lies between a row and one of its neighbours.

    The neighbours are those of a sample, so the cost does not grow with the rows. Noise longer than
    the distance between row and neighbour takes a question as far from the rows as real questions
    are; without it a question lies so near to a row that recall is flattered
    (docs/decisions/0023).
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


async def vectors_of(
    texts: Sequence[str], embedder: Embedder, kind: Kind = "query"
) -> list[Vector | None]:
    """A vector (dim,) of each text, None where the embedder cannot read it; equal texts share one.

    Raises:
        EmbeddingError: the embedder failed.
    """
    vectors: dict[str, Vector] = {}
    distinct = [text for text in dict.fromkeys(texts) if embedder.reads(language(text))]
    for at in range(0, len(distinct), _TEXTS_AT_ONCE):
        batch = distinct[at : at + _TEXTS_AT_ONCE]
        embedded = await embedder.embed(batch, kind=kind)
        vectors.update((text, row) for text, row in zip(batch, embedded.vectors) if row.any())
    return [vectors.get(text) for text in texts]


async def _embedded(texts: Sequence[str], embedder: Embedder, source: QuestionSource) -> Workload:
    """The texts that the embedder reads as a workload."""
    found = [vector for vector in await vectors_of(texts, embedder) if vector is not None]
    return Workload(np.array(found, np.float32).reshape(len(found), embedder.dim), source)


def _made(store: Store, flat: FlatIndex, embedder: Embedder, seed: int) -> list[str]:
    """One question from each of a sample of chunks, in random order."""
    rng = np.random.default_rng(seed)
    sampled = flat.ids[rng.permutation(len(flat.ids))[:MOST]]
    chunks = store.chunks(sampled.tolist())
    texts = []
    for chunk_id in sampled.tolist():
        if (chunk := chunks.get(chunk_id)) is not None:
            choices = [t for t in _phrases(chunk) if embedder.reads(language(t))]
            if choices:
                texts.append(choices[int(rng.integers(len(choices)))])
    return texts


def _phrases(chunk: Chunk) -> list[str]:
    """Parts of a chunk that can serve as a question: its heading, and its shorter sentences."""
    found = [chunk.text[start:end] for start, end in sentences(chunk.text)]
    longest = min(_LONGEST, _OWN_SHARE * len(chunk.text))
    found = [text for text in found if _SHORTEST <= len(text) <= longest]
    return [*chunk.section[-1:], *found]


def _rows(flat: FlatIndex, at: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Float16Vectors:
    # as bytes: mapped rows are unaligned, and numpy would copy them all to gather some
    return flat.vectors.view(np.uint8)[at].view(np.float16)


# -- their true neighbours --------------------------------------------------------------------


def with_neighbours(
    index: VectorIndex,
    vectors: Vectors,
    k: int,
    *,
    seconds: float,
    seed: int,
    step: Callable[[int, int], None],
) -> tuple[Questions, Ids]:
    """Questions in the order asked with their true neighbours, and their places among `vectors`.

    All of `vectors`, or a random sample whose neighbours take about `seconds` of CPU to find.

    Raises:
        BadInput: too few to say anything.
    """
    if len(vectors) < LEAST_JUDGED:
        raise BadInput(
            f"{len(vectors)} questions are too few to tune by", fix=f"Give {LEAST_JUDGED} or more"
        )
    order = np.random.default_rng(seed).permutation(len(vectors))[:MOST_JUDGED]
    first = order[:_FIRST]
    step(0, len(order))
    began = time.thread_time()
    true = index.exact(vectors[first], k)
    each = (time.thread_time() - began) / len(first)
    order = order[: max(_FIRST, int(seconds / max(each, 1e-9)))]
    rest = order[len(first) :]
    if len(rest):
        total = len(order)
        more = measure.exact(index, vectors[rest], k, lambda done: step(done, total))
        true = Matches(np.vstack([true.ids, more.ids]), np.vstack([true.scores, more.scores]))
    back = np.argsort(order)
    true = measure.of(true, back)
    return Questions(vectors[order[back]], true, measure.groups(true)), order[back]


def split(questions: Questions, seed: int) -> tuple[Questions, Questions]:
    """Two thirds to decide by and a third held out, each in random order.

    Questions with the same neighbours stay together: a question asked twice would otherwise be on
    both sides, and the held-out third would no longer be new. Only the first few of such a group
    count: if a third of all questions were the same one, too few others would remain.

    Raises:
        BadInput: nearly all questions have the same neighbours.
    """
    places: dict[bytes, list[int]] = {}
    for place, group in enumerate(questions.groups):
        places.setdefault(group, []).append(place)
    counted = sum(min(_REPEATS, len(same)) for same in places.values())
    rng = np.random.default_rng(seed)
    together = [same[:_REPEATS] for same in places.values()]
    held, deciding = list[int](), list[int]()
    for number in rng.permutation(len(together)):
        side = held if 3 * len(held) < counted else deciding
        side += together[number]
    if min(len(held), len(deciding)) < LEAST_JUDGED // 3:
        raise BadInput(
            "nearly all questions have the same nearest vectors, so that none can be held out",
            fix="Give more questions that differ",
        )
    return questions.at(rng.permutation(deciding)), questions.at(rng.permutation(held))


# -- how they are spread ----------------------------------------------------------------------


def pattern(questions: Vectors, neighbours: Ids) -> WorkloadPattern:
    """The pattern of questions (q, dim), in the order asked, with true neighbours (q, k).

    O(q^2 dim).
    """
    return WorkloadPattern(_duplicates(questions), _locality(neighbours))


def _duplicates(questions: Vectors) -> float:
    lengths = np.linalg.norm(questions, axis=1, keepdims=True)
    unit = questions / np.maximum(lengths, np.finfo(np.float32).tiny)
    found = 0
    for at in range(0, len(unit), _PATTERN_BLOCK):
        block = unit[at : at + _PATTERN_BLOCK]
        near = block @ unit[: at + len(block)].T >= NEAR_DUPLICATE
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
