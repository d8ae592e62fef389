"""When a server is left alone, and when it is asked again."""

from __future__ import annotations

import random

import pytest

from vivace.run.breaker import Breaker, BreakerState, Tolerance

T = Tolerance(in_row=3, least=10)


def breaker() -> Breaker:
    return Breaker(T, random.Random(0))


def fail(
    one: Breaker, now: float, *, spare: bool = False, retry_after: float | None = None
) -> bool:
    return one.failed(one.begin(), now, spare=spare, retry_after=retry_after)


def opened(now: float = 0.0, *, retry_after: float | None = None) -> Breaker:
    one = breaker()
    assert [fail(one, now, retry_after=retry_after) for _ in range(3)] == [False, False, True]
    return one


def test_failures_in_a_row_open_and_a_success_between_them_does_not() -> None:
    one = breaker()
    for _ in range(20):
        assert not fail(one, 0)
        assert not fail(one, 0)
        one.succeeded(one.begin(), 0)
    assert one.state(0) is BreakerState.CLOSED
    opened()


def test_one_trial_at_a_time() -> None:
    one = opened()
    assert one.state(0.4) is BreakerState.OPEN
    assert not one.admits(0.4)
    assert one.state(1) is BreakerState.HALF_OPEN
    trial = one.begin()
    assert trial.trial
    assert not one.admits(1)
    one.dropped(trial)
    assert one.admits(1)
    one.succeeded(one.begin(), 1)
    assert one.state(1) is BreakerState.CLOSED


def test_pauses_double_with_jitter_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    one, now = opened(), 0.0
    for k in range(12):
        bound = min(T.longest, T.first * 2**k)
        assert bound / 2 <= one.until - now <= bound
        now = one.until
        assert fail(one, now)
    now = one.until
    one.succeeded(one.begin(), now)
    for _ in range(3):
        fail(one, now)
    assert T.first / 2 <= one.until - now <= T.first


def test_pauses_of_many_do_not_coincide() -> None:
    draw = random.Random(0)
    ends = []
    for _ in range(50):
        one = Breaker(T, draw)
        for _ in range(3):
            fail(one, 0)
        ends.append(one.until)
    assert max(ends) - min(ends) > 0.4


def test_a_time_that_the_server_tells_is_kept_within_bounds() -> None:
    assert opened(retry_after=20).until == 20
    assert opened(retry_after=9999).until == T.longest
    assert opened(retry_after=0.1).until >= T.first / 2


def test_a_trial_on_probation_fails_at_once() -> None:
    """It had begun to answer, others were let in, and then it broke off."""
    one = opened()
    trial = one.begin()
    one.alive(trial)
    assert one.state(1) is BreakerState.CLOSED
    assert one.failed(trial, 1, spare=False)
    assert one.state(1) is BreakerState.OPEN
    assert one.until - 1 > T.first / 2  # longer than the first pause was at least


def test_what_began_before_says_nothing_of_today() -> None:
    one = breaker()
    early = [one.begin() for _ in range(8)]
    for old in early[:3]:
        one.failed(old, 0, spare=False)
    until = one.until
    for old in early[3:6]:
        assert not one.failed(old, 0.1, spare=True)
    one.succeeded(early[6], 0.1)
    one.dropped(early[7])
    assert one.state(0.1) is BreakerState.OPEN
    assert one.until == until
    trial = one.begin()
    one.dropped(early[7])
    assert not one.admits(until), "an old request ended the trial"
    one.succeeded(trial, until)


@pytest.mark.parametrize(("spare", "opens"), [(True, True), (False, False)])
def test_a_share_of_failures_opens_where_others_are_left(spare: bool, opens: bool) -> None:
    one = breaker()
    for _ in range(10):
        one.succeeded(one.begin(), 0)
        fail(one, 0, spare=spare)
    assert (one.state(0) is BreakerState.OPEN) is opens


def test_what_was_long_ago_does_not_count() -> None:
    one = breaker()
    for turn in range(8):
        one.succeeded(one.begin(), turn)
        assert not fail(one, 0, spare=False)
    for _ in range(10):
        one.succeeded(one.begin(), 100)
    assert not fail(one, 100, spare=True)
