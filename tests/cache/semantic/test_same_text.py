"""Which texts are one question before anything is compared."""

from __future__ import annotations

import pytest

from vivace.cache.semantic.guard import difference, exact_text, form


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How long is 10² meters?", "How long is 102 meters?"),
        ("What is 2.5³?", "What is 2.53?"),
        ("What is 5!", "What is 5?"),
        ("Is 1½ enough?", "Is 11/2 enough?"),
        ("What is a 5 mW laser?", "What is a 5 MW laser?"),
        ("Who leads the US?", "Who leads the us?"),
    ],
)
def test_what_only_looks_alike_is_another_question(one: str, other: str) -> None:
    assert exact_text(one) != exact_text(other)
    assert difference(form(one), form(other))
    assert difference(form(other), form(one))


def test_units_that_differ_in_case_alone() -> None:
    assert exact_text("How many Mb are free?") != exact_text("How many MB are free?")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What's up?!", " what's  up"),
        ("２＋２は", "2+2は"),
        ("Is ½ enough?", "Is 1⁄2 enough?"),
        ("什麼是緩存？", "什么是缓存?"),
    ],
)
def test_what_is_written_otherwise_is_the_same(one: str, other: str) -> None:
    assert exact_text(one) == exact_text(other)
    assert not difference(form(one), form(other))
