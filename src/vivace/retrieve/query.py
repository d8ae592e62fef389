"""The question: a checked query, and its text split into words, quoted phrases and exclusions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import Final

import numpy as np

from vivace.errors import BadQuery
from vivace.text.language import language
from vivace.text.terms import holds, plain
from vivace.types import Query, Vector

_MAX_HITS: Final = 10_000
_QUOTED: Final = (
    r"\"([^\"]+)\"|\u201c([^\u201d]+)\u201d|\u300c([^\u300d]+)\u300d|\u300e([^\u300f]+)\u300f"
)
# a word, not a negative number, a dash between spaces or a command's short option
_EXCLUDED: Final = (
    r"(?:^|(?<=\s))-(?:(?:{quoted})|([^\W\d_][\w'-]*\w|[\u3400-\u9fff]+))(?=[\s,;.?!]|$)"
)
_OPERATOR: Final = re.compile('["\u201c\u300c\u300e]|(?:^|\\s)-\\S')
_PHRASE: Final = re.compile(_QUOTED)
_EXCLUSION: Final = re.compile(_EXCLUDED.format(quoted=_QUOTED))
_MAX_OPERATORS: Final = 8
"""Phrases, and exclusions, that count: each is looked for in the text of every candidate."""


@dataclass(frozen=True, slots=True)
class ParsedQuery:
    """A question without its operators. `phrases` and `excluded` are normalised by
    `text.terms.plain`."""

    text: str
    """What is embedded and split into terms."""
    language: str
    """A code of `text.language`."""
    phrases: tuple[str, ...] = ()
    """Keyword candidates have to contain each of them."""
    excluded: tuple[str, ...] = ()
    """No hit contains any of them."""

    def has_phrases(self, text: str) -> bool:
        """Whether the text contains every phrase."""
        folded = plain(text)  # some 15 microseconds for a paragraph
        return all(holds(folded, phrase) for phrase in self.phrases)

    def excludes(self, text: str) -> bool:
        """Whether the text contains something that was excluded."""
        folded = plain(text)
        return any(holds(folded, word) for word in self.excluded)


def parse(text: str) -> ParsedQuery:
    """Split a question into its operators and the rest. Takes microseconds; calls no model.

    `"two words"` (also in Chinese quotes) must occur exactly so in a passage that is found by its
    words; `-word` and `-"two words"` drop the passages that contain them. A question that consists
    of exclusions alone is taken literally.
    """
    # looking for characters costs a tenth of looking for the pattern
    if ("-" not in text and '"' not in text and text.isascii()) or not _OPERATOR.search(text):
        return ParsedQuery(text, language(text))
    excluded = [_inner(found) for found in _EXCLUSION.finditer(text)]
    rest = " ".join(_EXCLUSION.sub(" ", text).split()) if excluded else text
    phrases = [_inner(found) for found in _PHRASE.finditer(rest)]
    if phrases:
        rest = " ".join(_PHRASE.sub(lambda found: f" {_inner(found)} ", rest).split())
    if not plain(rest):
        return ParsedQuery(text, language(text))
    return ParsedQuery(rest, language(rest), _folded(phrases), _folded(excluded))


def _inner(found: re.Match[str]) -> str:
    return str(next(filter(None, found.groups())))


def _folded(pieces: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(plain, pieces))))[:_MAX_OPERATORS]


def check(query: Query, max_chars: int) -> None:
    """Refuse a query that cannot be searched.

    Raises:
        BadQuery: it is empty or too long, k < 1, or its vector holds NaN or infinity.
    """
    if not query.text.strip() and query.vector is None:
        raise BadQuery("the question is empty", fix="Ask something")
    if len(query.text) > max_chars:
        raise BadQuery(
            f"the question has {len(query.text):,} characters, more than {max_chars:,}",
            fix="Shorten it, or raise search.max_question_chars",
        )
    if not 1 <= query.k <= _MAX_HITS:
        raise BadQuery(f"k is {query.k}", fix=f"Ask for 1 to {_MAX_HITS:,} hits")
    # a sum of squares is finite only where every number is, and takes a fifth of the time
    if query.vector is not None and not isfinite(_squared(np.asarray(query.vector, np.float32))):
        raise BadQuery("the query's vector holds NaN or infinity", fix="Repair the vector")


def encodable(query: Query) -> Query:
    """The query without lone surrogates, which a shell makes of bytes that are no UTF-8."""
    if query.text.isascii():
        return query
    text = query.text.encode("utf-8", "replace").decode()
    return query if text == query.text else replace(query, text=text)


def unit(vector: Vector) -> Vector:
    """The vector as float32 of unit length, as embedders return them; a zero vector stays zero."""
    row = np.asarray(vector, np.float32)
    length = np.float32(sqrt(_squared(row)))
    return row / length if length > 0 else row


def _squared(vector: Vector) -> float:
    """The square of its length, in float64: large components would overflow float32."""
    wide = vector.astype(np.float64).ravel()
    return float(wide.dot(wide))
