"""What do the rules of prompts cost and keep?

    python -m benchmarks.compression [--limit N] [--json]

On squad2dev_en and cmrc_zh, with the five best passages of each question as its full context. An
answer is kept where one of the question's answer strings still stands in what the prompt shows; the
share is of the questions whose full context has one. `compression` and `truncation` (by rank, the
last passage cut) have the same budget: half of the full context's tokens, fences included. The
weights were fitted on the even questions; `held_out` are the odd ones. Tokens are the estimates of
`text.tokens`.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.report import show
from benchmarks.retrieved import Question, retrieved, wilson
from vivace.generate.compression import (
    WEIGHTS,
    Excerpt,
    SentenceWeights,
    compress,
    deduplicated,
    ends_first,
    truncate,
    whole_passages,
    within_budget,
)
from vivace.generate.prompts import PromptBuilder
from vivace.settings import Answering, Generate

READ = 5
SHARE = 0.5
SETS = ("squad2dev_en", "cmrc_zh")
_GAPS = re.compile(r"\s+")
cost = PromptBuilder(Generate(), Answering()).cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=0, help="use the first N questions of a set")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    show(asyncio.run(measure(options.limit)), as_json=options.json)


async def measure(limit: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"share": SHARE, "passages": READ}
    for name in SETS:
        questions = await retrieved(name)
        figures[name] = of_set(questions[:limit] if limit else questions)
    return figures


def of_set(questions: Sequence[Question]) -> dict[str, Any]:
    full = {q.id: whole_passages(q.hits[:READ]) for q in questions}
    answered = [q for q in questions if holds(full[q.id], q)]
    odd = answered[1::2]
    return {
        "questions": len(questions),
        "full_context_has_answer": len(answered),
        "compression": kept(answered, full, WEIGHTS),
        "compression_held_out": kept(odd, full, WEIGHTS),
        "truncation": truncation(answered, full),
        "truncation_held_out": truncation(odd, full),
        "without": {
            part: kept(odd, full, replace(WEIGHTS, **{part: 0.0}))["kept"]
            for part in ("passage", "shared", "held", "kind", "length")
        },
        "deduplication": deduplication(answered, full),
        "ordering": ordering(answered, full),
        "budget": budget(answered, full),
    }


def holds(excerpts: Sequence[Excerpt], question: Question) -> bool:
    # within one passage, whatever the line breaks
    texts = [_GAPS.sub(" ", excerpt.text) for excerpt in excerpts]
    return any(_GAPS.sub(" ", answer) in text for answer in question.answers for text in texts)


def tokens(excerpts: Sequence[Excerpt]) -> int:
    return sum(map(cost, excerpts))


def share(hits: int, of: int, **more: Any) -> dict[str, Any]:
    low, high = wilson(hits, of)
    return {"kept": round(hits / of, 4), "interval": [round(low, 4), round(high, 4)], **more}


def kept(
    questions: Sequence[Question], full: dict[str, tuple[Excerpt, ...]], weights: SentenceWeights
) -> dict[str, Any]:
    hits, used, began = 0, [], time.perf_counter()
    for question in questions:
        excerpts = full[question.id]
        everything = tokens(excerpts)
        made = compress(question.text, excerpts, round(SHARE * everything), cost, weights)
        hits += holds(made, question)
        used.append(tokens(made) / everything)
    each = (time.perf_counter() - began) / len(questions)
    return share(
        hits, len(questions), tokens=round(statistics.mean(used), 3), ms=round(each * 1e3, 2)
    )


def truncated(excerpts: Sequence[Excerpt], budget: int) -> tuple[Excerpt, ...]:
    """The best passages that fit, the next one cut: what a budget does without compression."""
    made = within_budget(excerpts, budget, cost)
    left = budget - tokens(made)
    if len(made) < len(excerpts) and left > cost(replace(excerpts[len(made)], spans=())):
        made = (*made, truncate(excerpts[len(made)], left, cost))
    return made


def truncation(
    questions: Sequence[Question], full: dict[str, tuple[Excerpt, ...]]
) -> dict[str, Any]:
    hits, used = 0, []
    for question in questions:
        excerpts = full[question.id]
        everything = tokens(excerpts)
        made = truncated(excerpts, round(SHARE * everything))
        hits += holds(made, question)
        used.append(tokens(made) / everything)
    return share(hits, len(questions), tokens=round(statistics.mean(used), 3))


def deduplication(
    questions: Sequence[Question], full: dict[str, tuple[Excerpt, ...]]
) -> dict[str, Any]:
    """Tokens spared, and the answers kept: all of them, as what is left out stands elsewhere."""
    before = after = hits = 0
    for question in questions:
        made = deduplicated(full[question.id])
        before += tokens(full[question.id])
        after += tokens(made)
        hits += holds(made, question)
    return share(hits, len(questions), tokens=round(after / before, 4))


def ordering(questions: Sequence[Question], full: dict[str, tuple[Excerpt, ...]]) -> dict[str, Any]:
    """How far the answer's passage is from the nearer end, in passages, mean: by rank, by ends."""
    far: dict[str, list[int]] = {"rank": [], "ends": []}
    ten = [whole_passages(q.hits) for q in questions]
    for question, excerpts in zip(questions, ten, strict=True):
        for name, order in (("rank", excerpts), ("ends", ends_first(excerpts))):
            at = next((n for n, e in enumerate(order) if holds([e], question)), None)
            if at is not None:
                far[name].append(min(at, len(order) - 1 - at))
    inner = {n: round(sum(f >= 2 for f in found) / len(found), 4) for n, found in far.items()}
    means = {n: round(statistics.mean(found), 3) for n, found in far.items()}
    return {"passages": 10, "mean_distance_to_an_end": means, "share_in_the_middle": inner}


def budget(questions: Sequence[Question], full: dict[str, tuple[Excerpt, ...]]) -> dict[str, Any]:
    """Answers kept at smaller shares of the tokens: compressed, and truncated by rank."""
    found: dict[str, Any] = {}
    some = questions[:1000]
    for part in (0.25, 0.35, 0.5, 0.7):
        both = [0, 0]
        for question in some:
            excerpts = full[question.id]
            most = round(part * tokens(excerpts))
            both[0] += holds(compress(question.text, excerpts, most, cost), question)
            both[1] += holds(truncated(excerpts, most), question)
        found[str(part)] = {
            "compression": round(both[0] / len(some), 4),
            "truncation": round(both[1] / len(some), 4),
        }
    return found


if __name__ == "__main__":
    main()
