"""Which sentences of the passages does a prompt show, and in which order?

Each step is switched by a setting of [answer]: repeated sentences are left out, passages are
compressed to the sentences that bear on the question, the best that fit are kept, and the order is
chosen. `benchmarks/compression.py` measures each; docs/decisions/0029 has the figures.

Compression values a sentence by its passage's score and terms, by the terms it shares with the
question (weighted by their rarity among the sentences), and by whether it holds what the question
asks for: a number for "when", a name for "who". The weights were fitted on the even questions of
squad2dev_en and cmrc_zh.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import log
from typing import Final, TypeAlias

from vivace.settings import Answering
from vivace.text.language import without_asking
from vivace.text.sentences import sentences
from vivace.text.terms import terms
from vivace.types import Chunk, Hit

GAP: Final = " … "
"""Replaces sentences that were left out."""
Spans: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The part of a passage that a prompt shows.

    `spans` are offsets into `chunk.text`, in order, and do not overlap. The chunk stays whole, so
    that a citation gives the exact span of the document whatever was left out.
    """

    chunk: Chunk
    spans: Spans
    score: float = 0.0
    rank: int = 0
    """Of its hit, from 0."""
    _split: Spans | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def text(self) -> str:
        """What the prompt shows."""
        text = self.chunk.text
        parts: list[str] = []
        last = 0
        for start, end in self.spans:
            if parts:
                between = text[last:start]
                parts.append(between if between.isspace() or not between else GAP)
            parts.append(text[start:end])
            last = end
        return "".join(parts)

    def sentences(self) -> Spans:
        """The shown sentences, as offsets into `chunk.text`."""
        if self._split is None:  # the prompt needs it, and later grounding
            split = [
                sentence
                for start, end in self.spans
                for sentence in sentences(self.chunk.text, start, end)
            ]
            object.__setattr__(self, "_split", tuple(split))
        assert self._split is not None
        return self._split

    def keeping(self, kept: Sequence[tuple[int, int]]) -> Excerpt:
        """With these sentences alone; the text between two neighbours stays."""
        shown = self.sentences()
        at = {sentence: number for number, sentence in enumerate(shown)}
        spans: list[tuple[int, int]] = []
        before = -2
        for sentence in sorted(kept):
            number = at[sentence]
            follows = (
                number == before + 1 and not self.chunk.text[spans[-1][1] : sentence[0]].strip()
            )
            if follows:
                spans[-1] = (spans[-1][0], sentence[1])
            else:
                spans.append(sentence)
            before = number
        return replace(self, spans=tuple(spans))


TokenCost: TypeAlias = Callable[[Excerpt], int]
"""Tokens that an excerpt takes in a prompt, with its fence."""


def whole_passages(hits: Sequence[Hit]) -> tuple[Excerpt, ...]:
    """An excerpt of all of each hit's chunk, in their order."""
    return tuple(
        Excerpt(hit.chunk, ((0, len(hit.chunk.text)),), hit.score, rank)
        for rank, hit in enumerate(hits)
    )


def select_excerpts(
    question: str, hits: Sequence[Hit], answering: Answering, budget: int, cost: TokenCost
) -> tuple[Excerpt, ...]:
    """What a prompt with room for `budget` tokens of passages shows, in the order it shows it."""
    found = whole_passages(hits)
    if answering.deduplicate:
        found = deduplicated(found)
    if answering.compress < 1:
        goal = min(budget, round(answering.compress * sum(map(cost, found))))
        found = compress(question, found, goal, cost)
    found = within_budget(found, budget, cost)
    return ends_first(found) if answering.order == "ends" else found


# -- whole excerpts -----------------------------------------------------------------------------

_PUNCTUATION: Final = re.compile(r"[\W_]+")
_ASCII: Final = {code: chr(code).lower() if chr(code).isalnum() else None for code in range(128)}
"""The same for ASCII, casefolded."""
_SHORT: Final = 12
"""Characters without punctuation; a shorter sentence ("Yes.") is never taken for a repetition."""


def deduplicated(excerpts: Sequence[Excerpt]) -> tuple[Excerpt, ...]:
    """Without the sentences that an earlier excerpt shows, and without excerpts left empty.

    Sentences are compared without case and punctuation. Neighbouring chunks overlap, and documents
    quote one another.
    """
    seen: set[str] = set()
    kept: list[Excerpt] = []
    for excerpt in excerpts:
        shown = excerpt.sentences()
        text = excerpt.chunk.text
        plain = [_plain(text[start:end]) for start, end in shown]
        new = [
            span
            for span, words in zip(shown, plain, strict=True)
            if len(words) < _SHORT or words not in seen
        ]
        seen.update(plain)
        if len(new) == len(shown):
            kept.append(excerpt)
        elif any(any(c.isalnum() for c in text[start:end]) for start, end in new):
            kept.append(excerpt.keeping(new))
    return tuple(kept)


def _plain(sentence: str) -> str:
    if sentence.isascii():  # ten times faster than the pattern, and most are
        return sentence.translate(_ASCII)
    return _PUNCTUATION.sub("", sentence).casefold()


def within_budget(excerpts: Sequence[Excerpt], budget: int, cost: TokenCost) -> tuple[Excerpt, ...]:
    """The first that fit; the very first is truncated rather than left out."""
    kept: list[Excerpt] = []
    left = budget
    for excerpt in excerpts:
        tokens = cost(excerpt)
        if tokens > left:
            if not kept:
                kept.append(truncate(excerpt, left, cost))
            break
        kept.append(excerpt)
        left -= tokens
    return tuple(kept)


def truncate(excerpt: Excerpt, budget: int, cost: TokenCost) -> Excerpt:
    """The beginning of an excerpt that fits; at least a character."""
    tokens = max(1, cost(excerpt))
    left = max(1, sum(end - start for start, end in excerpt.spans) * budget // tokens)
    spans: list[tuple[int, int]] = []
    for start, end in excerpt.spans:
        if left <= 0:
            break
        spans.append((start, min(end, start + left)))
        left -= end - start
    return Excerpt(excerpt.chunk, tuple(spans), excerpt.score, excerpt.rank)


def ends_first(excerpts: Sequence[Excerpt]) -> tuple[Excerpt, ...]:
    """The best first, the second best last, and so on inwards: models read the middle worst.

    "Lost in the Middle", Liu et al., 2023, https://arxiv.org/abs/2307.03172.
    """
    return (*excerpts[::2], *reversed(excerpts[1::2]))


# -- sentences ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SentenceWeights:
    """How much each feature counts in a sentence's value."""

    passage: float = 1.0
    """The passage's score as a share of the best."""
    shared: float = 1.0
    """The question's terms in the sentence, by rarity."""
    held: float = 0.5
    """The question's terms in the whole passage."""
    kind: float = 0.2
    """The sentence has what the question asks for."""
    length: float = 0.15
    """The value is divided by the sentence's tokens to this power."""


WEIGHTS: Final = SentenceWeights()
_DIGIT: Final = re.compile(r"\d|[一二三四五六七八九十百千万亿两]{2}")
_NAME: Final = re.compile(r"(?<=[a-z,;:] )[A-Z]\w+|《|“|·")
_WHEN: Final = re.compile(
    r"\b(?:when|how (?:many|much|long|old|far|often|large|big|tall)|what (?:year|date|percent\w*"
    r"|number|century|decade|day|month|time))\b|几|多少|哪一?年|何时|什么时候|多[长久大高远]",
    re.IGNORECASE,
)
_WHO: Final = re.compile(
    r"\b(?:who|whom|whose|where|which|what (?:is|was) the name|what (?:city|country|state|company"
    r"|person|group|team))\b|谁|哪[个位里些家座]|什么人|何人|何地|哪儿",
    re.IGNORECASE,
)


def compress(
    question: str,
    excerpts: Sequence[Excerpt],
    budget: int,
    cost: TokenCost,
    weights: SentenceWeights = WEIGHTS,
) -> tuple[Excerpt, ...]:
    """The excerpts with their most valuable sentences, at most `budget` tokens of them.

    Where not one sentence fits, the first excerpt as it is.
    """
    everything = sum(map(cost, excerpts))
    if everything <= budget or not excerpts:
        return tuple(excerpts)
    shown = [excerpt.sentences() for excerpt in excerpts]
    values = _values(question, excerpts, shown, weights)
    # an excerpt without sentences costs its fence, which its first kept sentence pays
    fences = [cost(replace(excerpt, spans=())) for excerpt in excerpts]
    costs = [
        [max(1, cost(replace(excerpt, spans=(span,))) - fence) for span in spans]
        for excerpt, spans, fence in zip(excerpts, shown, fences, strict=True)
    ]
    order = sorted(
        ((p, s) for p, spans in enumerate(shown) for s in range(len(spans))),
        key=lambda at: -values[at[0]][at[1]] / costs[at[0]][at[1]] ** weights.length,
    )
    kept: list[list[tuple[int, int]]] = [[] for _ in excerpts]
    chosen: list[tuple[int, int]] = []
    left = budget
    for p, s in order:
        tokens = costs[p][s] + (0 if kept[p] else fences[p])
        if tokens <= left:
            kept[p].append(shown[p][s])
            chosen.append((p, s))
            left -= tokens
    made = _keeping(excerpts, kept)
    while len(chosen) > 1 and sum(map(cost, made)) > budget:
        # gaps and rounding were not counted
        p, s = chosen.pop()
        kept[p].remove(shown[p][s])
        made = _keeping(excerpts, kept)
    return made or (excerpts[0],)


def _keeping(
    excerpts: Sequence[Excerpt], kept: Sequence[Sequence[tuple[int, int]]]
) -> tuple[Excerpt, ...]:
    return tuple(e.keeping(spans) for e, spans in zip(excerpts, kept, strict=True) if spans)


def _values(
    question: str, excerpts: Sequence[Excerpt], shown: Sequence[Spans], weights: SentenceWeights
) -> list[list[float]]:
    """The value of each sentence of each excerpt."""
    texts = [
        [e.chunk.text[start:end] for start, end in spans]
        for e, spans in zip(excerpts, shown, strict=True)
    ]
    wanted = frozenset(terms(without_asking(question)))
    held = [[wanted.intersection(terms(text)) for text in passage] for passage in texts]
    every = [words for passage in held for words in passage]
    rarity = {t: log(1 + len(every) / (0.5 + sum(t in w for w in every))) for t in wanted}
    most = sum(rarity.values()) or 1.0
    top = max((e.score for e in excerpts), default=0.0) or 1.0
    sought = [p for asks, p in ((_WHEN, _DIGIT), (_WHO, _NAME)) if asks.search(question)]
    values: list[list[float]] = []
    for excerpt, passage, sets in zip(excerpts, texts, held, strict=True):
        share = [sum(rarity[t] for t in words) / most for words in sets]
        together = sum(rarity[t] for t in frozenset().union(*sets)) / most
        base = weights.passage * max(0.0, excerpt.score / top) + weights.held * together
        has = [any(pattern.search(text) for pattern in sought) for text in passage]
        values.append(
            [
                base + weights.shared * part + weights.kind * kind
                for part, kind in zip(share, has, strict=True)
            ]
        )
    return values
