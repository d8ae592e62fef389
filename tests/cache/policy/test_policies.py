"""What every policy keeps to, and what each is known for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import cycle, islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.cache.adaptation import POLICIES, Adaptive, fixed_policy
from vivace.cache.policy import PortablePolicy
from vivace.cache.policy.frequency import FrequencySketch
from vivace.errors import BadSettings

Make = Callable[[int], PortablePolicy]
MAKES: dict[str, Make] = {**{name: POLICIES[name] for name in POLICIES}, "auto": Adaptive}
every = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)


class Cache:
    """What stands around a policy, with every check that can be made."""

    def __init__(self, policy: PortablePolicy, capacity: int) -> None:
        self.policy, self.capacity = policy, capacity
        self.held: dict[Hashable, int] = {}

    def use(self, key: Hashable, weight: int = 1) -> bool:
        if key in self.held:
            self.policy.hit(key)
            return True
        self.held[key] = weight
        self.gone(self.policy.insert(key, weight=weight))
        return False

    def gone(self, victims: Sequence[Hashable]) -> None:
        assert len(set(victims)) == len(victims)
        for victim in victims:
            del self.held[victim]  # it was there

    def check(self) -> None:
        assert len(self.policy) == len(self.held)
        assert sorted(map(repr, self.policy)) == sorted(map(repr, self.held))
        assert self.policy.weights() == self.held
        assert sum(self.held.values()) <= self.capacity


def ratio(policy: PortablePolicy, keys: Sequence[int]) -> float:
    cache = Cache(policy, 1 << 60)
    return sum(cache.use(key) for key in keys) / len(keys)


def zipf(count: int, keys: int, seed: int = 0, first: int = 0) -> list[int]:
    draw = Random(seed)
    weights = [1 / rank for rank in range(1, keys + 1)]
    return [first + key for key in draw.choices(range(keys), weights, k=count)]


@every
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["use", "use", "use", "use", "remove", "resize"]),
            st.integers(0, 30),
            st.integers(1, 12),
        ),
        max_size=120,
    )
)
def test_it_says_who_goes_and_holds_no_more_than_it_may(
    make: Make, steps: list[tuple[str, int, int]]
) -> None:
    cache = Cache(make(40), 40)
    for step, key, weight in steps:
        if step == "use":
            cache.use(key, weight)
        elif step == "remove":
            cache.policy.remove(key)
            cache.held.pop(key, None)
        else:
            cache.capacity = 4 * weight
            cache.gone(cache.policy.resize(cache.capacity))
        cache.check()


@every
def test_it_fills_what_it_has(make: Make) -> None:
    cache = Cache(make(100), 100)
    for key in range(100):
        cache.use(key)
    assert len(cache.held) == 100
    for key in zipf(5_000, 400):
        cache.use(key)
    assert len(cache.held) >= 95


@every
def test_what_is_heavier_than_all_is_its_own_victim(make: Make) -> None:
    cache = Cache(make(10), 10)
    for key in range(10):
        cache.use(key)
    assert cache.policy.insert("heavy", weight=11) == ["heavy"]
    cache.check()


@every
def test_it_takes_over_all_that_is_there(make: Make) -> None:
    policy = make(50)
    policy.seed((key, 1 + key % 3) for key in range(25))
    assert policy.weights() == {key: 1 + key % 3 for key in range(25)}
    cache = Cache(policy, 50)
    cache.held = policy.weights()
    for key in zipf(2_000, 100):
        cache.use(key, 1 + key % 3)
        assert sum(cache.held.values()) <= 50
    cache.check()


@every
def test_the_same_stream_has_the_same_victims(make: Make) -> None:
    def victims() -> list[list[Hashable]]:
        policy, held, told = make(64), set[Hashable](), []
        for key in zipf(5_000, 500):
            if key in held:
                policy.hit(key)
            else:
                held.add(key)
                told.append(policy.insert(key))
                held.difference_update(told[-1])
        return told

    assert victims() == victims()


@every
def test_popular_keys_stay(make: Make) -> None:
    found = ratio(make(100), zipf(30_000, 2_000))
    assert found > 0.45  # the hundred most popular are 63 % of all uses


@every
def test_work_does_not_grow_with_the_capacity(make: Make) -> None:
    """By counting: how often the keys are hashed."""
    hashed = 0

    class Key:
        def __init__(self, number: int) -> None:
            self.number = number

        def __hash__(self) -> int:
            nonlocal hashed
            hashed += 1
            return self.number

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Key) and other.number == self.number

    def work(capacity: int) -> float:
        nonlocal hashed
        policy = make(capacity)
        held: set[int] = set()
        stream = [Key(number) for number in zipf(20 * capacity, 8 * capacity)]
        hashed = 0
        for key in stream:
            if key.number in held:
                policy.hit(key)
            else:
                held.add(key.number)
                held.difference_update(gone.number for gone in policy.insert(key))  # type: ignore[attr-defined]
        return hashed / len(stream)

    assert work(2_048) < 1.5 * work(256)


def test_lru_finds_nothing_of_a_loop_and_others_do() -> None:
    loop = list(islice(cycle(range(400)), 40_000))
    assert ratio(fixed_policy("lru", 300), loop) == 0
    for name in ("wtinylfu", "predictive", "auto"):
        assert ratio(MAKES[name](300), loop) > 0.5, name


def test_a_scan_drives_out_what_was_used_once_only() -> None:
    known = list(range(60)) * 5
    for name in ("s3fifo", "arc", "wtinylfu", "lfu", "predictive"):
        cache = Cache(fixed_policy(name, 100), 100)
        for key in [*known, *range(1_000, 3_000)]:
            cache.use(key)
        assert sum(cache.use(key) for key in range(60)) > 30, name


def test_counts_fade() -> None:
    """What was popular once gives way to what is."""
    before, after = zipf(20_000, 300), zipf(20_000, 300, first=1_000)
    for name in POLICIES:
        cache = Cache(fixed_policy(name, 100), 100)
        for key in before:
            cache.use(key)
        found = sum(cache.use(key) for key in after) / len(after)
        assert found > 0.4, name


def test_the_sketch_counts_and_halves() -> None:
    sketch = FrequencySketch(100)
    for _ in range(7):
        sketch.add("often")
    sketch.add("once")
    assert sketch.count("often") == 7
    assert 1 <= sketch.count("once") <= 2
    assert sketch.count("never") <= 1
    sketch.fit(10_000)  # wider, with what it knew
    assert sketch.count("often") == 7
    for number in range(100_000):
        sketch.add(number)
    assert sketch.count("often") <= 4


def test_a_policy_that_does_not_exist() -> None:
    with pytest.raises(BadSettings, match="mru"):
        fixed_policy("mru", 10)
