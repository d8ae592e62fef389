"""Answers without a model: from the passages of a prompt of `vivace.generate.prompts`, cited."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from math import log
from typing import Final

import numpy as np

from vivace.generate.prompts import NOT_FOUND, QUESTION, TAG, asked_in
from vivace.text.asking import without_asking
from vivace.text.sentences import sentences
from vivace.text.terms import terms
from vivace.types import Message, Vectors

_PASSAGE: Final = re.compile(
    rf'<{TAG}(?P<nonce>[0-9a-f]+) number="(?P<number>\d+)"[^\n]*>\n'
    rf"(?P<text>.*?)\n</{TAG}(?P=nonce)>",
    re.DOTALL,
)
_QUESTION: Final = re.compile("|".join(re.escape(label) for label in QUESTION.values()))
_ANSWERS: Final = 0.34
"""The share of the question's terms (by rarity) that a sentence must hold to answer it."""
_HALF: Final = 0.5
"""The same without rarity, which says nothing where every sentence is alike."""
_TOKEN: Final = re.compile(
    r"\s*(?:[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uffef\u3000-\u303f]"
    r"|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uffef\u3000-\u303f]{1,6})|\s+"
)


def answer(messages: Sequence[Message]) -> str:
    """The passage sentence with most of the question's terms and its number, or "not found"."""
    last = messages[-1].content if messages else ""
    passages = list(_PASSAGE.finditer(last))
    behind = last[passages[-1].end() :] if passages else last
    label = _QUESTION.search(behind)
    question = behind[label.end() :] if label else behind
    code = asked_in(question)
    candidates = [
        (int(passage["number"]), passage["text"][start:end])
        for passage in passages
        for start, end in sentences(passage["text"])
        if not passage["text"][start:end].startswith("#")
    ]
    wanted = frozenset(terms(without_asking(question)))
    held = [wanted.intersection(terms(text)) for _, text in candidates]
    weights = {t: log(1 + (len(held) + 1) / (1 + sum(t in h for h in held))) for t in wanted}
    scores = [sum(weights[t] for t in sorted(words)) for words in held]
    best = max(scores, default=0.0)
    at = scores.index(best) if best else 0
    if not best or (
        best < _ANSWERS * sum(weights.values()) and len(held[at]) < _HALF * len(wanted)
    ):
        return NOT_FOUND[code]
    number, text = candidates[at]
    plain = " ".join(text.split())
    return f"{plain}[{number}]" if code == "zh" else f"{plain} [{number}]"


def tokens(text: str) -> list[str]:
    """The pieces in which a text is streamed and counted: at most six characters of a word with the
    space before it, which is about what real tokenizers make of prose and of random codes, and
    single East Asian characters. Joined they are the text."""
    return _TOKEN.findall(text)


def vectors(texts: Sequence[str], dim: int, seed: int) -> Vectors:
    """(n, dim): each term has a direction drawn from the seed, a text has their sum."""
    rows = np.zeros((len(texts), dim), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for term in terms(text):
            digest = hashlib.blake2b(f"{seed} {term}".encode(), digest_size=8).digest()
            row += np.random.default_rng(int.from_bytes(digest)).normal(size=dim)
        norm = float(np.linalg.norm(row))
        row[:] = row / norm if norm else 1 / dim**0.5
    return rows
