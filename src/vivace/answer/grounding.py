"""Does each sentence of an answer have something behind it in the passages?

By words: the rarity-weighted share of a sentence's terms that its best window of a passage (one
sentence, or two neighbours) holds. Then what words in common do not show: numbers, names and
negations of the sentence have to be those of the window. Calibrated by `benchmarks/grounding.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import log
from time import perf_counter
from typing import Final, cast

from vivace.answer.citations import MARKERS
from vivace.answer.claims import names, negations, numbers
from vivace.generate.excerpts import Excerpt
from vivace.text.sentences import sentences
from vivace.text.terms import terms
from vivace.types import Support

ENOUGH: Final = 0.5
"""The share of a sentence's terms from which a window supports it."""
SLICE: Final = 0.0005
"""Seconds for which the event loop is held at a time, or as long as one sentence takes."""
_ALIKE: Final = 0.8
"""Cosine from which a vector speaks for a sentence whose words are others."""
_SOME: Final = 0.3
"""What of its terms such a sentence has to share all the same."""


@dataclass(frozen=True, slots=True)
class _Window:
    excerpt: Excerpt
    text: str
    terms: frozenset[str]
    single: bool


def grounded(
    answer: str, excerpts: Sequence[Excerpt], alike: Sequence[float] | None = None
) -> tuple[Support, ...]:
    """What supports each sentence of the answer that claims something, in its order.

    Args:
        alike: for each sentence (`claims`), the cosine of its vector to the nearest sentence of the
            passages, where an embedder is at hand.
    """
    steps = _steps(answer, excerpts, alike)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(tuple[Support, ...], end.value)


async def grounded_aside(answer: str, excerpts: Sequence[Excerpt]) -> tuple[Support, ...]:
    """As `grounded`, in slices between which the event loop goes on with the streams of others.

    A thread would not do: the interpreter's lock is handed over after 5 ms, which is about what the
    whole takes.
    """
    steps = _steps(answer, excerpts, None)
    until = perf_counter() + SLICE
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(tuple[Support, ...], end.value)
        if perf_counter() > until:
            await asyncio.sleep(0)
            until = perf_counter() + SLICE


def _steps(
    answer: str, excerpts: Sequence[Excerpt], alike: Sequence[float] | None
) -> Generator[None, None, tuple[Support, ...]]:
    windows = yield from _windows(excerpts)
    total = len(windows) + 1
    counts: dict[str, int] = {}
    for window in windows:
        for term in window.terms:
            counts[term] = counts.get(term, 0) + 1
    yield
    found: list[Support] = []
    for number, (start, end) in enumerate(claims(answer)):
        cosine = alike[number] if alike is not None else 0.0
        claim = MARKERS.sub(" ", answer[start:end])
        wanted = frozenset(terms(claim))
        rarity = {t: log(1 + total / (0.5 + counts.get(t, 0))) for t in wanted}
        found.append(_support(start, end, claim, rarity, windows, cosine))
        yield
    return tuple(found)


def claims(answer: str) -> list[tuple[int, int]]:
    """The sentences of an answer that claim something: with a word beside their citations."""
    return [
        (start, end)
        for start, end in sentences(answer)
        if any(c.isalnum() for c in MARKERS.sub(" ", answer[start:end]))
    ]


def _windows(excerpts: Sequence[Excerpt]) -> Generator[None, None, list[_Window]]:
    made: list[_Window] = []
    for excerpt in excerpts:
        text = excerpt.chunk.text
        shown = excerpt.sentences()
        held = []
        for start, end in shown:
            yield
            held.append(frozenset(terms(text[start:end])))
        for at, (start, end) in enumerate(shown):
            made.append(_Window(excerpt, text[start:end], held[at], True))
            if at + 1 < len(shown):
                both = text[start : shown[at + 1][1]]
                made.append(_Window(excerpt, both, held[at] | held[at + 1], False))
    return made


def _support(
    start: int,
    end: int,
    claim: str,
    rarity: dict[str, float],
    windows: Sequence[_Window],
    cosine: float,
) -> Support:
    whole = sum(rarity.values()) or 1.0
    best: _Window | None = None
    score = 0.0
    for window in windows:
        share = sum(weight for term, weight in rarity.items() if term in window.terms) / whole
        # two sentences have to hold clearly more than one: what they hold apart may be unrelated
        share *= 1.0 if window.single else 0.92
        if share > score:
            best, score = window, share
    if best is None:
        return Support(start, end, False, 0.0, None, "words")
    reason = ""
    if score < ENOUGH and not (cosine >= _ALIKE and score >= _SOME):
        reason = "words"
    elif numbers(claim) - numbers(best.text):
        reason = "number"
    elif names(claim, best.text):
        reason = "name"
    elif negations(claim, best.text):
        reason = "negation"
    return Support(start, end, not reason, round(score, 3), best.excerpt.chunk.id, reason)
