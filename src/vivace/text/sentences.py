"""Splits English and Chinese text into sentences, by rules, in linear time.

A sentence ends

- after 。！？；｡ and the closing marks behind them, unless a comma follows (“好！”，他说);
- after . ! ? … and the closing marks behind them if whitespace or CJK follows, unless the next word
  is in lower case (and the sentence did not begin so), or the dot belongs to an abbreviation, an
  initial or a list number;
- at a blank line, always;
- at a single line break if either line is no running text: the line above is short, a heading, a
  quotation or a table row, or the line below is one, a list item, or indented as code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHORT_LINE: Final = 40
"""Columns (two per CJK character) below which a line is complete: a heading, a line of an address
or of code. Editors wrap running text at more columns."""

_CLOSERS: Final = "\"'”’»›」』”’）》〉】〕］｝)\\]}"
_CJK: Final = (
    "\u2e80-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
)
_BREAK: Final = re.compile(
    r"(?P<line>\n\s*+)"
    rf"|(?P<stop>[.!?…。！？；｡]++)(?:[{_CLOSERS}]|\[\d{{1,4}}\])*+(?P<space>\s*+)"
)
_SPACE: Final = re.compile(r"\s*+")
_WIDE: Final = re.compile(f"[{_CJK}\U00020000-\U000323af]")
_WIDE_STOPS: Final = frozenset("。！？；｡")
_GOES_ON: Final = frozenset("，、,；;：:")
_STRUCTURE: Final = re.compile(
    r"[-*+•·▪◦‣–—] |[#|>]|```|~~~"
    r"|[(（]?(?:\d{1,3}|[A-Za-z]|[一二三四五六七八九十]{1,3})[.)、．）](?!\d)"
)
_CODE_INDENT: Final = re.compile(r"(?:\t| {4,})\s*$")
_MARKED_LINE: Final = frozenset("#|>")
_LAST_WORD: Final = re.compile(r"[^\s\"'“‘«(\[{（「『]+$")
_NEXT_WORD: Final = re.compile(r"[\"'“‘«(\[{]*(?![^\W\d_]\.)([^\W_]+)")
_INNER_DOTS: Final = re.compile(r"[^\W\d_]{1,2}(?:\.[^\W\d_]{1,2})+", re.UNICODE)
_LONGEST_ABBREVIATION: Final = 24

_NEVER_LAST: Final = _words(
    """
    mr mrs ms mx dr prof rev hon st mt ft gen sen rep gov capt cmdr lt col sgt maj adm pres
    supt messrs mme mlle vs v viz cf e.g i.e eg ie ca c approx fig figs eq eqs sec ch vol
    vols pp p no nos art arts ed eds trans al op cit dept univ assn jan feb mar apr jun jul
    aug sep sept oct nov dec mon tue wed thu fri sat sun
    """
)
"""Abbreviations that never end a sentence. A number or a name follows months and days."""
_SOMETIMES_LAST: Final = _words(
    """
    inc ltd co corp bros llc plc jr sr esq etc ph.d m.d b.a m.a d.c a.m p.m a.d b.c u.s u.k
    """
)
"""Abbreviations that end a sentence if one of `_STARTERS` follows."""
_WORDS_TOO: Final = frozenset(
    ["no", "mar", "sat", "sun", "dec", "art", "ed", "sec", "fig", "v", "c", "p", "ca"]
)
"""Those of `_NEVER_LAST` that are also words or labels: they count only before a number."""
_STARTERS: Final = _words(
    """
    the a an this that these those it its he she they we i you his her their our my there
    here in on at by for from to as after before when while where if although though however
    but and or so yet then thus therefore also both each many most some such other another
    all no not one two what who why how which with during since because until under over
    between among despite today
    """
)


def sentences(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """Spans of the sentences in `text[start:end]`, as offsets into `text`, in order.

    Spans are not empty, have no whitespace at either end, do not overlap, and cover every other
    character.
    """
    return list(each_sentence(text, start, end))


def each_sentence(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """As `sentences`, one at a time: a text may have millions."""
    end = len(text) if end is None else min(end, len(text))
    begin = line = _skip_space(text, start, end)
    for found in _BREAK.finditer(text, begin, end):
        after = found.end()
        if found["line"] is not None:
            last, space = found.start(), found.start()
            ends = _line_ends(text, line, last, after)
        else:
            space = found.start("space")
            last = space
            ends = _stop_ends(text, begin, found, end)
            if not ends and text.find("\n", space, after) >= 0:
                ends = _line_ends(text, line, last, after)
        if text.find("\n", space, after) >= 0:
            line = text.rfind("\n", space, after) + 1
        if ends and begin < last:
            yield begin, begin + len(text[begin:last].rstrip())
            begin = after
    if begin < end and (rest := text[begin:end].rstrip()):
        yield begin, begin + len(rest)


def _skip_space(text: str, start: int, end: int) -> int:
    found = _SPACE.match(text, start, end)
    return found.end() if found else start


def _line_ends(text: str, line: int, last: int, after: int) -> bool:
    """Whether the line breaks in `text[last:after]` end a sentence; `line` is where their line
    starts."""
    if text.count("\n", last, after) > 1:
        return True
    if text[line : line + 1] in _MARKED_LINE or text.find(" | ", line, last) >= 0:
        return True
    if last - line < SHORT_LINE:
        above = text[line:last]
        if len(above) + len(_WIDE.findall(above)) < SHORT_LINE:
            return True
    if _STRUCTURE.match(text, after):
        return True
    return _CODE_INDENT.search(text[max(last, after - 8) : after]) is not None


def _stop_ends(text: str, begin: int, found: re.Match[str], end: int) -> bool:
    """Whether the sentence that began at `begin` ends with the stop that was found."""
    after, stop = found.end(), found["stop"]
    if after == end:
        return True
    following = text[after]
    if not _WIDE_STOPS.isdisjoint(stop):
        return following not in _GOES_ON
    wide = _WIDE.match(following) is not None
    if not found["space"]:
        # "3.5", "file.txt", "你好.他": without a space, only CJK text begins a new sentence
        return wide and following not in _GOES_ON and (stop != "." or _is_wide(text, found.start()))
    # lower case means nothing in a text without capitals
    if following in _GOES_ON or (following.islower() and not text[begin].islower()):
        return False
    if stop != "." or wide:
        return True
    return not _abbreviates(text, begin, found.start(), after)


def _is_wide(text: str, position: int) -> bool:
    return position > 0 and _WIDE.match(text[position - 1]) is not None


def _abbreviates(text: str, begin: int, dot: int, after: int) -> bool:
    """Whether the dot at `dot` is an abbreviation's, an initial's or a list number's."""
    found = _LAST_WORD.search(text[max(begin, dot - _LONGEST_ABBREVIATION) : dot])
    if found is None:
        return False
    word = found[0]
    if word.isdecimal():
        return dot - len(word) == begin and len(word) <= 3
    lower = word.lower()
    following = _NEXT_WORD.match(text[after : after + _LONGEST_ABBREVIATION])
    next_word = following[1] if following else ""
    if lower in _NEVER_LAST:
        return lower not in _WORDS_TOO or next_word[:1].isdigit()
    if lower in _SOMETIMES_LAST or _INNER_DOTS.fullmatch(word):
        return next_word.lower() not in _STARTERS
    # "J. Smith" is an initial; "and I. Then" and "vitamin C. The" are not.
    return len(word) == 1 and word.isupper() and word != "I" and next_word.lower() not in _STARTERS
