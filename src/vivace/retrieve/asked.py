"""What does a question ask for, beyond its words? Quoted phrases, exclusions, its language."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vivace.text.language import language
from vivace.text.terms import holds, plain

_QUOTED: Final = (
    r"\"([^\"]+)\"|\u201c([^\u201d]+)\u201d|\u300c([^\u300d]+)\u300d|\u300e([^\u300f]+)\u300f"
)
# a word, not a negative number, a dash between spaces or a command's short option
_EXCLUDED: Final = (
    r"(?:^|(?<=\s))-(?:(?:{quoted})|([^\W\d_][\w'-]*\w|[\u3400-\u9fff]+))(?=[\s,;.?!]|$)"
)
_OPERATOR: Final = re.compile('["\u201c\u300c\u300e]|(?:^|\\s)-\\S')
_PHRASE: Final = re.compile(_QUOTED)
_LEFT_OUT: Final = re.compile(_EXCLUDED.format(quoted=_QUOTED))
_MOST: Final = 8
"""Phrases, and exclusions, that are looked at: each costs a look at every candidate's text."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question understood. `phrases` and `excluded` are as `text.terms.plain` writes them."""

    text: str
    """Without the operators: what is embedded and what terms are made of."""
    language: str
    """A code of `text.language`."""
    phrases: tuple[str, ...] = ()
    """Each has to stand in what the keyword side proposes."""
    excluded: tuple[str, ...] = ()
    """None may stand in a hit."""

    def quotes(self, text: str) -> bool:
        """Whether every phrase stands in the text."""
        folded = plain(text)  # some 15 microseconds for a paragraph
        return all(holds(folded, phrase) for phrase in self.phrases)

    def refuses(self, text: str) -> bool:
        """Whether something that was excluded stands in the text."""
        folded = plain(text)
        return any(holds(folded, word) for word in self.excluded)


def understand(text: str) -> Asked:
    """The question's operators and the rest of it. Microseconds; nothing is asked of any model.

    `"two words"` (also in Chinese quotes) have to stand so in a passage that is found by its words;
    `-word` and `-"two words"` drop the passages that hold them. A question of nothing but
    exclusions asks for nothing: it is taken as it stands.
    """
    # looking for characters costs a tenth of looking for the pattern
    if ("-" not in text and '"' not in text and text.isascii()) or not _OPERATOR.search(text):
        return Asked(text, language(text))
    excluded = [_inner(found) for found in _LEFT_OUT.finditer(text)]
    rest = " ".join(_LEFT_OUT.sub(" ", text).split()) if excluded else text
    phrases = [_inner(found) for found in _PHRASE.finditer(rest)]
    if phrases:
        rest = " ".join(_PHRASE.sub(lambda found: f" {_inner(found)} ", rest).split())
    if not plain(rest):
        return Asked(text, language(text))
    return Asked(rest, language(rest), _folded(phrases), _folded(excluded))


def _inner(found: re.Match[str]) -> str:
    return str(next(filter(None, found.groups())))


def _folded(pieces: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(plain, pieces))))[:_MOST]
