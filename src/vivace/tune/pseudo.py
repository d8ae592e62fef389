"""Questions with known answers made from the corpus itself, for collections without labels.

A section answers its heading, code answers its docstring or the comment above it, and any passage
answers one of its own sentences. The words a question is made of are removed from the passage
before it is judged: otherwise every ranking by common words would look better than it is for
people, who ask in words of their own.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import log
from typing import Final

import numpy as np

from vivace.protocols import Embedder
from vivace.store.store import Store
from vivace.text.sentences import sentences
from vivace.text.terms import terms
from vivace.tune.docstrings import (
    LEAST_REST,
    LONGEST,
    SHORTEST,
    Docstrings,
    QuestionDraft,
    QuestionKind,
    comments,
    is_code,
)
from vivace.tune.labels import ChunkRemainder, LabelledQuestion
from vivace.tune.workload import vectors_of
from vivace.types import Chunk

_CJK: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
MOST: Final = 800
"""Questions; enough for an interval of a point or two of nDCG@10, and a minute of embedding."""
_COUNTED: Final = 20_000
"""Chunks whose terms are counted; more change no weight that matters."""
_TRIED: Final = 4
"""Chunks looked at for one question."""
_AT_ONCE: Final = 256
_LEAST_TERMS: Final = 2
_LEAST_WORDS: Final = 3
"""Words of a heading or title; two characters of CJK are one. A file name is no question."""
_SENTENCE_TERMS: Final = 6
_OWN_SHARE: Final = 0.5
"""The greatest share of its chunk that a sentence may be, so that enough is left to find it by."""
_HEADINGS: Final = 0.5
"""Share of the passages below a heading whose question is the heading."""
_TAKEN_OUT: Final = (0.6, 1.0)
"""Least and greatest share of a sentence's words that its passage is judged without."""
_MOST_ANSWERS: Final = 8
"""Chunks of a section; the heading of a longer section asks for nothing in particular."""
_ENOUGH: Final = 150
"""Docstrings from which on comments are not asked: a comment describes the next line rather than
the passage, and ranks all fusions nearly alike."""
_OF_CODE: Final = frozenset({"docstring", "comment"})
_K1, _B = 1.2, 0.75
"""BM25 parameters, the same as the term index's."""
_PAIR: Final = re.compile(f"[{_CJK}]{{2}}")
_WORD: Final = re.compile(f"[{_CJK}]{{1,2}}|[^\\W{_CJK}]+(?:['’][^\\W{_CJK}]+)?")


@dataclass(frozen=True, slots=True)
class PseudoQuestion:
    """A question made from the corpus, and the chunks that answer it."""

    text: str
    kind: QuestionKind
    chunks: frozenset[int]
    rest: Mapping[int, str] = field(default_factory=dict)
    """By chunk id, its text without the words that the question was made of."""
    group: str = ""


class TermRarity:
    """Inverse document frequencies and BM25, from counts over (some of) the collection's chunks."""

    def __init__(self) -> None:
        self._in: Counter[str] = Counter()
        self._texts = self._length = 0

    def add(self, text: str) -> None:
        """Count the terms of one more text."""
        found = terms(text)
        self._in.update(set(found))
        self._length += len(found)
        self._texts += 1

    def of(self, term: str) -> float:
        """Its inverse document frequency, as BM25 has it."""
        here = self._in[term]
        return log(1 + (self._texts - here + 0.5) / (here + 0.5))

    def share(self, question: str, whole: str, rest: str) -> float:
        """The share of a whole text's score for a question that the rest of the text has."""
        asked = terms(question)
        before = self.bm25(asked, whole)
        return min(1.0, self.bm25(asked, rest) / before) if before > 0 else 0.0

    def bm25(self, question: Sequence[str], text: str) -> float:
        """The score of a text (Robertson and Zaragoza, "The Probabilistic Relevance Framework",
        2009)."""
        found = terms(text)
        counts = Counter(found)
        size = _K1 * (1 - _B + _B * len(found) * self._texts / max(1, self._length))
        return sum(
            self.of(term) * counts[term] * (_K1 + 1) / (counts[term] + size)
            for term in set(question)
            if counts[term]
        )


class UniqueNames:
    """Headings and titles that name one place only: a heading `Introduction` asks for nothing."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[str, tuple[str, ...]] | None] = {}

    def add(self, chunk: Chunk) -> None:
        for name, place in _named(chunk):
            if self._places.setdefault(name, place) != place:
                self._places[name] = None

    def single(self, name: str) -> bool:
        return self._places.get(name) is not None


def _named(chunk: Chunk) -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
    """The chunk's own heading, or its document's title if it has none, and the place it names."""
    if chunk.section:
        yield chunk.section[-1].strip(), (chunk.document_id, chunk.section)
    elif chunk.title:
        yield chunk.title.strip(), (chunk.document_id, ())


def drawn(
    store: Store, names: UniqueNames, *, most: int = MOST, seed: int = 0
) -> list[PseudoQuestion]:
    """Questions from random chunks, at most `most`; the same for the same corpus and seed.

    Raises:
        StoreError: the store cannot be read.
    """
    rng = np.random.default_rng(seed)
    ids = store.ids()
    ids = ids[rng.permutation(len(ids))[: _TRIED * most]]
    found: list[PseudoQuestion] = []
    seen: set[str] = set()
    docstrings = Docstrings(store)
    for at in range(0, len(ids), _AT_ONCE):
        batch = ids[at : at + _AT_ONCE].tolist()
        chunks = store.chunks(batch)
        for chunk_id in batch:
            if len(found) == most:
                return found
            if (chunk := chunks.get(chunk_id)) is None:
                continue
            made = _made(chunk, docstrings[chunk.document_id], names, rng)
            if made is not None and made.text not in seen:
                seen.add(made.text)
                whole = _answered(made, chunk, store.chunks_of(chunk.document_id))
                if 0 < len(whole.chunks) <= _MOST_ANSWERS:
                    found.append(whole)
    return found


def _made(
    chunk: Chunk,
    docstrings: Sequence[QuestionDraft],
    names: UniqueNames,
    rng: np.random.Generator,
) -> QuestionDraft | None:
    """One question that the chunk answers, of a random kind that it offers; None without any.

    `docstrings` are its document's. A chunk inside a docstring is not prose: people who look for
    code do not ask with a sentence of its notes.
    """
    own = [one for one in docstrings if chunk.start <= one.start < chunk.end]
    if own or is_code(chunk.text):
        described = [*own, *comments(chunk)]
        if not described:
            return None
        return described[int(rng.integers(len(described)))]
    within = (min(one.end, chunk.end) - max(one.start, chunk.start) for one in docstrings)
    if 2 * max(within, default=0) > len(chunk.text):
        return None
    found = list(headings(chunk, names))
    if found and rng.random() < _HEADINGS:
        return found[0]
    return _sentence(chunk, rng)


def _answered(made: QuestionDraft, chunk: Chunk, siblings: Sequence[Chunk]) -> PseudoQuestion:
    """The question with every chunk of its document that answers it, and what remains of each."""
    rest: dict[int, str] = {}
    answers = set()
    for other in siblings:
        if made.kind == "heading":
            if other.section != chunk.section:
                continue
            rest[other.id] = _without(made.text, other.text)
            answers.add(other.id)
        elif other.start < made.end and other.end > made.start:
            before = other.text[: max(0, made.start - other.start)]
            after = other.text[max(0, made.end - other.start) :]
            rest[other.id] = f"{before}{made.left}{after}"
            # the middle of a long docstring is no answer: nothing is left of it
            if made.kind not in _OF_CODE or len(rest[other.id].strip()) >= LEAST_REST:
                answers.add(other.id)
        elif made.kind in _OF_CODE and other.start <= made.end < other.end:
            answers.add(other.id)
    return PseudoQuestion(made.text, made.kind, frozenset(answers), rest, chunk.document_id)


# -- headings ---------------------------------------------------------------------------------


def headings(chunk: Chunk, names: UniqueNames) -> Iterator[QuestionDraft]:
    """The heading above the chunk or the title of its document, if it is specific and unique."""
    for name, _ in _named(chunk):
        # a file name is a single word
        words = max(len(name.split()), len(_PAIR.findall(name)))
        said = len(set(terms(name))) >= _LEAST_TERMS and words >= _LEAST_WORDS
        left = len(_without(name, chunk.text)) >= LEAST_REST
        if said and left and names.single(name):
            yield QuestionDraft(name[:LONGEST], "heading", chunk.start, chunk.end)


def _without(name: str, text: str) -> str:
    """The text without the name, wherever it stands in it."""
    words = [re.escape(word) for word in name.split()]
    return re.sub(r"\s+".join(words), " ", text, flags=re.IGNORECASE) if words else text


# -- sentences --------------------------------------------------------------------------------


def _sentence(chunk: Chunk, rng: np.random.Generator) -> QuestionDraft | None:
    """A sentence as it stands; in the passage, most of its words are removed."""
    longest = min(LONGEST, _OWN_SHARE * len(chunk.text))
    found = [
        (start, end)
        for start, end in sentences(chunk.text)
        if SHORTEST <= end - start <= longest
        and len(set(terms(chunk.text[start:end]))) >= _SENTENCE_TERMS
    ]
    if not found:
        return None
    start, end = found[int(rng.integers(len(found)))]
    text = chunk.text[start:end]
    left = without_words(text, rng.uniform(*_TAKEN_OUT), rng)
    return QuestionDraft(text, "sentence", chunk.start + start, chunk.start + end, left)


def without_words(text: str, share: float, rng: np.random.Generator) -> str:
    """The text with each word removed with probability `share`, everywhere or nowhere.

    Two characters of CJK are a word.
    """
    out: dict[str, bool] = {}

    def kept(found: re.Match[str]) -> str:
        word = found[0].casefold()
        return "" if out.setdefault(word, rng.random() < share) else found[0]

    return _WORD.sub(kept, text)


# -- as they are replayed ---------------------------------------------------------------------


async def labelled(
    store: Store, embedder: Embedder, *, most: int = MOST, seed: int = 0
) -> list[tuple[LabelledQuestion, QuestionKind]]:
    """Questions as from `drawn` with their answers, embedded where the embedder reads them.

    Raises:
        EmbeddingError: the embedder failed.
        StoreError: the store cannot be read.
    """
    made, rarity = await asyncio.to_thread(_prepared, store, most, seed)
    vectors = await vectors_of([item.text for item in made], embedder)
    rests = [
        (at, chunk_id, text) for at, item in enumerate(made) for chunk_id, text in item.rest.items()
    ]
    remaining = await vectors_of([text for _, _, text in rests], embedder, "passage")
    remainders: list[dict[int, ChunkRemainder]] = [{} for _ in made]
    whole = await asyncio.to_thread(store.chunks, sorted({chunk_id for _, chunk_id, _ in rests}))
    for (at, chunk_id, text), vector in zip(rests, remaining, strict=True):
        if chunk_id in whole:
            share = rarity.share(made[at].text, whole[chunk_id].text, text)
            remainders[at][chunk_id] = ChunkRemainder(share, vector)
    return [
        (
            LabelledQuestion(item.text, frozenset(), item.chunks, vector, other, item.group),
            item.kind,
        )
        for item, vector, other in zip(made, vectors, remainders, strict=True)
    ]


def _prepared(store: Store, most: int, seed: int) -> tuple[list[PseudoQuestion], TermRarity]:
    names, rarity = UniqueNames(), TermRarity()
    for chunk, _ in islice(store.texts(), _COUNTED):
        names.add(chunk)
        rarity.add(chunk.text)
    found = drawn(store, names, most=most, seed=seed)
    if sum(item.kind == "docstring" for item in found) >= _ENOUGH:
        found = [item for item in found if item.kind != "comment"]
    return found, rarity
