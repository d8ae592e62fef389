"""Phrases and exclusions in a question."""

from __future__ import annotations

import pytest

from tests.retrieve.world import world
from vivace.retrieve.query import parse
from vivace.types import Query


@pytest.mark.parametrize(
    ("text", "rest", "phrases", "excluded"),
    [
        ("plain words", "plain words", (), ()),
        ('what is "Machine  Learning"', "what is Machine  Learning", ("machine learning",), ()),
        ("“电池续航”怎么样", "电池续航 怎么样", ("电池续航",), ()),
        ("「統計」很好", "統計 很好", ("统计",), ()),
        ("apple -pie juice", "apple juice", (), ("pie",)),
        ('apple -"apple pie" juice', "apple juice", (), ("apple pie",)),
        ("苹果 -手机", "苹果", (), ("手机",)),
        ("-5 degrees - hot", "-5 degrees - hot", (), ()),
        ("what does --all do, or -v", "what does --all do, or -v", (), ()),
        ("well-known", "well-known", (), ()),
        ("-only", "-only", (), ()),
        ('an open " quote', 'an open " quote', (), ()),
        ('""', '""', (), ()),
    ],
)
def test_a_question_is_split_into_words_phrases_and_exclusions(
    text: str, rest: str, phrases: tuple[str, ...], excluded: tuple[str, ...]
) -> None:
    parsed = parse(text)
    assert (" ".join(parsed.text.split()), parsed.phrases, parsed.excluded) == (
        " ".join(rest.split()),
        phrases,
        excluded,
    )


def test_phrases_are_whole_words_and_folded() -> None:
    parsed = parse('"Café au lait"')
    assert parsed.has_phrases("A cafe  AU-lait, please")
    assert not parsed.has_phrases("cafe au laitier")
    assert parse("「統計學」").has_phrases("他学统计学很久了")
    assert parse("-art galleries").excludes("modern art")
    assert not parse("-art galleries").excludes("a part of it")


async def test_keyword_candidates_contain_the_phrase() -> None:
    with world() as w:
        plain = await w.searcher.search(Query("machine learning"))
        quoted = await w.searcher.search(Query('"machine learning"'))
        both = {hit.chunk.id for hit in plain.hits if hit.stages["bm25"] > 0}
        assert {4, 5} <= both
        assert [hit.chunk.id for hit in quoted.hits if hit.stages["bm25"] > 0] == [4]
        assert quoted.degraded == ()


async def test_a_phrase_found_nowhere_is_named_and_ignored() -> None:
    with world() as w:
        result = await w.searcher.search(Query('"learning garden"'))
        assert result.hits
        assert result.degraded == (
            'no passage holds "learning garden" word for word: searched without it',
        )


async def test_exclusions_drop_hits_and_others_take_their_place() -> None:
    with world() as w:
        result = await w.searcher.search(Query("red apple -teacher", k=5))
        assert len(result.hits) == 5
        assert not [hit for hit in result.hits if "teacher" in hit.chunk.text]
        assert w.embedder.calls == [["red apple"]]  # without the operator
