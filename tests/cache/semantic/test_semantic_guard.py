"""What the guard tells apart, and what it lets pass as the same question."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.cache.semantic.guard import difference, folded_text, form

ROOT = Path(__file__).parents[3]


def differs(one: str, other: str) -> str:
    found = difference(form(one), form(other))
    assert found == difference(form(other), form(one))
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I gain weight?", "how can I gain weight"),
        ("What is the best way to learn guitar?", "How do I learn guitar?"),
        ("What are the best books of 2016?", "Which are the best book of 2016?"),
        ("What is infinity divided by 0?", "What is infinity divided by zero?"),
        ("What's the time difference?", "What’s the time difference"),
        ("怎么降低血压？", "如何降低血压"),
        ("狗能不能吃葡萄？", "狗能吃葡萄吗？"),
        ("這個電腦怎麼重啟", "这个电脑怎么重启？"),
        ("二〇二〇年奥运会在哪里", "2020年奥运会在哪里？"),
    ],
)
def test_what_asks_the_same_passes(one: str, other: str) -> None:
    assert differs(one, other) == ""


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("Who won in 2012?", "Who won in 2016?", "number"),
        ("Can I take two pills?", "Can I take three pills?", "number"),
        ("Is it open on Monday?", "Is it open on Tuesday?", "unit"),
        ("How many km is a marathon?", "How many miles is a marathon?", "unit"),
        ("Which foods contain gluten?", "Which foods don't contain gluten?", "negation"),
        ("What can I cook with eggs?", "What can I cook without eggs?", "negation"),
        ("How is Messi better than Ronaldo?", "How is Ronaldo better than Messi?", "order"),
        ("SingleFlight from Paris?", "SingleFlight to Paris?", "turn"),
        ("who is the population of Austria", "where is the population of Austria", "asks"),
        ("Who was the president?", "Who is the president?", "asks"),
        ("What is the GDP of Brazil?", "What is the GDP of Chile?", "name"),
        ("How do I read a file in C?", "How do I read a file in C++?", "name"),
        ("What is the net income?", "What is the gross income?", "word"),
        ("Why do women shave?", "Why do young women shave?", "addition"),
        ("When was it first held?", "When was it first held in the US?", "addition"),
        ("Who runs the WHO?", "Who runs the USA?", "word"),
        ("第10条是什么？", "第100条是什么？", "number"),
        ("孕妇能吃什么？", "孕妇不能吃什么？", "negation"),
        ("上海到北京的火车", "北京到上海的火车", "order"),
        ("左眼跳是什么意思？", "右眼跳是什么意思？", "turn"),
        ("一公里等于多少米？", "一公斤等于多少米？", "unit"),
        ("长城是谁修的？", "长城是什么时候修的？", "asks"),
        ("清华大学怎么样？", "北京大学怎么样？", "turn"),
        ("什么是日食？", "日食 what", "language"),
        ("これは何ですか", "それは何ですか", "unread"),
    ],
)
def test_what_changes_the_answer_is_named(one: str, other: str, why: str) -> None:
    if why in ("language", "unread", "turn", "unit", "word"):
        assert differs(one, other)
    else:
        assert differs(one, other) == why


def test_no_hard_pair_passes() -> None:
    """422 pairs of which one word changes the answer: see docs/decisions/0033."""
    lines = (ROOT / "benchmarks/data/hard_pairs.tsv").read_text("utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    assert len(pairs) >= 400
    assert len({tuple(sorted(pair[:2])) for pair in pairs}) == len(pairs)
    assert [pair for pair in pairs if not differs(pair[0], pair[1])] == []


def test_folding_keeps_what_counts() -> None:
    assert folded_text("  What IS　Ｃ？ ") == "what is c"
    assert folded_text("C++?") != folded_text("C?")
    assert folded_text("is it 3.5?") != folded_text("is it 35?")


@pytest.mark.parametrize("text", ["", "?", "???", "的", "1", "\ud800", "a" * 20_000])
def test_any_text_has_a_form(text: str) -> None:
    assert difference(form(text), form(text)) == ""
    assert difference(form(text), form("What is this thing called love?"))
