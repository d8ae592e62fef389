"""Hits as pieces to read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from vivace.engine import Engine
from vivace.retrieve.passages import passages
from vivace.settings import load
from vivace.types import Chunk, Hit, Passage

TEXT = "".join(f"Sentence number {n:03} of the text. " for n in range(40))


def chunk(start: int, end: int, document: str = "a") -> Chunk:
    return Chunk(document, TEXT[start:end], start, end, id=1000 * (document != "a") + start)


def hits(*chunks: Chunk) -> list[Hit]:
    return [Hit(one, 1.0 - at / 10) for at, one in enumerate(chunks)]


def spans(found: Sequence[Passage]) -> list[tuple[str, int, int]]:
    for passage in found:
        one = passage.chunk
        assert TEXT[one.start : one.end] == one.text
    return [(p.chunk.document_id, p.chunk.start, p.chunk.end) for p in found]


def test_overlapping_and_touching_chunks_become_one() -> None:
    found = passages(hits(chunk(100, 200), chunk(150, 260), chunk(50, 100)), 4000)
    assert spans(found) == [("a", 50, 260)]
    assert found[0].ids == (50, 100, 150)
    assert found[0].score == 1.0
    assert found[0].chunk.id == 100  # the best hit's


def test_a_chunk_between_two_joins_them() -> None:
    found = passages(hits(chunk(0, 100), chunk(200, 300), chunk(90, 210)), 4000)
    assert spans(found) == [("a", 0, 300)]


def test_chunks_apart_or_of_other_documents_stay_apart() -> None:
    found = passages(hits(chunk(0, 100), chunk(101, 200), chunk(50, 150, "b")), 4000)
    assert spans(found) == [("a", 0, 100), ("a", 101, 200), ("b", 50, 150)]


def test_chunks_that_disagree_are_not_merged() -> None:
    other = Chunk("a", "x" * 100, 50, 150, id=7)
    assert len(passages(hits(chunk(0, 100), other), 4000)) == 2


def test_the_budget_counts_overlaps_once() -> None:
    assert spans(passages(hits(chunk(0, 100), chunk(50, 150)), 150)) == [("a", 0, 150)]
    assert spans(passages(hits(chunk(0, 100), chunk(50, 150)), 149)) == [("a", 0, 100)]
    # too large for what is left, yet a smaller one still fits
    three = hits(chunk(0, 100), chunk(300, 600), chunk(700, 740))
    assert spans(passages(three, 150)) == [("a", 0, 100), ("a", 700, 740)]
    assert spans(passages(hits(chunk(0, 100)), 10)) == [("a", 0, 100)]
    assert passages([], 100) == ()


def test_the_last_one_is_cut_to_what_is_left() -> None:
    assert spans(passages(hits(chunk(0, 100), chunk(300, 600)), 200)) == [
        ("a", 0, 100),
        ("a", 300, 400),
    ]
    # at the end that touches nothing
    assert spans(passages(hits(chunk(100, 200), chunk(190, 400)), 200)) == [("a", 100, 300)]
    assert spans(passages(hits(chunk(300, 400), chunk(100, 310)), 200)) == [("a", 200, 400)]


def test_neighbours_fill_what_is_left() -> None:
    order = [chunk(start, start + 120) for start in range(0, 1200, 100)]

    def beside(chunks: Sequence[Chunk]) -> dict[int, tuple[Chunk | None, Chunk | None]]:
        found: dict[int, tuple[Chunk | None, Chunk | None]] = {}
        for one in chunks:
            at = order.index(one)
            found[one.id] = (
                order[at - 1] if at else None,
                order[at + 1] if at + 1 < len(order) else None,
            )
        return found

    best, second = order[3], order[8]
    assert spans(passages(hits(best, second), 4000, beside)) == [("a", 200, 520), ("a", 700, 1020)]
    # what follows comes first, and the best passage's before the others'
    assert spans(passages(hits(best, second), 340, beside)) == [("a", 300, 520), ("a", 800, 920)]
    joined = passages(hits(order[3], order[5]), 4000, beside)
    assert spans(joined) == [("a", 200, 720)]
    assert joined[0].ids == (200, 300, 400, 500, 600)


@pytest.mark.parametrize("budget", [600, 1200])
async def test_passages_of_a_collection_stay_within_the_budget(budget: int) -> None:
    settings = load(embed__model="given:8", chunk__tokens=40, chunk__overlap=12)
    async with Engine(settings) as engine:
        docs = await engine.open("passages")
        texts = [TEXT[at : at + 180] for at in range(0, 1260, 140)]
        chunks = [
            Chunk("a", text, at, at + len(text))
            for at, text in zip(range(0, 1260, 140), texts, strict=True)
        ]
        await docs.add(chunks, np.eye(9, 8, dtype=np.float32) + 0.1)
        result = await docs.search("number 012", k=2)
        found = await docs.passages(result, budget)
        assert spans(found)
        assert sum(len(passage.chunk.text) for passage in found) <= budget
        assert "012" in found[0].chunk.text
        if budget == 1200:
            assert len(found[0].chunk.text) > 180
