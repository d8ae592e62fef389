"""Answer without a model: from the passages of a prompt of `vivace.generate.prompts`, cited."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from math import log
from typing import Final

import numpy as np

from vivace.generate.fences import NOTES, TAG
from vivace.generate.templates import NOT_FOUND, answer_language, built_in
from vivace.text.language import without_asking
from vivace.text.sentences import sentences
from vivace.text.terms import terms
from vivace.types import Message, Vectors

_PASSAGE: Final = re.compile(
    rf'<{TAG}(?P<nonce>[0-9a-f]+) number="(?P<number>\d+)"[^\n]*>\n'
    rf"(?P<text>.*?)\n</{TAG}(?P=nonce)>",
    re.DOTALL,
)
_LABELS: Final = {
    re.compile(re.escape(words).replace(re.escape("{target}"), "(.+?)")): (name, code)
    for name, template in built_in().items()
    for code in ("en", "zh")
    for words in (
        template.wording(code).ask,
        template.wording(code).given,
        template.wording(code).merge,
        template.wording(code).refine,
    )
    if words
}
"""Labels before the question, with their template and language; a group captures the target."""
_NOTE: Final = re.compile(
    rf"<{NOTES}(?P<nonce>[0-9a-f]+)>\n(?P<text>.*?)\n</{NOTES}(?P=nonce)>", re.DOTALL
)
_ANSWERS: Final = 0.34
"""The share of the question's terms (by rarity) that a sentence must hold to answer it."""
_HALF: Final = 0.5
"""The same share without rarity, which is meaningless where all sentences are alike."""
_TOKEN: Final = re.compile(
    r"\s*(?:[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uffef\u3000-\u303f]"
    r"|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uffef\u3000-\u303f]{1,6})|\s+"
)


def answer(messages: Sequence[Message]) -> str:
    """The answer that the prompt's template asks for, made of the prompt alone.

    Question answering: the passage sentence with most of the question's terms and its number, or
    "not found". A summary: the first sentence of each passage with its number, of summaries their
    sentences. A translation: the sentences, each with the target language before it. Code: a
    function whose description is the task, and the best sentence as its explanation.
    """
    last = messages[-1].content if messages else ""
    passages = list(_PASSAGE.finditer(last))
    notes = list(_NOTE.finditer(last))
    behind = last[max((m.end() for m in (*passages, *notes)), default=0) :]
    label, (name, code) = _label(behind)
    question = behind[label.end() :] if label else behind
    code = code or answer_language(question)
    space = "" if code == "zh" else " "
    target = label[1] if label and label.groups() else ""
    if name == "summary":
        found = [note["text"] for note in notes]
        for passage in passages:
            spans = sentences(passage["text"])
            start, end = next((s for s in spans if passage["text"][s[0]] != "#"), spans[0])
            found.append(f"{_line(passage['text'][start:end])}{space}[{passage['number']}]")
        return "\n".join(found) or NOT_FOUND[code]
    if name == "translation" and not passages:
        spans = sentences(question)
        return " ".join(f"({target}) {_line(question[start:end])}" for start, end in spans)
    number, text = _best(question, passages)
    if name == "translation":
        return f"({target}) {text}{space}[{number}]" if text else NOT_FOUND[code]
    if name == "code":
        made = f'```python\ndef made() -> None:\n    """{_line(question)}"""\n```'
        return f"{made}\n{text}{space}[{number}]" if text else made
    return f"{text}{space}[{number}]" if text else NOT_FOUND[code]


def _label(behind: str) -> tuple[re.Match[str] | None, tuple[str, str]]:
    """The first label in the text behind the passages, with its template and language."""
    found = [
        (match, whose) for pattern, whose in _LABELS.items() if (match := pattern.search(behind))
    ]
    return min(found, key=lambda one: one[0].start(), default=(None, ("qa", "")))


def _line(text: str) -> str:
    return " ".join(text.split())


def _best(question: str, passages: Sequence[re.Match[str]]) -> tuple[int, str]:
    """The sentence with most of the question's terms; empty where none has enough of them."""
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
        return 0, ""
    number, text = candidates[at]
    return number, _line(text)


def tokens(text: str) -> list[str]:
    """Split a text into the tokens in which it is streamed and counted; joined, they are the text.

    A token is at most six characters of a word with the space before it, about what real
    tokenizers make of prose and of random codes, or one East Asian character.
    """
    return _TOKEN.findall(text)


def vectors(texts: Sequence[str], dim: int, seed: int) -> Vectors:
    """Unit vectors (n, dim): each term has a direction drawn from the seed, a text their sum."""
    rows = np.zeros((len(texts), dim), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for term in terms(text):
            digest = hashlib.blake2b(f"{seed} {term}".encode(), digest_size=8).digest()
            row += np.random.default_rng(int.from_bytes(digest)).normal(size=dim)
        norm = float(np.linalg.norm(row))
        row[:] = row / norm if norm else 1 / dim**0.5
    return rows
