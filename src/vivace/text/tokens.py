"""Estimates a text's tokens for a language model by script, without the model's tokenizer.

Characters per token, by the makers of current models or their vocabularies: English prose 3.9 (32k
vocabularies) to 4.7 (200k), code and tables less; an ideograph is 0.55 (DeepSeek, GLM) to 1 token
(32k vocabularies, and MiniLM's), a digit one third to one. Relative to MiniLM's own count over 300
documents each, `estimate` gives 1.23 (SQuAD), 1.31 (Cranfield) and 0.98 (CMRC, Chinese), `fewest`
0.99, 1.05 and 0.50.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from vivace.errors import BadSettings

_WIDE: Final = re.compile(
    "[\u1100-\u11ff\u2e80-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\uff00-\uffef\U00020000-\U000323af]+"
)
_OTHER: Final = re.compile("[\u0370-\u10ff\u1200-\u1dff\u1f00-\u1fff]+")

_MOST: Final = (0.25, 1.0, 0.5)
_FEWEST: Final = (0.2, 0.5, 0.15)
"""Tokens per character: Latin and all else, East Asian, other alphabets."""


def estimate(text: str) -> int:
    """Tokens by a tokenizer with a small vocabulary: what a budget has to allow."""
    return _count(text, _MOST)


def fewest(text: str) -> int:
    """Tokens by a tokenizer with a large vocabulary: the least to expect."""
    return _count(text, _FEWEST)


def _count(text: str, weights: tuple[float, float, float]) -> int:
    if not text:
        return 0
    wide = other = 0
    if not text.isascii():
        wide = sum(map(len, _WIDE.findall(text)))
        other = sum(map(len, _OTHER.findall(text)))
    plain, each_wide, each_other = weights
    latin = len(text) - wide - other
    return max(1, round(latin * plain + wide * each_wide + other * each_other))


def counter(path: str) -> Callable[[str], int]:
    """A token counter by the tokenizer in a file (Hugging Face's tokenizer.json); `estimate` if the
    path is empty.

    Raises:
        BadSettings: the file cannot be read or is no tokenizer.
    """
    if not path:
        return estimate
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # its own errors are bare exceptions
        raise BadSettings(
            f"generate.tokenizer: {path}: {error}", fix="Name the model's tokenizer.json"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(text: str) -> int:
        clean = text if text.isascii() else text.encode("utf-8", "replace").decode()
        return len(tokenizer.encode(clean, add_special_tokens=False).ids)

    return count
