"""The live policy follows the stream."""

from __future__ import annotations

from itertools import cycle, islice

import pytest

from tests.cache.policy.test_policies import Cache, ratio, zipf
from vivace.cache.adaptation import Adaptive, fixed_policy
from vivace.types import Decision


def loop(count: int, keys: int, first: int = 0) -> list[int]:
    return [first + key for key in islice(cycle(range(keys)), count)]


def test_it_changes_when_another_finds_more_and_says_so() -> None:
    told: list[Decision] = []
    policy = Adaptive(300, told.append, candidates=("lru", "wtinylfu"))
    cache = Cache(policy, 300)
    for key in loop(30_000, 400):
        cache.use(key)
        cache.check() if key == 0 else None
    assert policy.live == "wtinylfu"
    assert policy.switches == len(told) == 1
    (decision,) = told
    assert (decision.what, decision.before, decision.after) == ("cache.policy", "lru", "wtinylfu")
    assert decision.evidence["hit_ratios"]["wtinylfu"] > decision.evidence["hit_ratios"]["lru"]
    assert "points more" in decision.reason


def test_what_was_there_is_there_after_a_change() -> None:
    policy = Adaptive(300, candidates=("lru", "wtinylfu"))
    cache = Cache(policy, 300)
    for key in loop(60_000, 400):
        before, live = dict(cache.held), policy.live
        cache.use(key)
        if policy.live != live:
            assert len(set(before) & set(cache.held)) >= len(before) - 1
            return
    pytest.fail("it did not change")


def test_it_does_not_change_where_all_are_alike() -> None:
    policy = Adaptive(500)
    assert ratio(policy, zipf(60_000, 400)) > 0.95  # everything fits
    assert policy.switches == 0
    policy = Adaptive(100)
    ratio(policy, zipf(100_000, 5_000))
    assert policy.switches <= 2


def test_it_follows_a_stream_that_changes() -> None:
    stream = [
        *zipf(40_000, 3_000),
        *loop(40_000, 600, first=10_000),
        *zipf(40_000, 3_000, seed=1, first=20_000),
    ]
    best = max(
        ratio(fixed_policy(name, 400), stream) for name in ("lru", "s3fifo", "arc", "wtinylfu")
    )
    assert ratio(Adaptive(400), stream) > 0.95 * best


def test_nothing_is_sampled_before_it_is_full() -> None:
    policy = Adaptive(1_000)
    ratio(policy, loop(5_000, 900))
    assert policy.ratios() == {}
    assert policy.pattern.uses == 0
    assert len(policy._past) <= 8_192


def test_weights_in_bytes() -> None:
    policy = Adaptive(100_000)
    cache = Cache(policy, 100_000)
    for key in [*zipf(20_000, 1_000), *loop(20_000, 600)]:
        cache.use(key, 100 + key % 400)
    cache.check()
    assert policy.ratios()


def test_how_the_stream_looks() -> None:
    skewed, scanned = Adaptive(200), Adaptive(200)
    ratio(skewed, zipf(40_000, 2_000))
    ratio(scanned, list(range(40_000)))
    assert 0.5 < skewed.pattern.skew < 1.5
    assert skewed.pattern.scan < 0.1
    assert scanned.pattern.scan == 1
    assert scanned.pattern.skew == 0
    assert skewed.pattern.recency > 0.2
    round_ = Adaptive(200)
    ratio(round_, loop(40_000, 1_000))
    assert 500 <= round_.pattern.reuse <= 2_000


def test_a_removed_key_is_unknown_to_the_ghosts() -> None:
    policy = Adaptive(200)
    cache = Cache(policy, 200)
    for key in zipf(10_000, 1_000):
        cache.use(key)
    for there in list(cache.held):
        policy.remove(there)
        del cache.held[there]
    cache.check()
    assert not policy._known
    for key in zipf(10_000, 1_000):
        cache.use(key)
    cache.check()
