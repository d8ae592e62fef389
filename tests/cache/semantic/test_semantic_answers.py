"""What is served, what is answered anew, and what is forgotten."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vivace.cache.semantic.cache import SemanticCache, SemanticEntry, SharedBudget, same_answer
from vivace.errors import EmbeddingError
from vivace.trace import Trace
from vivace.types import Answer, Chunk, Citation, Decision, Usage, Vector, Vectors

A = Answer("In 1889.", (), usage=Usage(9, 9), cost=1.0)
SCOPE = b"scope"
FIRST = "When was the tower built?"
AGAIN = "when was a tower built"
GROUPS = [(f"what is thing{n} for?", f"what are thing{n} for") for n in range(200)]


def vector(text: str) -> Vector:
    """One for all questions that share their longest word; every other one is far off."""
    longest = max(text.rstrip("?").split(), key=lambda word: (len(word), word))
    seed = int.from_bytes(hashlib.blake2b(longest.encode(), digest_size=4).digest(), "big")
    found = np.random.default_rng(seed).standard_normal(64).astype(np.float32)
    unit: Vector = found / np.linalg.norm(found)
    return unit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def embed(texts: Sequence[str]) -> Vectors:
    return np.stack([vector(text) for text in texts])


def cache(**given: Any) -> SemanticCache:
    settings: dict[str, Any] = {
        "model": "m",
        "reads": lambda of: of == "en",
        "embed": embed,
        "groups": GROUPS,
        "share": 0.0,
    }
    return SemanticCache(0.01, **{**settings, **given})


async def always(_: SemanticEntry) -> bool:
    return True


async def find(kept: SemanticCache, text: str, scope: bytes = SCOPE) -> Answer | None:
    return await kept.find(text, vector(text), scope, always)


async def served(**given: Any) -> SemanticCache:
    """One that has seen enough to serve."""
    kept = cache(**given)
    found = await kept.calibrated("en")
    assert found is not None
    assert found.threshold is not None
    kept.keep(FIRST, vector(FIRST), SCOPE, A, "v1")
    for n in range(600):
        await kept.find(f"who is number{n}?", vector(f"number{n}"), SCOPE, always)
    return kept


async def test_a_question_in_other_words_gets_the_answer() -> None:
    kept = await served()
    found = await find(kept, AGAIN)
    assert found == replace(A, cached="semantic", cached_question=FIRST, usage=None, cost=None)
    assert kept.statistics()["languages"]["en"]["threshold"] is not None


@pytest.mark.parametrize("other", ["Where was the tower built?", "When was the tower not built?"])
async def test_one_that_asks_something_else_does_not(other: str) -> None:
    trace = Trace()
    kept = await served(trace=trace)
    assert await find(kept, other) is None
    assert any(name.startswith("semantic.differs") for name in trace.counters())


async def test_nothing_crosses_scopes() -> None:
    kept = await served()
    assert await find(kept, AGAIN, b"other") is None
    assert await find(kept, FIRST, b"other") is None


async def test_nothing_but_an_equal_question_is_served_in_the_beginning() -> None:
    kept = cache()
    assert await find(kept, FIRST) is None  # calibrating
    await kept.calibrated("en")
    kept.keep(FIRST, vector(FIRST), SCOPE, A, "v1")
    assert await find(kept, AGAIN) is None
    equal = await find(kept, " when was the Tower built")
    assert equal is not None
    assert equal.cached == "semantic"


async def test_what_was_answered_anew_is_judged() -> None:
    trace = Trace()
    kept = cache(trace=trace)
    await kept.calibrated("en")
    kept.keep(FIRST, vector(FIRST), SCOPE, A, "v1")
    assert await find(kept, AGAIN) is None
    kept.keep(AGAIN, vector(AGAIN), SCOPE, Answer("In 1925.", ()), "v1")
    assert trace.counters()["semantic.wrong"] == 1
    assert kept.statistics()["languages"]["en"]["wrong"] == 1
    kept.judge(AGAIN, SCOPE, A)  # only once
    assert "semantic.right" not in trace.counters()


async def test_an_answer_whose_sources_changed_is_forgotten() -> None:
    kept = await served()
    asked = []

    async def changed(entry: SemanticEntry) -> bool:
        asked.append(entry.sources)
        return False

    assert await kept.find(AGAIN, vector(AGAIN), SCOPE, changed) is None
    assert asked == ["v1"]
    assert len(kept) == 0
    assert await find(kept, FIRST) is None


async def test_an_answer_expires() -> None:
    clock = Clock()
    kept = await served(clock=clock, seconds=10)
    clock.now = 9
    assert await find(kept, AGAIN) is not None
    clock.now = 11
    assert await find(kept, AGAIN) is None
    assert len(kept) == 0


async def test_what_fell_short_is_not_kept() -> None:
    kept = cache()
    for answer in (
        replace(A, found=False),
        replace(A, degraded=("late",)),
        replace(A, finish_reason="length"),
    ):
        kept.keep(FIRST, vector(FIRST), SCOPE, answer, "v1")
    assert len(kept) == 0


async def test_the_one_unused_for_longest_goes() -> None:
    kept = cache(entries=2)
    await kept.calibrated("en")
    for text in ("what is alpha?", "what is beta?"):
        kept.keep(text, vector(text), SCOPE, A, "v1")
    assert await find(kept, "what is alpha?") is not None
    kept.keep("what is gamma?", vector("gamma"), SCOPE, A, "v1")
    assert await find(kept, "what is beta?") is None
    assert await find(kept, "what is alpha?") is not None
    kept.keep("what is alpha?", vector("alpha"), SCOPE, A, "v2")
    assert len(kept) == 2
    kept.clear()
    assert len(kept) == 0
    assert await find(kept, "what is alpha?") is None


async def test_it_switches_itself_off_and_says_why() -> None:
    told: list[Decision] = []
    kept = cache(decide=told.append, groups=None, reads=lambda of: of != "zh")
    assert await find(kept, "日本的首都在哪里？") is None
    assert await find(kept, "これは何ですか") is None
    assert "zh: the embedding model m does not read it" in kept.disabled
    assert "ja: there are no pairs" in kept.disabled
    assert [decision.after for decision in told] == ["off", "off"]
    kept.keep("日本的首都在哪里？", None, SCOPE, A, "v1")
    assert await kept.find("日本的首都在哪里", None, SCOPE, always) is not None


async def test_too_few_pairs_for_the_bound() -> None:
    kept = cache(groups=GROUPS[:20])
    found = await kept.calibrated("en")
    assert found is not None
    assert found.threshold is None
    assert "at best" in kept.disabled


async def test_a_model_that_is_away_is_asked_again() -> None:
    away = True

    async def failing(texts: Sequence[str]) -> Vectors:
        if away:
            raise EmbeddingError("away", fix="wait")
        return await embed(texts)

    trace = Trace()
    kept = cache(embed=failing, trace=trace)
    assert await kept.calibrated("en") is None
    assert trace.counters()["semantic.uncalibrated"] == 1
    away = False
    assert await kept.calibrated("en") is not None
    await kept.close()


async def test_some_hits_are_answered_anew() -> None:
    kept = await served(share=0.5)
    answers = []
    for _ in range(200):
        answers.append(await find(kept, AGAIN))
        kept.judge(AGAIN, SCOPE, A)
    assert 60 < answers.count(None) < 140


def _cited(text: str, *ids: int) -> Answer:
    cited = (Citation(1, Chunk("d", "x", id=id), 0, 1, "x") for id in ids)
    return Answer(text, (), tuple(cited))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Answer("Paris.", ()), Answer("Paris.", ()), True),
        (Answer("It is the city of Paris.", ()), Answer("The city Paris, it is.", ()), True),
        (Answer("Paris.", ()), Answer("Lyon.", ()), False),
        (Answer("Built in 1889.", ()), Answer("Built in 1989.", ()), False),
        (Answer("No.", (), found=False), Answer("Paris.", ()), False),
        (Answer("No.", (), found=False), Answer("Not said.", (), found=False), True),
        (_cited("A tall tower.", 1, 2), _cited("Iron, mostly.", 2), True),
        (_cited("A tall tower.", 1), _cited("Iron, mostly.", 2), False),
    ],
)
def test_when_two_answers_say_the_same(one: Answer, other: Answer, same: bool) -> None:
    assert same_answer(one, other) is same
    assert same_answer(other, one) is same


async def test_all_that_share_a_room_keep_to_its_bytes() -> None:
    clock, room = Clock(), SharedBudget(200_000)
    one, other = (cache(room=room, clock=clock) for _ in range(2))
    for n in range(300):
        clock.now += 1
        kept, scope = (one, other)[n % 2], b"filter %d" % n
        kept.keep(f"what is number{n}?", vector(f"number{n}"), scope, A, None)
        # used again and again
        assert await one.find("what is number0?", None, b"filter 0", always) is not None
        assert room.nbytes <= room.capacity
    assert room.nbytes == sum(kept.statistics()["bytes"] for kept in (one, other))
    # the oldest have gone, of both
    assert await one.find("what is number2?", None, b"filter 2", always) is None
    assert await other.find("what is number299?", None, b"filter 299", always) is not None
    assert 10 < len(one) + len(other) < 150
    one.clear()
    other.clear()
    assert room.nbytes == 0


async def test_bytes_are_those_of_what_is_there() -> None:
    kept = cache()
    for n in range(40):
        kept.keep(f"what is number{n}?", vector(f"number{n}"), b"%d" % (n % 7), A, None)
    for n in range(40):
        assert kept.nbytes > 0
        assert await kept.find(f"what is number{n}?", None, b"%d" % (n % 7), never) is None
    assert kept.nbytes == 0


async def never(_: SemanticEntry) -> bool:
    return False


async def test_what_cannot_be_calibrated_says_so_and_answers_equal_questions() -> None:
    async def broken(texts: Sequence[str]) -> Vectors:
        raise ValueError("no vectors today")

    kept = cache(embed=broken)
    kept.keep(FIRST, vector(FIRST), SCOPE, A, None)
    assert await kept.calibrated("en") is None
    assert "no vectors today" in kept.disabled
    found = await find(kept, FIRST)
    assert found is not None


async def test_hits_that_were_not_served_hold_no_answer() -> None:
    """Their answers may never come: the model failed, the caller left."""
    room = SharedBudget(200_000)
    kept = cache(room=room)
    await kept.calibrated("en")
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(300):
            scope = b"filter %d" % n
            kept.keep(FIRST, vector(FIRST), scope, replace(A, text=f"{n}" + 20_000 * "x"), None)
            assert await find(kept, AGAIN, scope) is None
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert room.nbytes <= room.capacity
    assert grown < 4 * room.capacity


async def test_a_hit_whose_answer_has_gone_is_not_judged() -> None:
    trace = Trace()
    kept = cache(trace=trace, entries=1)
    await kept.calibrated("en")
    kept.keep(FIRST, vector(FIRST), SCOPE, A, None)
    assert await find(kept, AGAIN) is None
    kept.keep("what is alpha?", vector("alpha"), SCOPE, A, None)
    kept.keep(AGAIN, vector(AGAIN), SCOPE, Answer("In 1925.", ()), None)
    assert trace.counters()["semantic.shadow"] == 1
    assert not {"semantic.right", "semantic.wrong"} & set(trace.counters())


@pytest.mark.parametrize("words", ["notice period ", "通知期限是多久", "3 4 15 92 6 "])
def test_a_long_question_counts_as_what_it_takes(words: str) -> None:
    kept = cache()
    kept.keep(words, None, SCOPE, A, None)  # what is loaded once
    kept.clear()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(20):
            question = " ".join(f"{word}{n}{at}" for at, word in enumerate(300 * [words]))
            kept.keep(question, None, SCOPE, A, None)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown <= kept.nbytes


def _raise(*_: object) -> Any:
    raise RuntimeError("broken today")


async def test_an_embedder_that_cannot_say_what_it_reads_fails_no_question() -> None:
    trace = Trace()
    kept = cache(reads=_raise, trace=trace)
    assert await find(kept, FIRST) is None
    assert "broken today" in kept.disabled
    assert trace.counters()["semantic.uncalibrated"] == 1
    kept.keep(FIRST, vector(FIRST), SCOPE, A, None)
    assert await find(kept, FIRST) is not None


async def test_a_decision_that_cannot_be_told_changes_nothing_else() -> None:
    trace = Trace()

    async def broken(texts: Sequence[str]) -> Vectors:
        raise ValueError("no vectors today")

    kept = cache(embed=broken, decide=_raise, trace=trace)
    assert await find(kept, FIRST) is None
    assert await kept.calibrated("en") is None
    assert "no vectors today" in kept.disabled
    assert trace.counters()["semantic.untold"] == 1
    assert await find(kept, FIRST) is None
