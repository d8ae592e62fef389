"""The pattern of questions, on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vivace.testing.conformance import questions
from vivace.tune.workload import pattern


def test_near_duplicates_are_counted_once_they_are_repeated() -> None:
    asked = questions(600, 64)
    spread = np.arange(6_000).reshape(600, 10)
    assert pattern(asked, spread).duplicates == 0
    again = np.vstack([asked, asked[:200] * 3, asked[:100] + 0.001])
    assert pattern(again, np.zeros((900, 10), np.int64)).duplicates == pytest.approx(300 / 900)


def test_locality_is_a_tenth_where_all_are_found_equally_often() -> None:
    asked = questions(60, 64)
    assert pattern(asked, np.arange(600).reshape(60, 10)).locality == pytest.approx(0.1)
    assert pattern(asked, np.arange(60).repeat(10).reshape(60, 10)).locality == pytest.approx(0.1)


def test_locality_is_high_where_few_are_found_all_the_time() -> None:
    neighbours = np.arange(1_000).reshape(100, 10)
    neighbours[:, :5] = np.arange(5)
    # 505 distinct ones; five of the tenth, 50.5, are found 500 times, the other 45.5 once
    assert pattern(questions(100, 64), neighbours).locality == pytest.approx(545.5 / 1_000)


def test_nothing_asked_or_nothing_found() -> None:
    nothing = pattern(np.empty((0, 8), np.float32), np.empty((0, 10), np.int64))
    assert (nothing.duplicates, nothing.locality) == (0, 0)
    padded = np.full((3, 10), -1, np.int64)
    padded[:, 0] = [1, 2, 3]
    zero = pattern(np.zeros((3, 8), np.float32), padded)
    assert zero.duplicates == 0
    assert zero.locality == pytest.approx(0.1)
