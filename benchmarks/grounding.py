"""Is it told what the documents do not say, and what of an answer they do not?

    python -m benchmarks.grounding [--limit N] [--json]

refusal: AUC of `grounding.likelihood` between squad2dev_en's questions and cranfield's asked of the
same collection, and SQuAD's own unanswerable ones; in Chinese, cmrc_zh's questions against the same
without the hits of their document, which is harder. The weights were fitted on the even questions;
every figure is of the odd ones. Intervals are of 500 bootstrap samples.

grounding: an answer is the sentence of the passage with the answer string, every second one
shortened to fewer clauses; of each a wrong one is made: a name of another article in place of one
of its own, another number, or a negation put in or taken out. A sentence is called where it is
found not to be supported by the five best hits. Precision and recall are of calling the wrong ones.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import show
from benchmarks.retrieved import Question, retrieved, wilson
from vivace.answer.grounding import grounded, likelihood
from vivace.generate.compression import whole_passages
from vivace.text.sentences import sentences

READ = 5
THRESHOLDS = (0.05, 0.2, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=1500, help="answers of a set")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(asyncio.run(measure(options.limit)), as_json=options.json)


async def measure(limit: int) -> dict[str, Any]:
    english, chinese = await retrieved("squad2dev_en"), await retrieved("cmrc_zh")
    others = await retrieved("squad2dev_en", "cranfield_en/queries")
    unanswerable = await retrieved("squad2dev_en", "squad2dev_en/unanswerable")
    right = scores(english[1::2])
    return {
        "refusal": {
            "cranfield_of_squad2dev": against(right, scores(others[1::2])),
            "squad_unanswerable": against(right, scores(unanswerable[1::2])),
            "cmrc_zh_without_its_document": against(
                scores(chinese[1::2]), scores(list(without_document(chinese[1::2])))
            ),
        },
        "grounding": {
            "squad2dev_en": await of_answers(english, limit, _wrong_en, _shortened_en),
            "cmrc_zh": await of_answers(chinese, limit, _wrong_zh, _shortened_zh),
        },
    }


# -- refusal ------------------------------------------------------------------------------------


def scores(questions: Sequence[Question]) -> NDArray[np.float64]:
    return np.array([likelihood(q.text, q.hits[:READ]) or 0.0 for q in questions])


def without_document(questions: Sequence[Question]) -> Iterator[Question]:
    for q in questions:
        hits = tuple(hit for hit in q.hits if hit.chunk.document_id != q.document)
        yield Question(q.id, q.text, (), "", hits)


def auc(right: NDArray[np.float64], wrong: NDArray[np.float64]) -> float:
    order = np.sort(wrong)
    below = np.searchsorted(order, right, "left") + np.searchsorted(order, right, "right")
    return float(below.mean() / 2 / len(wrong))


def against(right: NDArray[np.float64], wrong: NDArray[np.float64]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    drawn = [auc(rng.choice(right, len(right)), rng.choice(wrong, len(wrong))) for _ in range(500)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    refused = {
        str(t): {
            "answerable": round(float((right < t).mean()), 4),
            "others": round(float((wrong < t).mean()), 4),
        }
        for t in THRESHOLDS
    }
    return {
        "auc": round(auc(right, wrong), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "questions": [len(right), len(wrong)],
        "refused_below": refused,
    }


# -- grounding ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """A true sentence and what a wrong one is made of."""

    sentence: str
    answer: str
    passage: str
    others: Sequence[str]
    """Answers to questions about other documents."""


async def of_answers(questions: Sequence[Question], limit: int, wrong: Any, shortened: Any) -> Any:
    called: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    took: list[float] = []
    sources = [s for q in questions if (s := _source(q, questions)) is not None]
    kinds = ("name", "number", "negation")
    for number, (question, source) in enumerate(sources[:limit]):
        good = shortened(source) if number % 2 else source.sentence
        bad, kind = "", ""
        for turn in range(3):
            kind = kinds[(number + turn) % 3]
            if bad := wrong(kind, good, source):
                break
        if not bad:
            continue
        for name, text in (("right", good), (kind, bad)):
            began = time.perf_counter()
            support = await grounded(text, whole_passages(question.hits[:READ]))
            took.append(time.perf_counter() - began)
            asked[name] += 1
            if any(not one.supported for one in support):
                called[name] += 1
                reasons.update(f"{name}: {o.reason}" for o in support if o.reason)
    hits, of = sum(called[k] for k in kinds), sum(asked[k] for k in kinds)
    low, high = wilson(hits, of)
    return {
        "answers": asked["right"],
        "recall": round(hits / of, 4),
        "recall_interval": [round(low, 4), round(high, 4)],
        "precision": round(hits / (hits + called["right"]), 4),
        "recall_by_kind": {k: [round(called[k] / max(1, asked[k]), 4), asked[k]] for k in kinds},
        "reasons": dict(reasons.most_common()),
        "ms": round(statistics.mean(took) * 1e3, 2),
    }


def _source(question: Question, questions: Sequence[Question]) -> tuple[Question, Source] | None:
    for hit in question.hits[:READ]:
        if hit.chunk.document_id != question.document:
            continue
        text = hit.chunk.text
        for start, end in sentences(text):
            for answer in question.answers:
                if answer in text[start:end] and len(answer) > 1:
                    at = hash_of(question.id)
                    others = [
                        q.answers[0]
                        for n in range(40)
                        if (q := questions[(at + 97 * n) % len(questions)]).answers
                        and q.document != question.document
                    ]
                    return question, Source(text[start:end], answer, text, others)
    return None


def hash_of(text: str) -> int:
    return zlib.crc32(text.encode())


def _shortened_en(source: Source) -> str:
    """Without its first or last clause, where the answer stands in what is left."""
    s = source.sentence
    head, comma, tail = s.rpartition(", ")
    if comma and source.answer in head and len(head) > 40:
        return head.rstrip(",;") + "."
    head, comma, tail = s.partition(", ")
    if comma and source.answer in tail and len(tail) > 40:
        return tail[0].upper() + tail[1:]
    return s


def _shortened_zh(source: Source) -> str:
    s = source.sentence
    head, comma, tail = s.rpartition("，")
    if comma and source.answer in head and len(head) > 12:
        return head + "。"
    head, comma, tail = s.partition("，")
    return tail if comma and source.answer in tail and len(tail) > 12 else s


_NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?![\w%]*[.,]?\d)")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+(?: [A-Z][a-z]+)*")
_BE = re.compile(
    r"\b(is|was|are|were|can|could|will|would|has|have|had|did|does|may|must)\b(?! not)"
)
_NOT = re.compile(r" not\b(?! only)")


def _number(good: str, source: Source) -> str:
    for found in _NUMBER.finditer(good):
        value = int(found[0].replace(",", "") or 0)
        for by in (3, 7, 11, 19, 1):
            made = str(value + by)
            if made not in source.sentence:
                return good[: found.start()] + made + good[found.end() :]
    return ""


def _wrong_en(kind: str, good: str, source: Source) -> str:
    if kind == "number":
        return _number(good, source)
    if kind == "negation":
        if _NOT.search(good):
            return _NOT.sub("", good, count=1)
        return _BE.sub(r"\1 not", good, count=1) if _BE.search(good) else ""
    names = list(_NAME.finditer(good))
    other = next(
        (
            o
            for o in source.others
            if re.fullmatch(r"[A-Z]\w+(?: [A-Z]\w+)*", o) and o not in source.passage
        ),
        "",
    )
    if source.answer in good and source.answer[:1].isupper() and other:
        return good.replace(source.answer, other)
    if names and other:
        return good[: names[0].start()] + other + good[names[0].end() :]
    return ""


_BE_ZH = re.compile(
    "(?<![不也都就还只便算可但若像乃])(?:是(?!否)|位于|属于|可以|能够|能|会(?![议员长社])|包括|具有|出生|担任|获得)"
)


def _wrong_zh(kind: str, good: str, source: Source) -> str:
    if kind == "number":
        return _number(good, source) or _number_in_zh(good, source)
    if kind == "negation":
        if found := re.search("没有|并非|不(?=[是能会可])", good):
            return good[: found.start()] + good[found.end() :]
        found = _BE_ZH.search(good)
        if not found:
            return ""
        word = "没有" if found[0] in ("出生", "担任", "获得", "包括", "具有") else "不"
        return good[: found.start()] + word + good[found.start() :]
    if not re.fullmatch(r"[\u4e00-\u9fff·]{2,10}", source.answer) or source.answer not in good:
        return ""
    other = next(
        (
            o
            for o in source.others
            if re.fullmatch(r"[\u4e00-\u9fff·]{2,10}", o)
            and o not in source.passage
            and abs(len(o) - len(source.answer)) <= 3
        ),
        "",
    )
    return good.replace(source.answer, other) if other else ""


def _number_in_zh(good: str, source: Source) -> str:
    found = re.search(r"(?<!\d)\d{1,4}(?=[年月日个名人位次岁米公%])", good)
    if not found:
        return ""
    made = str(int(found[0]) + 3)
    return "" if made in source.sentence else good[: found.start()] + made + good[found.end() :]


if __name__ == "__main__":
    main()
