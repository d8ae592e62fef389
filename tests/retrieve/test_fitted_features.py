"""The features of a passage that the fitted reranker weighs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.retrieve.fitted import NAMES, features, features_of_hits
from vivace.types import Chunk, Hit


def of(question: str, *texts: str) -> list[dict[str, float]]:
    zeros = np.zeros(len(texts), np.float32)
    found = features(question, texts, zeros, zeros)
    assert found.shape == (len(texts), len(NAMES))
    assert found.dtype == np.float32
    return [dict(zip(NAMES, row, strict=True)) for row in found.tolist()]


def test_the_scores_of_both_sides_are_features() -> None:
    found = features(
        "x",
        ["a", "b", "c"],
        np.array([2, np.nan, 4], np.float32),
        np.array([0.5, -0.25, np.nan], np.float32),
    )
    assert found[:, :2].tolist() == [[0.5, 0.5], [0, -0.25], [1, 0]]
    assert not features("x", ["a"], np.zeros(1, np.float32), np.zeros(1, np.float32))[0, 0]


def test_features_of_english_words() -> None:
    question = "How do I reset my password quickly?"  # reset password quick
    exact, scattered, half, none = of(
        question,
        "Resetting passwords quickly is easy.",
        "Quick answers: nobody knows a password here before the whole machine was reset.",
        "Mountains rise. Every password is secret.",
        "The volcano erupted.",
    )
    assert exact["coverage"] == exact["phrase"] == exact["proximity"] == exact["position"] == 1
    assert scattered["coverage"] == 1
    assert scattered["phrase"] == 0
    assert 0 < scattered["proximity"] < 0.5
    assert half["coverage"] == pytest.approx(1 / 3)
    assert half["proximity"] == half["phrase"] == 0
    assert 0 < half["position"] < 1
    assert [none[name] for name in NAMES[2:6]] == [0, 0, 0, 0]
    assert none["length"] == pytest.approx(np.log(3))


def test_features_of_chinese_characters() -> None:
    exact, scattered, none = of(
        "年假天数", "年假天数为三十。", "假如天气好，数一数今年。", "火山喷发"
    )
    assert exact["coverage"] == exact["phrase"] == exact["proximity"] == exact["position"] == 1
    assert exact["length"] == pytest.approx(np.log(1 + 7))
    assert scattered["coverage"] == 1
    assert scattered["phrase"] == 0
    assert scattered["proximity"] == pytest.approx(4 / 10)
    assert none["coverage"] == none["position"] == 0
    mixed = of("GPU 显存", "显卡的 GPU 显存不足")[0]
    assert mixed["coverage"] == mixed["phrase"] == mixed["proximity"] == 1
    assert of("檢索", "检索")[0]["phrase"] == 1


@pytest.mark.parametrize("question", ["", "???", "the", "\ud800"])
def test_a_question_without_words_has_finite_features(question: str) -> None:
    for row in of(question, "the volcano", "", "火山"):
        assert all(np.isfinite(value) for value in row.values())
        assert row["phrase"] == 0
    assert of(question) == []


@given(st.lists(st.sampled_from(["red", "grass", "stone", "cloud", "volcano"]), max_size=12))
def test_proximity_is_by_the_shortest_window(words: list[str]) -> None:
    different = set(words) - {"volcano"}
    expected = 0.0
    if len(different) > 1:
        ends = itertools.combinations(range(len(words) + 1), 2)
        shortest = min(j - i for i, j in ends if different <= set(words[i:j]))
        expected = len(different) / shortest
    found = of("red grass stone cloud", " ".join(words))[0]
    assert found["proximity"] == pytest.approx(expected)


def test_hits_have_the_scores_of_their_stages() -> None:
    hits = [
        Hit(Chunk("a", "green grass"), 1, {"bm25": 4.0, "cosine": 0.5}),
        Hit(Chunk("b", "a stone"), 0.5, {"cosine": 0.25}),
    ]
    found = features_of_hits("green grass", hits)
    assert found[:, :4].tolist() == [[1, 0.5, 1, 1], [0, 0.25, 0, 0]]
    assert features_of_hits("green grass", []).shape == (0, len(NAMES))


def test_scores_of_another_length_than_the_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="for 1 texts"):
        features("x", ["a"], np.zeros(2, np.float32), np.zeros(1, np.float32))
