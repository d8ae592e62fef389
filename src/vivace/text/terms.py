"""Turns texts into index terms, by the same function for chunks and questions.

English: without NLTK's stop words, Snowball stems. Chinese, Japanese, Korean: characters and pairs
of neighbouring characters, which beat a dictionary segmenter on three of three Chinese sets;
traditional characters are replaced by simplified ones.
BM25 R@1 over squad2dev: these stop words .816, Lucene's 33 .805, none .809 (and 65 % more terms).
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from operator import add
from pathlib import Path
from typing import Final

import Stemmer


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STOP_WORDS: Final = _words(
    """
    i me my myself we our ours ourselves you your yours yourself yourselves he him his
    himself she her hers herself it its itself they them their theirs themselves what which
    who whom this that these those am is are was were be been being have has had having do
    does did doing a an the and but if or because as until while of at by for with about
    against between into through during before after above below to from up down in out on
    off over under again further then once here there when where why how all any both each
    few more most other some such no nor not only own same so than too very s t can will
    just don should now d ll m re ve i'm i've i'll i'd you're you've you'll you'd he's he'll
    he'd she's she'll she'd it's it'll we're we've we'll we'd they're they've they'll they'd
    that's that'll who's what's where's when's how's why's there's here's let's isn't aren't
    wasn't weren't haven't hasn't hadn't don't doesn't didn't can't won't wouldn't shouldn't
    couldn't mustn't
    """
)

VERSION: Final = 2
"""Raised when `terms` changes: an index of older terms is rebuilt. Version 2 replaces traditional
characters."""
LONGEST_TERM: Final = 64
"""Characters. Longer runs (base64, hashes) are cut into terms of this length: no term is too long
for an index or the stemmer."""

_REMEMBERED_STEMS: Final = 50_000
"""Words whose stems a thread caches: about 6 MB, and most words of any running text."""

_ACRONYM: Final = re.compile(r"\b[^\W\d_](?:\.[^\W\d_])+\b(?:\.)?")
_ENDED: Final = r"(?:s|t|re|ve|ll|d|m)\b"
_ENDING: Final = f"(?:'{_ENDED})?"
_WORD_ASCII: Final = re.compile(f"[a-z0-9]{{1,{LONGEST_TERM}}}{_ENDING}")
# \w lacks the marks of Hebrew, Arabic, Indic and Thai, and cutting there would split words.
_LETTERS: Final = (
    "[\\w\u0300-\u036f\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
    "\u0e31-\u0e4e\u0eb1-\u0ece\u0f71-\u0f84\u102b-\u103e\u17b4-\u17d3]"
)
_WORD: Final = re.compile(f"{_LETTERS}{{1,{LONGEST_TERM}}}{_ENDING}")
_RUN: Final = re.compile(f"{_LETTERS}+{_ENDING}")
_CJK: Final = (
    "\u1100-\u11ff\u3005-\u3007\u3041-\u30ff\u3105-\u312f\u3131-\u318e\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af"
)
_HAS_CJK: Final = re.compile(f"[{_CJK}]")
_SCRIPTS: Final = re.compile(f"[{_CJK}]+|[^{_CJK}]+")
_ACCENTED: Final = re.compile("[\u00c0-\u024f\u0300-\u036f\u1e00-\u1eff]")
_LATIN_MARKS: Final = re.compile("([a-z])[\u0300-\u036f]+")
_UNDECOMPOSED: Final = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ħ": "h"}
)
# Most texts contain nothing that `_folded` treats across characters, and no dot within a word: they
# are folded character by character, to the same terms in 60 % of the time.
_DOTTED: Final = re.compile(r"\.[^\W\d_]")
_EVERYDAY: Final = re.compile(
    "[\0-~\u00b7\u2013\u2014\u2018-\u201d\u2026\u3000-\u3002\u3008-\u3011\u3014-\u301b"
    "\u4e00-\u9fff\uff01-\uff0d\uff0f-\uff5e]*"
)
_IDEOGRAPH: Final = re.compile("[\u4e00-\u9fff]")
_PIECES: Final = re.compile(f"[a-z0-9]{{1,{LONGEST_TERM}}}|[^a-z0-9 ]+")
_STRAY: Final = re.compile(f"'(?:(?<![a-z0-9]')|(?!{_ENDED}))")
"""An apostrophe outside of words."""
_TWICE: Final = re.compile("'[a-z]{1,2}'")
"""Perhaps a word with two apostrophes, of which the second is outside: only `_WORD` decides."""
_ASCII_FOLDS: Final = bytes(
    ord(chr(c).lower()) if chr(c).isalnum() or c == ord("'") else ord(" ") for c in range(128)
).ljust(256)
# normalising n combining marks in a row takes n^2 steps; no word has more than a few
_LONG_MARKS: Final = re.compile(r"([^\w\s!-~]{30})[^\w\s!-~]+")


def _simplified() -> dict[int, int]:
    lines = Path(__file__).with_name("simplified.txt").read_text("utf-8").splitlines()
    pairs = [pair for line in lines if not line.startswith("#") for pair in line.split()]
    return {ord(pair[0]): ord(pair[1]) for pair in pairs}


SIMPLIFIED: Final = _simplified()
"""Code points of traditional characters to those of simplified ones: a table for `translate`."""


class _TooLong(Exception):
    """A word is longer than a term may be."""


class Stems(dict[str, str]):
    """Word -> stem, computed on first use; "" for a stop word. Raises `_TooLong`."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(STOP_WORDS, ""))
        self._stemmer = Stemmer.Stemmer("english", 0)

    def __missing__(self, word: str) -> str:
        if len(word) > LONGEST_TERM and len(word.partition("'")[0]) > LONGEST_TERM:
            raise _TooLong
        if len(self) >= _REMEMBERED_STEMS:
            self.clear()
            self.update(dict.fromkeys(STOP_WORDS, ""))
        stem: str = self._stemmer.stemWord(word)
        self[word] = stem
        return stem


class _ThreadStems(threading.local):
    """A stemmer per thread: two threads in one stemmer corrupt its buffer."""

    def __init__(self) -> None:
        self.stems = Stems()


_LOCAL: Final = _ThreadStems()


class _Folds(dict[int, str]):
    """Code point of `_EVERYDAY` -> its folded character; a blank for what is in no word."""

    def __missing__(self, point: int) -> str:
        folded = _folded(chr(point))
        kept = folded if folded == "'" or _RUN.fullmatch(folded) else " "
        self[point] = kept
        return kept


_FOLDS: Final = _Folds()


def terms(text: str) -> list[str]:
    """The index terms of a text, as often as they occur; none contains whitespace.

    Words keep their order; a run of CJK gives its characters, then its pairs. Case, width, Latin
    accents and the dots of acronyms are folded. Stop words are left out, except from a text that
    has nothing else ("to be or not to be"), so that such questions find such texts.
    """
    return _terms(text, pairs=True)


def words(text: str) -> list[str]:
    """The terms in the order of the text, without the pairs of CJK characters."""
    return _terms(text, pairs=False)


def _terms(text: str, *, pairs: bool) -> list[str]:
    dotted = _DOTTED.search(text)
    if text.isascii():
        if dotted:
            text = _undotted(text.lower().replace("_", " "))
        return _of_blanked(text.encode().translate(_ASCII_FOLDS).decode())
    if not dotted and _EVERYDAY.fullmatch(text):
        folded = text.translate(_FOLDS)
        if not _IDEOGRAPH.search(folded):
            return _of_blanked(folded)
        if "'" not in folded:
            return _of_pieces(_PIECES.findall(folded), pairs=pairs)
    text = _undotted(_folded(text))
    if _HAS_CJK.search(text):
        return _of_pieces(_pieces(text), pairs=pairs)
    return _stemmed(_WORD.findall(text))


def plain(text: str) -> str:
    """The text's words, folded like terms but not stemmed, with one blank between."""
    return " ".join(_RUN.findall(_folded(text)))


def holds(text: str, phrase: str) -> bool:
    """Whether a phrase occurs in a text, both as returned by `plain`.

    It must begin and end at word boundaries; an ideograph is a word by itself.
    """
    at = text.find(phrase)
    while at >= 0:
        end = at + len(phrase)
        begins = at == 0 or text[at - 1] == " " or bool(_HAS_CJK.match(phrase[0]))
        ends = end == len(text) or text[end] == " " or bool(_HAS_CJK.match(phrase[-1]))
        if begins and ends:
            return True
        at = text.find(phrase, at + 1)
    return False


def _undotted(text: str) -> str:
    """Replace "u.s." by "us", its other spelling."""
    return _ACRONYM.sub(lambda found: found[0].replace(".", "") + " ", text)


def _folded(text: str) -> str:
    """NFKC, case folded, without Latin accents and underscores, with one kind of apostrophe."""
    text = unicodedata.normalize("NFKC", _LONG_MARKS.sub(r"\1", text)).casefold()
    text = text.replace("’", "'").replace("_", " ")
    if _HAS_CJK.search(text):
        text = text.translate(SIMPLIFIED)
    if _ACCENTED.search(text):
        text = _LATIN_MARKS.sub(r"\1", unicodedata.normalize("NFD", text)).translate(_UNDECOMPOSED)
        text = unicodedata.normalize("NFC", text)
    return text


def _stemmed(words: list[str]) -> list[str]:
    found = list(filter(None, map(_LOCAL.stems.__getitem__, words)))
    return found or [word.replace("'", "") for word in words]


def _of_blanked(text: str) -> list[str]:
    """Terms of folded ASCII with only blanks and apostrophes between its words."""
    found = _STRAY.sub(" ", text) if "'" in text else text
    if not _TWICE.search(found):
        # words are hardly ever too long, and checking the length of each takes a third of the time
        with suppress(_TooLong):
            return _stemmed(found.split())
    return _stemmed(_WORD_ASCII.findall(text))


def _pieces(text: str) -> Iterator[str]:
    """The words of a folded text, cut at the beginning and end of CJK."""
    for word in _RUN.findall(text):
        if word.isascii() and len(word) <= LONGEST_TERM:
            yield word
            continue
        for piece in _SCRIPTS.findall(word):
            if _HAS_CJK.match(piece):
                yield piece
            else:
                yield from _WORD.findall(piece)


def _of_pieces(pieces: Iterable[str], *, pairs: bool) -> list[str]:
    """Terms of a text with CJK in it."""
    stems = _LOCAL.stems
    found: list[str] = []
    for piece in pieces:
        if not _HAS_CJK.match(piece):
            if stem := stems[piece]:
                found.append(stem)
            continue
        found.extend(piece)
        if pairs:
            found.extend(map(add, piece, piece[1:]))
    return found
