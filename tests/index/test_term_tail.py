"""The newest chunks score as the main index will score them; a state never changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.index.term_tail import TermTail
from vivace.index.terms import TantivyTerms, TermSearcher
from vivace.types import Ids

NONE: Ids = np.empty(0, np.int64)
WORDS = [f"w{n}" for n in range(300)]
Chunks = dict[int, list[str]]


def chunks(n: int, *, first: int = 0, seed: int = 0, longest: int = 400) -> Chunks:
    rng = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(WORDS))]
    sizes = [rng.randint(0, longest) for _ in range(n)]
    return {first + at: rng.choices(WORDS, weights, k=size) for at, size in enumerate(sizes)}


def main_of(held: Chunks) -> TermSearcher:
    terms = TantivyTerms.volatile()
    for number, words in held.items():
        terms.add(number, words)
    terms.commit(1)
    return terms.searcher()


NO_MAIN = main_of({})


def tail_of(held: Chunks) -> TermTail:
    return TermTail().changed(held.items(), NONE)


def scored(main: TermSearcher, tail: TermTail, query: Sequence[str], k: int) -> dict[int, float]:
    found = tail.search(main, query, k)
    return dict(zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True))


@pytest.mark.parametrize("held", [0, 60, 400])
def test_a_score_hardly_changes_when_its_chunk_moves_to_the_main_index(held: int) -> None:
    old, new = chunks(held), chunks(150, first=1_000, seed=1)
    after = main_of(old | new)
    before, tail = main_of(old), tail_of(new)
    rng = random.Random(2)
    for _ in range(30):
        query = rng.choices(WORDS, k=6)
        now, later = (scored(m, t, query, 999) for m, t in ((before, tail), (after, TermTail())))
        assert now.keys() == later.keys()
        for number, score in now.items():
            # lengths of what the main index holds are weighed against its own average
            assert score == pytest.approx(later[number], rel=2e-5 if number >= 1_000 else 0.1)


def test_the_engines_statistics_count_what_it_scores_with() -> None:
    held = chunks(80)
    found = main_of(held).statistics(["w0", "w250", "w0", "absent"])
    assert found is not None
    assert found.chunks == 80
    assert found.tokens == pytest.approx(sum(map(len, held.values())), rel=1e-6)
    assert found.frequencies == {
        word: sum(word in words for words in held.values()) for word in ("w0", "w250", "absent")
    }
    assert main_of(held).statistics(["absent"]) is None
    assert main_of({}).statistics(["w0"]) is None


def test_without_a_tail_the_main_index_answers_as_ever() -> None:
    main = main_of(chunks(80))
    found, expected = TermTail().search(main, ["w1", "w2"], 9), main.search(["w1", "w2"], 9)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.scores.tolist() == expected.scores.tolist()


@pytest.mark.parametrize("query", [[], ["absent"]])
def test_a_query_that_matches_no_chunk_finds_nothing(query: list[str]) -> None:
    main, tail = main_of(chunks(9)), tail_of(chunks(9, first=20))
    assert tail.search(main, query, 5).ids.shape == (1, 0)
    assert tail.search(NO_MAIN, query, 5).ids.shape == (1, 0)
    assert tail.search(NO_MAIN, ["w0"], 0).ids.shape == (1, 0)
    assert TermTail().search(NO_MAIN, ["w0"], 5).ids.shape == (1, 0)


def test_the_filter_holds_for_both() -> None:
    main, tail = main_of(chunks(80)), tail_of(chunks(80, first=80, seed=3))
    allow = np.arange(140) % 3 == 0
    everything = tail.search(main, ["w0", "w7"], 500).ids[0]
    found = tail.search(main, ["w0", "w7"], 500, allow=allow).ids[0]
    assert sorted(found) == sorted(i for i in everything if i < 140 and allow[i])
    assert tail.search(main, ["w0"], 5, allow=np.zeros(0, np.bool_)).ids.size == 0


def test_a_chunk_that_both_hold_is_returned_once() -> None:
    held = chunks(100)
    main, tail = main_of(held), tail_of({number: held[number] for number in range(30, 60)})
    found = tail.search(main, ["w0", "w1"], 50).ids[0].tolist()
    assert len(found) == len(set(found)) == 50


def test_ties_go_to_the_lower_id_however_many() -> None:
    tail = tail_of({number: ["fox"] for number in range(900, 100, -1)})
    assert tail.search(NO_MAIN, ["fox"], 5).ids[0].tolist() == [101, 102, 103, 104, 105]


def test_two_states_may_follow_one() -> None:
    base = tail_of({1: ["fox"], 2: ["den"]})
    left = base.changed([(3, ["fox"])], NONE)
    right = base.changed([(4, ["fox", "hill"])], np.array([1, 77]))
    again = right.changed([(2, ["fox"])], NONE)
    assert sorted(base.search(NO_MAIN, ["fox"], 9).ids[0]) == [1]
    assert sorted(left.search(NO_MAIN, ["fox"], 9).ids[0]) == [1, 3]
    assert right.search(NO_MAIN, ["fox"], 9).ids[0].tolist() == [4]
    assert sorted(again.search(NO_MAIN, ["fox"], 9).ids[0]) == [2, 4]
    assert again.search(NO_MAIN, ["den"], 9).ids.size == 0
    assert [len(t) for t in (base, left, right, again)] == [2, 3, 2, 2]
    assert [sorted(t.ids) for t in (base, again)] == [[1, 2], [2, 4]]


def test_readers_never_see_what_is_being_added() -> None:
    held = list(chunks(400, longest=30).items())
    tail = TermTail().changed(held[:200], NONE)
    expected = tail.search(NO_MAIN, ["w0", "w1", "w2"], 50).ids.tolist()

    def read(_: int) -> bool:
        return bool(tail.search(NO_MAIN, ["w0", "w1", "w2"], 50).ids.tolist() == expected)

    with ThreadPoolExecutor(3) as pool:
        reading = pool.map(read, range(300))
        after = tail
        for chunk in held[200:]:
            after = after.changed([chunk], NONE)
        assert all(reading)
    assert len(after) == 400


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.lists(st.lists(st.sampled_from("abcde"), max_size=6), max_size=4), st.floats(0, 1)
        ),
        max_size=8,
    ),
    seed=st.integers(0, 99),
)
def test_any_history_scores_as_a_fresh_tail(
    steps: list[tuple[list[list[str]], float]], seed: int
) -> None:
    rng, live, tail, next_id = random.Random(seed), Chunks(), TermTail(), 0
    for added, share in steps:
        gone = [number for number in live if rng.random() < share]
        fresh = {next_id + at: words for at, words in enumerate(added)}
        next_id += len(added)
        tail = tail.changed(fresh.items(), np.array(gone, np.int64))
        live = {number: words for number, words in live.items() if number not in gone} | fresh
        assert sorted(tail.ids.tolist()) == sorted(live)
        assert len(tail) == len(live)
        fresh_tail, query = tail_of(live), ["a", "b", "a"]
        found, expected = (t.search(NO_MAIN, query, 9) for t in (tail, fresh_tail))
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.scores.tolist() == expected.scores.tolist()
