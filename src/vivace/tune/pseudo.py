"""Questions with known answers, drawn from the corpus itself: labels where nobody has given any.

Three kinds of passage name themselves: a section its heading, code its docstring or the comment
above it, any passage a sentence of its own. What a question is made of is taken out of the passage
before it is judged, or the rarest words are taken out of the question: else every ranking by common
words would look better than it is for people, who ask in words of their own.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import log
from typing import Final, Literal, TypeAlias

import numpy as np

from vivace.protocols import Embedder
from vivace.store.store import Store
from vivace.text.language import language
from vivace.text.sentences import sentences
from vivace.text.terms import terms
from vivace.tune.described import (
    LEAST_REST,
    LONGEST,
    SHORTEST,
    Described,
    Docstrings,
    comments,
    is_code,
)
from vivace.tune.replay import Instead, Labelled
from vivace.types import Chunk, Vector

Kind: TypeAlias = Literal["heading", "docstring", "comment", "sentence"]

_CJK: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
MOST: Final = 800
"""Questions: an interval of a point or two of nDCG@10, and a minute of embedding."""
_COUNTED: Final = 20_000
"""Chunks of which the terms are counted; more change no weight that matters."""
_TRIED: Final = 4
"""Chunks looked at for one question."""
_AT_ONCE: Final = 256
_LEAST_TERMS: Final = 2
_LEAST_WORDS: Final = 3
"""Of a heading or title; two characters of CJK are one. A file's name is no question."""
_SENTENCE_TERMS: Final = 6
_OWN_SHARE: Final = 0.5
"""Most of its chunk that a sentence may be, so that there is something else to find it by."""
_HEADINGS: Final = 0.5
"""Share of the passages below a heading of which it is the question."""
_TAKEN_OUT: Final = (0.6, 1.0)
"""Share of a sentence's words that its passage is judged without; each question has its own."""
_MOST_ANSWERS: Final = 8
"""Chunks of a section; the heading of a longer one asks for nothing in particular."""
_ENOUGH: Final = 150
"""Docstrings beyond which no comment is asked: a comment is of the next line more than of the
passage, and ranks all fusions nearly alike."""
_OF_CODE: Final = frozenset({"docstring", "comment"})
_K1, _B = 1.2, 0.75
"""Of BM25, as the term index has them."""
_PAIR: Final = re.compile(f"[{_CJK}]{{2}}")
_WORD: Final = re.compile(f"[{_CJK}]{{1,2}}|[^\\W{_CJK}]+(?:['’][^\\W{_CJK}]+)?")


@dataclass(frozen=True, slots=True)
class Pseudo:
    """A question made of the corpus, and the chunks that answer it."""

    text: str
    kind: Kind
    chunks: frozenset[int]
    rest: Mapping[int, str] = field(default_factory=dict)
    """What is left to be indexed of a chunk without what the question was made of."""
    group: str = ""


class Rarity:
    """How much a term tells, and BM25, by the counts of (some of) the collection's chunks."""

    def __init__(self) -> None:
        self._in: Counter[str] = Counter()
        self._texts = self._length = 0

    def add(self, text: str) -> None:
        """Count one more text."""
        found = terms(text)
        self._in.update(set(found))
        self._length += len(found)
        self._texts += 1

    def of(self, term: str) -> float:
        """Its inverse document frequency, as BM25 has it."""
        here = self._in[term]
        return log(1 + (self._texts - here + 0.5) / (here + 0.5))

    def share(self, question: str, whole: str, rest: str) -> float:
        """Of the score that a whole text has for a question, what the rest of it has."""
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


class Names:
    """Which headings and titles name one place only: `Introduction` is the answer to nothing."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[str, tuple[str, ...]] | None] = {}

    def add(self, chunk: Chunk) -> None:
        for name, place in _named(chunk):
            if self._places.setdefault(name, place) != place:
                self._places[name] = None

    def single(self, name: str) -> bool:
        return self._places.get(name) is not None


def _named(chunk: Chunk) -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
    """The chunk's own heading, or the title of a document without any, and what it names."""
    if chunk.section:
        yield chunk.section[-1].strip(), (chunk.document_id, chunk.section)
    elif chunk.title:
        yield chunk.title.strip(), (chunk.document_id, ())


def drawn(store: Store, names: Names, *, most: int = MOST, seed: int = 0) -> list[Pseudo]:
    """Questions from chunks by chance, at most `most`; the same for the same corpus and seed.

    Raises:
        StoreError: the store cannot be read.
    """
    rng = np.random.default_rng(seed)
    ids = store.ids()
    ids = ids[rng.permutation(len(ids))[: _TRIED * most]]
    found: list[Pseudo] = []
    seen: set[str] = set()
    docstrings = Docstrings(store)
    for at in range(0, len(ids), _AT_ONCE):
        batch = ids[at : at + _AT_ONCE].tolist()
        chunks = store.chunks(batch)
        for id in batch:
            if len(found) == most:
                return found
            if (chunk := chunks.get(id)) is None:
                continue
            made = _made(chunk, docstrings[chunk.document_id], names, rng)
            if made is not None and made.text not in seen:
                seen.add(made.text)
                whole = _answered(made, chunk, store.chunks_of(chunk.document_id))
                if 0 < len(whole.chunks) <= _MOST_ANSWERS:
                    found.append(whole)
    return found


@dataclass(frozen=True, slots=True)
class _Made:
    """A question, the part of the document it was made of, and what stays of that part."""

    text: str
    kind: Kind
    start: int
    end: int
    left: str = ""


def _made(
    chunk: Chunk, docstrings: Sequence[Described], names: Names, rng: np.random.Generator
) -> _Made | None:
    """One question of a chunk, of a kind that it has; None where there is none.

    `docstrings` are its document's. A chunk in the middle of one is no prose: people who look for
    code do not ask with a sentence of its notes.
    """
    own = [one for one in docstrings if chunk.start <= one.start < chunk.end]
    if own or is_code(chunk.text):
        described = [*own, *comments(chunk)]
        return _asked(described[int(rng.integers(len(described)))]) if described else None
    within = (min(one.end, chunk.end) - max(one.start, chunk.start) for one in docstrings)
    if 2 * max(within, default=0) > len(chunk.text):
        return None
    found = [*_headings(chunk, names)]
    if found and rng.random() < _HEADINGS:
        return found[0]
    return _sentence(chunk, rng)


def _asked(one: Described) -> _Made:
    return _Made(one.text, one.kind, one.start, one.end)


def _answered(made: _Made, chunk: Chunk, siblings: Sequence[Chunk]) -> Pseudo:
    """With every chunk of the document that the question was made of, and its rest."""
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
    return Pseudo(made.text, made.kind, frozenset(answers), rest, chunk.document_id)


# -- headings ---------------------------------------------------------------------------------


def _headings(chunk: Chunk, names: Names) -> Iterator[_Made]:
    """The heading above the chunk or the title of its document, where it says something."""
    for name, _ in _named(chunk):
        # a name of a file is a single word
        words = max(len(name.split()), len(_PAIR.findall(name)))
        said = len(set(terms(name))) >= _LEAST_TERMS and words >= _LEAST_WORDS
        left = len(_without(name, chunk.text)) >= LEAST_REST
        if said and left and names.single(name):
            yield _Made(name[:LONGEST], "heading", chunk.start, chunk.end)


def _without(name: str, text: str) -> str:
    """The text without the name, wherever it stands in it."""
    words = [re.escape(word) for word in name.split()]
    return re.sub(r"\s+".join(words), " ", text, flags=re.IGNORECASE) if words else text


# -- sentences --------------------------------------------------------------------------------


def _sentence(chunk: Chunk, rng: np.random.Generator) -> _Made | None:
    """A sentence as it stands; in the passage, most of its words are left out."""
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
    return _Made(text, "sentence", chunk.start + start, chunk.start + end, left)


def without_words(text: str, share: float, rng: np.random.Generator) -> str:
    """The text without each of its words with this chance; a word is out everywhere or nowhere.

    Of CJK, two characters are a word.
    """
    out: dict[str, bool] = {}

    def kept(found: re.Match[str]) -> str:
        word = found[0].casefold()
        return "" if out.setdefault(word, rng.random() < share) else found[0]

    return _WORD.sub(kept, text)


# -- as they are replayed ---------------------------------------------------------------------


async def labelled(
    store: Store, embedder: Embedder, *, most: int = MOST, seed: int = 0
) -> list[tuple[Labelled, Kind]]:
    """Questions as `drawn`, embedded as far as the embedder reads them, with their answers.

    Raises:
        EmbeddingError: the embedder failed.
        StoreError: the store cannot be read.
    """
    made, rarity = await asyncio.to_thread(_prepared, store, most, seed)
    vectors = await _vectors([item.text for item in made], embedder, "query")
    rests = [(at, id) for at, item in enumerate(made) for id in item.rest]
    remaining = await _vectors([made[at].rest[id] for at, id in rests], embedder, "passage")
    instead: list[dict[int, Instead]] = [{} for _ in made]
    whole = await asyncio.to_thread(store.chunks, sorted({id for _, id in rests}))
    for (at, id), vector in zip(rests, remaining, strict=True):
        if id in whole:
            share = rarity.share(made[at].text, whole[id].text, made[at].rest[id])
            instead[at][id] = Instead(share, vector)
    return [
        (Labelled(item.text, frozenset(), item.chunks, vector, other, item.group), item.kind)
        for item, vector, other in zip(made, vectors, instead, strict=True)
    ]


def _prepared(store: Store, most: int, seed: int) -> tuple[list[Pseudo], Rarity]:
    names, rarity = Names(), Rarity()
    for chunk, _ in islice(store.texts(), _COUNTED):
        names.add(chunk)
        rarity.add(chunk.text)
    found = drawn(store, names, most=most, seed=seed)
    if sum(item.kind == "docstring" for item in found) >= _ENOUGH:
        found = [item for item in found if item.kind != "comment"]
    return found, rarity


async def _vectors(
    texts: Sequence[str], embedder: Embedder, kind: Literal["query", "passage"]
) -> list[Vector | None]:
    """A vector of each; None of what the embedder cannot read."""
    readable = [at for at, text in enumerate(texts) if embedder.reads(language(text))]
    found: list[Vector | None] = [None] * len(texts)
    for first in range(0, len(readable), _AT_ONCE):
        places = readable[first : first + _AT_ONCE]
        embedded = await embedder.embed([texts[at] for at in places], kind=kind)
        for at, vector in zip(places, embedded.vectors, strict=True):
            if vector.any():
                found[at] = vector
    return found
