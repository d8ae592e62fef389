"""What words in common do not show of two sentences: numbers, names and negations."""

from __future__ import annotations

import re
from typing import Final

from vivace.text.language import ZH, language
from vivace.text.terms import STOP_WORDS, terms

_NUMBER: Final = re.compile(r"\d+(?:[,，]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_SMALL: Final = {
    word: str(value)
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ]
    )
} | {"thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80"}
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
    """The numbers of a text, written alike: without thousands' commas, words as digits."""
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
    """一九八四 and 二十 as digits; what is neither stays as it is."""
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
"""Characters that bind; a sentence may have others of them than its source."""
_UNCOVERED: Final = 2
"""Characters in a row, none of `_EMPTY`, that a Chinese source does not have: a name or a thing."""


def names(claim: str, source: str) -> frozenset[str]:
    """What the claim names and the source does not: capitalised words, and in Chinese runs of
    characters that the source has in no place."""
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
            continue  # any word stands so at the beginning
        if not held.intersection(terms(word)):
            missing.add(word)
    return frozenset(missing)


def _uncovered(claim: str, source: str) -> frozenset[str]:
    """Runs of the claim that no two characters in a row of the source cover."""
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
            # a binding character neither ends a run nor counts: 也 is in 维也纳 as well
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
"""Words, stop words aside, that a negation bears on."""
_NOT_ZH: Final = re.compile(
    "(?:并非|没有|不(?![仅但过同断久少久])|没|无(?!论|数|疑|线)|未(?!来|必)|非(?!常|洲)|勿|莫(?!斯))"
)
_REACH_ZH: Final = 2


def negations(claim: str, source: str) -> frozenset[str]:
    """What the claim denies and the source does not, or the other way round."""
    read = _negated_zh if language(claim) == ZH else _negated
    denied, said = read(claim)
    denied_there, said_there = read(source)
    wrong = (denied & said_there) - denied_there
    return wrong | ((said & denied_there) - said_there - denied)


def _negated(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """(terms that stand denied, terms that do not)."""
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
    """As `_negated`: the characters behind a negation, and pairs of the others."""
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
