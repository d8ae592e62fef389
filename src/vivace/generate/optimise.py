"""Fewer tokens for the same answer: what of the passages goes into a prompt, and in which order.

Pure functions over excerpts. Each is on or off by a setting of [answer], and what each does is
measured by `benchmarks/compression.py`; the figures are in docs/decisions/0029.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from vivace.generate.compression import compress
from vivace.generate.excerpts import Excerpt
from vivace.settings import Answering

Price: TypeAlias = Callable[[Excerpt], int]
"""Tokens that an excerpt takes in a prompt, with its fence."""
_SAME = re.compile(r"[\W_]+")
_ASCII = {code: chr(code).lower() if chr(code).isalnum() else None for code in range(128)}
"""The same for ASCII, casefolded."""
_SHORT = 12
"""Characters without punctuation; a shorter repeated sentence ("Yes.") is no repetition."""


def shaped(
    question: str, excerpts: Sequence[Excerpt], answering: Answering, budget: int, price: Price
) -> tuple[Excerpt, ...]:
    """What a prompt of at most `budget` tokens of passages shows, in the order it shows it."""
    found = tuple(excerpts)
    if answering.deduplicate:
        found = deduplicated(found)
    if answering.compress < 1:
        goal = min(budget, round(answering.compress * sum(map(price, found))))
        found = compress(question, found, goal, price)
    found = within(found, budget, price)
    return ends_first(found) if answering.order == "ends" else found


def deduplicated(excerpts: Sequence[Excerpt]) -> tuple[Excerpt, ...]:
    """Without the sentences that an earlier excerpt shows, and without what then is empty.

    Sentences are the same whatever their case and punctuation. Neighbouring chunks overlap, and
    documents quote one another.
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
    if sentence.isascii():  # most are; a tenth of the time of the pattern
        return sentence.translate(_ASCII)
    return _SAME.sub("", sentence).casefold()


def within(excerpts: Sequence[Excerpt], budget: int, price: Price) -> tuple[Excerpt, ...]:
    """The best that fit, by rank; the very best is cut rather than left out."""
    kept: list[Excerpt] = []
    left = budget
    for excerpt in excerpts:
        cost = price(excerpt)
        if cost > left:
            if not kept:
                kept.append(cut(excerpt, left, price))
            break
        kept.append(excerpt)
        left -= cost
    return tuple(kept)


def cut(excerpt: Excerpt, budget: int, price: Price) -> Excerpt:
    """Its beginning, as far as it fits; a character at least."""
    cost = max(1, price(excerpt))
    left = max(1, sum(end - start for start, end in excerpt.spans) * budget // cost)
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
