"""The bound is Clopper and Pearson's; thresholds come from pairs, and are taken back by traffic."""

from __future__ import annotations

import random

import numpy as np
import pytest

from vivace.cache.semantic.calibration import (
    FLOOR,
    calibrate,
    holds,
    lower_bound,
    shipped,
    thresholds,
    upper_bound,
)
from vivace.cache.semantic.shadow import Shadow
from vivace.types import Decision


@pytest.mark.parametrize(
    ("wrong", "requests", "upper"),
    # scipy.stats.beta.ppf(0.95, wrong + 1, requests - wrong)
    [
        (0, 10, 0.258866),
        (1, 10, 0.394163),
        (0, 299, 0.009969),
        (3, 1000, 0.007735),
        (9, 10, 0.9949),
    ],
)
def test_the_bound_is_that_of_the_tables(wrong: int, requests: int, upper: float) -> None:
    assert upper_bound(wrong, requests) == pytest.approx(upper, abs=1e-4)
    assert holds(wrong, requests, upper + 1e-3, 0.95)
    assert not holds(wrong, requests, upper - 1e-3, 0.95)


def test_bounds_of_little() -> None:
    assert upper_bound(0, 0) == upper_bound(5, 5) == 1.0
    assert lower_bound(0, 7) == 0.0
    assert lower_bound(5, 5) == pytest.approx(0.05**0.2, abs=1e-4)
    assert not holds(0, 0, 0.5)


def test_the_bound_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    for truth in (0.003, 0.01, 0.2):
        seen = rng.binomial(400, truth, 2000)
        counts = {int(k): upper_bound(int(k), 400) >= truth for k in np.unique(seen)}
        covered = np.mean([counts[int(k)] for k in seen])
        assert covered >= 0.94


def test_the_shipped_questions() -> None:
    for of in ("en", "zh"):
        groups = shipped(of)
        texts = [text for group in groups for text in group]
        assert len(texts) == len(set(texts)) >= 200
        assert all(len(group) >= 2 for group in groups)
    assert shipped("ja") == ()


def test_a_model_that_tells_groups_apart_is_given_the_lowest_threshold() -> None:
    groups = shipped("en")
    sizes = [len(group) for group in groups]
    vectors = np.repeat(np.eye(len(groups), dtype=np.float32), sizes, axis=0)
    found = calibrate(groups, vectors, 0.01)
    assert found.threshold == thresholds(FLOOR)[-1]
    assert found.wrong == 0 < found.hits
    assert found.upper <= 0.01


def test_what_is_taken_for_the_same_at_any_similarity_gets_no_threshold() -> None:
    groups = [(f"tell me about thing{n}", f"about thing{n}") for n in range(40)]
    groups += [("please tell me some more", "tell me some more")] * 40
    vectors = np.repeat(np.eye(41, dtype=np.float32), [2] * 40 + [80], axis=0)
    assert calibrate(groups, vectors, 0.01).threshold is None


def _traffic(shadow: Shadow, requests: int, right: dict[float, float], seed: int = 0) -> list[bool]:
    """Requests of which a third hit at the scores of `right`; whether each one served was right."""
    rng = random.Random(seed)
    served = []
    for _ in range(requests):
        shadow.request()
        if rng.random() > 1 / 3:
            continue
        score = rng.choice(list(right))
        true = rng.random() < right[score]
        if shadow.take(score):
            served.append(true)
        else:
            shadow.judged(score, true)
    return served


def test_nothing_is_served_before_the_bound_holds() -> None:
    shadow = Shadow(0.01, 0.9)
    assert _traffic(shadow, 458, {0.95: 1.0}) == []
    assert shadow.threshold is None
    assert len(_traffic(shadow, 1000, {0.95: 1.0})) > 250
    assert shadow.threshold == 0.9


def test_the_threshold_rises_above_what_is_wrong() -> None:
    told: list[Decision] = []
    shadow = Shadow(0.01, 0.9, decide=told.append)
    served = _traffic(shadow, 6000, {0.99: 1.0, 0.95: 1.0, 0.92: 0.7})
    assert shadow.threshold is not None
    assert 0.92 < shadow.threshold <= 0.95
    assert served.count(False) / 6000 <= 0.01
    assert told
    assert told[0].what == "semantic"


def test_what_turns_wrong_is_noticed() -> None:
    told: list[Decision] = []
    shadow = Shadow(0.01, 0.9, decide=told.append)
    _traffic(shadow, 2000, {0.97: 1.0})
    assert shadow.threshold is not None
    _traffic(shadow, 12_000, {0.97: 0.5}, seed=1)
    assert shadow.threshold is None
    assert "were others" in shadow.disabled
    assert told[-1].after == "off"
    before = shadow.statistics()
    assert not shadow.take(0.99)
    shadow.judged(0.99, True)
    assert shadow.statistics() == before


def test_it_gives_up_where_nothing_can_be_shown() -> None:
    shadow = Shadow(0.000_1, 0.9)
    _traffic(shadow, 9_000, {0.97: 1.0})
    assert "could not show" in shadow.disabled


@pytest.mark.parametrize("wrong", [0.0, 0.01, 0.03, 0.1, 0.5])
def test_the_bound_is_kept_whatever_the_share(wrong: float) -> None:
    over = 0
    for seed in range(20):
        shadow = Shadow(0.02, 0.9, seed=seed)
        served = _traffic(shadow, 3000, {0.99: 1 - wrong, 0.93: 1 - 2 * wrong}, seed)
        over += served.count(False) / 3000 > 0.02
    assert over <= 1
