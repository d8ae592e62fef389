"""Detects a text's language by its script, which is what tokenizers and models see."""

from __future__ import annotations

import re
from typing import Final

ZH: Final = "zh"
JA: Final = "ja"
KO: Final = "ko"
EN: Final = "en"
UND: Final = "und"
LANGUAGES: Final = frozenset({ZH, JA, KO, EN, UND})
"""Every code that `language` returns: Chinese, Japanese, Korean, Latin script (English or its like,
and ASCII code or digits), and undetermined (any other script, or no letters at all)."""

_SAMPLE: Final = 1_000
"""Characters read at the beginning, in the middle and at the end of a long text."""
_CJK_WEIGHT: Final = 5
"""Latin letters that one ideograph or Hangul syllable outweighs: about as many as an English word
has. "Elasticsearch是什么" is then Chinese; an English paragraph quoting two Chinese names stays
English. With a model for English only, a wrong "zh" costs a question its dense side; a wrong "en"
gives the model text that it cannot read, which is worse, so the weight favours ideographs."""
_KANA_SHARE: Final = 0.15
"""Share of kana among kana and ideographs from which a text is Japanese. Headlines have 20 % or
more; Chinese text with a Japanese title has less."""

_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]+")
_KANA: Final = re.compile("[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]+")
_HANGUL: Final = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]+")
_LATIN: Final = re.compile(
    "[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]+"
)
_OTHER: Final = re.compile(
    "[\u0370-\u052f\u0531-\u0587\u05d0-\u05ea\u0620-\u064a\u0671-\u06d3\u0700-\u10ff\u1200-\u1dbf\u1f00-\u1fff]+"
)
_ASCII_WORD: Final = re.compile("[A-Za-z0-9]")
_ASKING: Final = re.compile(
    "什么|怎么|怎样|如何|为何|哪[些个位里一种年家座次]?|多[少长久大高远]|几[个年月次]?|谁|吗|呢|请问"
    "|是否|何[时地处]|[的了是在有和与及被将为]"
)


def _letters(script: re.Pattern[str], text: str) -> int:
    return sum(map(len, script.findall(text)))


def language(text: str) -> str:
    """The code (one of `LANGUAGES`) of the script of most of the text; East Asian in a tie.

    Reads at most 3,000 characters.
    """
    if len(text) > 3 * _SAMPLE:
        middle = len(text) // 2
        text = text[:_SAMPLE] + text[middle : middle + _SAMPLE] + text[-_SAMPLE:]
    if text.isascii():
        return EN if _ASCII_WORD.search(text) else UND
    han, kana = _letters(_HAN, text), _letters(_KANA, text)
    hangul, latin, other = _letters(_HANGUL, text), _letters(_LATIN, text), _letters(_OTHER, text)
    best = max(_CJK_WEIGHT * (han + kana), _CJK_WEIGHT * hangul, latin, other)
    if best == 0:
        return EN if _ASCII_WORD.search(text) else UND
    if best == _CJK_WEIGHT * (han + kana):
        return JA if kana >= _KANA_SHARE * (han + kana) else ZH
    if best == _CJK_WEIGHT * hangul:
        return KO
    return EN if best == latin else UND


def without_asking(question: str) -> str:
    """The question without Chinese question and function words, which an answer does not repeat."""
    return _ASKING.sub(" ", question)
