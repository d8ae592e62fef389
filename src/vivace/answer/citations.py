"""Which passages does an answer rest on, and where exactly in them?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log
from typing import Final

from vivace.generate.compression import Excerpt
from vivace.text.sentences import sentences
from vivace.text.terms import terms
from vivace.types import Citation, Span

_NUMBERS: Final = r"\s*\d{1,3}(?:\s*[,，、;；]\s*\d{1,3})*\s*"
_MARKER: Final = re.compile(rf"\[{_NUMBERS}\]|【{_NUMBERS}】|［{_NUMBERS}］")
MARKERS: Final = re.compile(rf"(?:{_MARKER.pattern})(?:\s*(?:{_MARKER.pattern}))*")
"""Without leading spaces: searching for those takes quadratic time in a run of them."""
_NUMBER: Final = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class CheckedCitations:
    """`citations` by number, `spans` in the answer's order, and the numbers without a passage."""

    citations: tuple[Citation, ...]
    spans: tuple[Span, ...]
    unknown: tuple[int, ...]


def check_citations(answer: str, excerpts: Sequence[Excerpt]) -> CheckedCitations:
    """Find the markers in an answer ([1], [1, 2], 【1】), and what in excerpt n supports them.

    A span is the sentence that a marker is in or follows, without markers. A citation is the
    shortest run of the excerpt's sentences that holds, for every span with its number, the sentence
    that shares most with it; the whole excerpt where none shares anything.
    """
    spans: list[Span] = []
    unknown: dict[int, None] = {}
    claims: dict[int, list[str]] = {}
    for start, end, numbers in _cited(answer):
        for number in dict.fromkeys(numbers):
            if not 1 <= number <= len(excerpts):
                unknown[number] = None
                continue
            found = claims.setdefault(number, [])
            if start < end:
                found.append(MARKERS.sub(" ", answer[start:end]))
                spans.append(Span(start, end, number))
    citations = [_citation(n, excerpts[n - 1], claims[n]) for n in sorted(claims)]
    return CheckedCitations(tuple(citations), tuple(dict.fromkeys(spans)), tuple(unknown))


def _cited(answer: str) -> Iterable[tuple[int, int, list[int]]]:
    """(start, end, numbers) of each sentence with markers in it or after it."""
    before: tuple[int, int] | None = None
    for start, end in sentences(answer):
        leading = MARKERS.match(answer, _past_spaces(answer, start, end), end)
        if leading is not None:
            # "One. [1] Two." — the marker belongs to the sentence before it on its line
            numbers = _numbers(leading[0])
            if before is not None and "\n" not in answer[before[1] : start]:
                yield (*before, numbers)
                numbers = []
            start = _past_spaces(answer, leading.end(), end)
        else:
            numbers = []
        numbers += [n for found in _MARKER.finditer(answer, start, end) for n in _numbers(found[0])]
        start, end = _trimmed(answer, start, end)
        if numbers:
            yield start, end, numbers
        if start < end:
            before = (start, end)


def _trimmed(answer: str, start: int, end: int) -> tuple[int, int]:
    """The span without the markers at its end."""
    found = list(MARKERS.finditer(answer, start, end))
    if not found or answer[found[-1].end() : end].strip(" .。．!！?？;；"):
        return start, end
    return start, start + len(answer[start : found[-1].start()].rstrip())


def _past_spaces(answer: str, start: int, end: int) -> int:
    while start < end and answer[start].isspace():
        start += 1
    return start


def _numbers(marker: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(marker)]


def _citation(number: int, excerpt: Excerpt, claims: Sequence[str]) -> Citation:
    chunk, spans = excerpt.chunk, excerpt.sentences()
    held = [frozenset(terms(chunk.text[start:end])) for start, end in spans]
    total = len(held) + 1
    best: list[int] = []
    for claim in claims:
        wanted = frozenset(terms(claim))
        weights = {t: log(1 + total / (1 + sum(t in words for words in held))) for t in wanted}
        scores = [sum(weights[t] for t in wanted & words) for words in held]
        if scores and max(scores) > 0:
            best.append(scores.index(max(scores)))
    shown = excerpt.spans[-1][1] if excerpt.spans else len(chunk.text)
    start, end = (spans[min(best)][0], spans[max(best)][1]) if best else (0, shown)
    return Citation(number, chunk, chunk.start + start, chunk.start + end, chunk.text[start:end])
