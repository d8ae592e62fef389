"""Which sentences of the passages bear on the question? The others are left out of the prompt.

A sentence is worth what its passage is by rank and terms, what it shares with the question itself
(by how rare the terms are among the sentences), and whether it holds what the question asks for: a
number for "when", a name for "who". The best by that are kept until the budget is full. The weights
were fitted on the even questions of squad2dev_en and cmrc_zh (`benchmarks/compression.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Final

from vivace.generate.excerpts import Excerpt
from vivace.text.asking import without_asking
from vivace.text.terms import terms


@dataclass(frozen=True, slots=True)
class Weights:
    """Of what makes a sentence worth keeping."""

    passage: float = 1.0
    """The passage's score as a share of the best."""
    shared: float = 1.0
    """The question's terms in the sentence, by rarity."""
    held: float = 0.5
    """The question's terms in the whole passage."""
    kind: float = 0.2
    """The sentence has what the question asks for."""
    length: float = 0.15
    """Power of the tokens that its worth is divided by."""


WEIGHTS: Final = Weights()
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
    price: Callable[[Excerpt], int],
    weights: Weights = WEIGHTS,
) -> tuple[Excerpt, ...]:
    """The excerpts with their most useful sentences, at most `budget` tokens of them.

    Args:
        price: tokens that an excerpt takes in the prompt, with its fence.
    """
    everything = sum(map(price, excerpts))
    if everything <= budget or not excerpts:
        return tuple(excerpts)
    shown = [excerpt.sentences() for excerpt in excerpts]
    worth = _worth(question, excerpts, shown, weights)
    # an excerpt without sentences is its fence, which the first sentence kept of it pays for
    fences = [price(replace(excerpt, spans=())) for excerpt in excerpts]
    costs = [
        [max(1, price(replace(excerpt, spans=(span,))) - fence) for span in spans]
        for excerpt, spans, fence in zip(excerpts, shown, fences, strict=True)
    ]
    order = sorted(
        ((p, s) for p, spans in enumerate(shown) for s in range(len(spans))),
        key=lambda at: -worth[at[0]][at[1]] / costs[at[0]][at[1]] ** weights.length,
    )
    kept: list[list[tuple[int, int]]] = [[] for _ in excerpts]
    chosen: list[tuple[int, int]] = []
    left = budget
    for p, s in order:
        cost = costs[p][s] + (0 if kept[p] else fences[p])
        if cost <= left:
            kept[p].append(shown[p][s])
            chosen.append((p, s))
            left -= cost
    made = _made(excerpts, kept)
    while len(chosen) > 1 and sum(map(price, made)) > budget:
        # what stands for a gap, and rounding, were not counted
        p, s = chosen.pop()
        kept[p].remove(shown[p][s])
        made = _made(excerpts, kept)
    return made or (excerpts[0],)


def _made(
    excerpts: Sequence[Excerpt], kept: Sequence[Sequence[tuple[int, int]]]
) -> tuple[Excerpt, ...]:
    return tuple(e.keeping(spans) for e, spans in zip(excerpts, kept, strict=True) if spans)


def _worth(
    question: str,
    excerpts: Sequence[Excerpt],
    shown: Sequence[Sequence[tuple[int, int]]],
    weights: Weights,
) -> list[list[float]]:
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
    worth: list[list[float]] = []
    for excerpt, passage, sets in zip(excerpts, texts, held, strict=True):
        share = [sum(rarity[t] for t in words) / most for words in sets]
        together = sum(rarity[t] for t in frozenset().union(*sets)) / most
        base = weights.passage * max(0.0, excerpt.score / top) + weights.held * together
        has = [any(pattern.search(text) for pattern in sought) for text in passage]
        worth.append(
            [
                base + weights.shared * part + weights.kind * kind
                for part, kind in zip(share, has, strict=True)
            ]
        )
    return worth
