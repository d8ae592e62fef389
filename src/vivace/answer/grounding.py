"""Do the passages support the answer?

Before a model is asked: how likely the hits hold the answer at all (`likelihood`). Afterwards:
whether each sentence of the answer has a window of a passage (one sentence, or two neighbours) that
holds enough of its terms by rarity, and whether the sentence's numbers, names and negations, which
shared words do not show, are the window's (`grounded`). `benchmarks/grounding.py` fits and measures
both.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from time import perf_counter
from typing import Final

from vivace.answer.citations import MARKERS
from vivace.generate.compression import Excerpt
from vivace.text.language import ZH, language, without_asking
from vivace.text.sentences import sentences
from vivace.text.terms import STOP_WORDS, terms
from vivace.types import Hit, Support

# -- before a model is asked --------------------------------------------------------------------

WITH_VECTOR: Final = (16.7, 25.8, -16.5)
"""Weights of coverage, cosine, and 1: squad2dev_en's questions against cranfield's."""
BY_WORDS: Final = (10.9, 0.0, -5.7)
"""The same without a vector: cmrc_zh's questions against themselves without their document."""


def likelihood(question: str, hits: Sequence[Hit]) -> float | None:
    """How likely the hits hold the answer, from 0 to 1, at even odds beforehand; None without hits.

    A logistic model of the share of the question's terms, weighted by their rarity among the hits,
    that one hit holds (1 where the question has no terms), and of the best cosine, where the
    question has a vector. It recognises questions about something else. A question about what the
    documents treat without saying it looks like any other to a search: only a model can tell.
    """
    if not hits:
        return None
    wanted = frozenset(terms(without_asking(question)))
    held = [wanted.intersection(terms(hit.chunk.text)) for hit in hits]
    rarity = {t: log(1 + (len(held) + 1) / (0.5 + sum(t in h for h in held))) for t in wanted}
    whole = sum(rarity.values())
    coverage = max(sum(rarity[t] for t in words) for words in held) / whole if whole else 1.0
    cosines = [hit.stages["cosine"] for hit in hits if "cosine" in hit.stages]
    by_coverage, by_cosine, constant = WITH_VECTOR if cosines else BY_WORDS
    logit = by_coverage * coverage + by_cosine * max(cosines, default=0.0) + constant
    return 1 / (1 + exp(-logit))


# -- each sentence of an answer -----------------------------------------------------------------

ENOUGH: Final = 0.5
"""The share of a sentence's terms from which a window supports it."""
SLICE: Final = 0.0005
"""Seconds for which the event loop is held at a time; a single sentence may take longer."""
_PAIR: Final = 0.92
"""Factor on the share of two neighbours: what they hold separately may be unrelated."""


@dataclass(frozen=True, slots=True)
class _Window:
    chunk: int
    text: str
    terms: frozenset[str]
    weight: float


class _Slices:
    def __init__(self) -> None:
        self._until = perf_counter() + SLICE

    async def pause(self) -> None:
        """Let the event loop serve others, where this slice is over."""
        if perf_counter() > self._until:
            await asyncio.sleep(0)
            self._until = perf_counter() + SLICE


async def grounded(answer: str, excerpts: Sequence[Excerpt]) -> tuple[Support, ...]:
    """What supports each sentence of the answer that claims something, in its order.

    Runs in slices between which the event loop serves other streams. A thread would not help: the
    interpreter's lock is handed over after 5 ms, about as long as the whole takes.
    """
    slices = _Slices()
    windows = await _windows(excerpts, slices)
    total = len(windows) + 1
    counts = Counter(term for window in windows for term in window.terms)
    await slices.pause()
    found: list[Support] = []
    for start, end in claims(answer):
        claim = MARKERS.sub(" ", answer[start:end])
        wanted = frozenset(terms(claim))
        rarity = {t: log(1 + total / (0.5 + counts.get(t, 0))) for t in wanted}
        best, score = _best_window(rarity, windows)
        reason = "words" if best is None else _objection(claim, best, score)
        chunk = None if best is None else best.chunk
        found.append(Support(start, end, not reason, round(score, 3), chunk, reason))
        await slices.pause()
    return tuple(found)


def claims(answer: str) -> list[tuple[int, int]]:
    """The sentences of an answer that claim something: with a word beside their citations."""
    return [
        (start, end)
        for start, end in sentences(answer)
        if any(c.isalnum() for c in MARKERS.sub(" ", answer[start:end]))
    ]


async def _windows(excerpts: Sequence[Excerpt], slices: _Slices) -> list[_Window]:
    made: list[_Window] = []
    for excerpt in excerpts:
        chunk, text, shown = excerpt.chunk.id, excerpt.chunk.text, excerpt.sentences()
        held = []
        for start, end in shown:
            await slices.pause()
            held.append(frozenset(terms(text[start:end])))
        for at, (start, end) in enumerate(shown):
            made.append(_Window(chunk, text[start:end], held[at], 1.0))
            if at + 1 < len(shown):
                both = text[start : shown[at + 1][1]]
                made.append(_Window(chunk, both, held[at] | held[at + 1], _PAIR))
    return made


def _best_window(
    rarity: Mapping[str, float], windows: Sequence[_Window]
) -> tuple[_Window | None, float]:
    """The window with the largest share of a sentence's terms, and the share."""
    whole = sum(rarity.values()) or 1.0
    best: _Window | None = None
    score = 0.0
    for window in windows:
        share = sum(weight for term, weight in rarity.items() if term in window.terms) / whole
        share *= window.weight
        if share > score:
            best, score = window, share
    return best, score


def _objection(claim: str, window: _Window, score: float) -> str:
    """Why the window does not support the claim; empty where it does."""
    if score < ENOUGH:
        return "words"
    if numbers(claim) - numbers(window.text):
        return "number"
    if unknown_names(claim, window.text):
        return "name"
    return "negation" if contradictions(claim, window.text) else ""


# -- numbers, names and negations ---------------------------------------------------------------

_NUMBER: Final = re.compile(r"\d+(?:[,，]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_ONES: Final = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS: Final = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty"]
_SMALL: Final = {word: str(value) for value, word in enumerate(_ONES)} | {
    word: str(10 * value) for value, word in enumerate(_TENS, start=2)
}
_SPELLED: Final = re.compile(rf"\b(?:{'|'.join(_SMALL)})\b", re.IGNORECASE)
_PRONOUNS: Final = frozenset({"one"})
_HAN_DIGITS: Final = {c: str(v) for v, c in enumerate("〇一二三四五六七八九")} | {
    "零": "0",
    "两": "2",
}
_HAN_NUMBER: Final = re.compile(
    "[〇零一二三四五六七八九十百千万亿两]{2,}|[一二三四五六七八九十两](?=[年月日个名位岁次届世座人种条章部])"
)


def numbers(text: str) -> frozenset[str]:
    """The numbers of a text in one notation: without thousands' commas, words as digits."""
    found = {_plain(number) for number in _NUMBER.findall(text)}
    found |= {
        _SMALL[word.lower()] for word in _SPELLED.findall(text) if word.lower() not in _PRONOUNS
    }
    found |= {_han(number) for number in _HAN_NUMBER.findall(text)}
    return frozenset(found)


def _plain(number: str) -> str:
    plain = number.replace(",", "").replace("，", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain.lstrip("0") or "0"


def _han(number: str) -> str:
    """一九八四 and 二十 as digits."""
    if all(c in _HAN_DIGITS for c in number):
        return "".join(_HAN_DIGITS[c] for c in number).lstrip("0") or "0"
    total = section = digit = 0
    for c in number:
        if c in _HAN_DIGITS:
            digit = int(_HAN_DIGITS[c])
        elif c in "十百千":
            section += (digit or 1) * {"十": 10, "百": 100, "千": 1000}[c]
            digit = 0
        else:
            total = (total + section + digit) * {"万": 10**4, "亿": 10**8}[c]
            section = digit = 0
    return str(total + section + digit)


_CAPITAL: Final = re.compile(r"(?<![\w'’])[A-Z][\w'’-]*\w|(?<![\w'’])[A-Z]\b")
_HAN_RUN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff·A-Za-z0-9]+")
_EMPTY: Final = frozenset(
    "的了是在有和与及被将为于以也并而或就都还又其之这那此所着过地得把从到由对向会可能要等个于是因为但"
    "他她它们我你该即则且很更最上下中里后前时年月日者位名"
)
"""Function characters, which a sentence need not share with its source."""
_UNCOVERED: Final = 2
"""So many characters in a row, none of `_EMPTY`, that the source lacks are a name or a thing."""


def unknown_names(claim: str, source: str) -> frozenset[str]:
    """Names of the claim that the source lacks: capitalised words, and in Chinese runs of
    characters."""
    if language(claim) == ZH:
        return _uncovered(claim, source)
    held = frozenset(terms(source))
    missing: set[str] = set()
    first = re.search(r"\w", claim)
    for found in _CAPITAL.finditer(claim):
        word = found[0].removesuffix("'s").removesuffix("’s")
        if word.lower() in STOP_WORDS:
            continue
        alone = first is not None and found.start() == first.start()
        if alone and not _CAPITAL.match(claim, found.end() + 1):
            continue  # any word is capitalised at the beginning
        if not held.intersection(terms(word)):
            missing.add(word)
    return frozenset(missing)


def _uncovered(claim: str, source: str) -> frozenset[str]:
    """Runs of the claim of which the source has no two characters in a row."""
    missing: set[str] = set()
    for run in _HAN_RUN.findall(claim):
        bare = ""
        at = 0
        while at < len(run):
            length = 0
            while at + length < len(run) and run[at : at + length + 1] in source:
                length += 1
            if length >= 2:
                _keep(bare, missing)
                bare, at = "", at + length
                continue
            # a function character neither ends a run nor counts: 也 is in 维也纳 as well
            bare += "" if run[at] in _EMPTY else run[at]
            at += 1
        _keep(bare, missing)
    return frozenset(missing)


def _keep(bare: str, missing: set[str]) -> None:
    if len(bare) >= _UNCOVERED:
        missing.add(bare)


_WORD: Final = re.compile(r"[^\W_]+(?:['’][a-z]+)?")
_NOT: Final = frozenset(
    {"not", "no", "never", "none", "neither", "nor", "without", "cannot", "nobody", "nothing"}
    | {"nowhere", "hardly", "unable"}
)
_REACH: Final = 2
"""Words after a negation, stop words aside, that it negates."""
_NOT_ZH: Final = re.compile(
    "(?:并非|没有|不(?![仅但过同断久少久])|没|无(?!论|数|疑|线)|未(?!来|必)|非(?!常|洲)|勿|莫(?!斯))"
)
_REACH_ZH: Final = 2


def contradictions(claim: str, source: str) -> frozenset[str]:
    """Terms that either the claim or the source negates, and the other affirms."""
    read = _negated_zh if language(claim) == ZH else _negated
    denied, said = read(claim)
    denied_there, said_there = read(source)
    wrong = (denied & said_there) - denied_there
    return wrong | ((said & denied_there) - said_there - denied)


def _negated(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """(negated terms, other terms)."""
    denied: set[str] = set()
    said: set[str] = set()
    reach = 0
    for word in _WORD.findall(text):
        lower = word.lower().replace("’", "'")
        if lower in _NOT or lower.endswith("n't"):
            reach = _REACH
            continue
        if lower in STOP_WORDS:
            continue
        (denied if reach > 0 else said).update(terms(word))
        reach -= 1
    return frozenset(denied), frozenset(said)


def _negated_zh(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """As `_negated`: the two characters after a negation, and pairs of the others."""
    denied: set[str] = set()
    said: set[str] = set()
    spans: list[tuple[int, int]] = []
    for found in _NOT_ZH.finditer(text):
        behind = text[found.end() : found.end() + _REACH_ZH]
        denied.add(behind)
        spans.append((found.start(), found.end() + _REACH_ZH))
    for at in range(len(text) - _REACH_ZH + 1):
        piece = text[at : at + _REACH_ZH]
        if not any(start < at + _REACH_ZH and at < end for start, end in spans):
            said.add(piece)
    return frozenset(denied), frozenset(said)
