"""Keys, bytes and weights: different values have different keys, and damage is never read."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.cache.adaptation import make_policy
from vivace.cache.bounded import BoundedStore
from vivace.cache.embedder import embedded_text
from vivace.cache.values import expiry, key, pack, unpack, weigh
from vivace.types import Chunk, Hit, SearchResult

PARTS = st.lists(
    st.one_of(st.none(), st.text(max_size=4), st.binary(max_size=4), st.integers(), st.floats()),
    max_size=4,
)


def _shown(parts: list[object]) -> list[tuple[str, str]]:
    # repr tells -0.0 from 0.0, as the key does; every NaN is one here, and may be several there
    return [(type(part).__name__, repr(part)) for part in parts]


@given(PARTS, PARTS)
def test_different_parts_have_different_keys(one: list[object], other: list[object]) -> None:
    same = _shown(one) == _shown(other)
    if "nan" in repr(one):
        return
    assert (key("k", *one) == key("k", *other)) is same  # type: ignore[arg-type]


def test_the_framing_of_keys_is_unambiguous() -> None:
    several = [("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), (b"ab", "c"), ("ab", "c", None)]
    assert len({key("k", *parts) for parts in several}) == len(several)
    assert len({key("k", part) for part in (1, 1.0, "1", b"1", None)}) == 5
    assert key("k", "x") != key("kx")
    assert len(key("k")) == 16


def test_a_lone_surrogate_has_a_key() -> None:
    assert key("k", "\ud800") != key("k", "\ud801")


def test_keys_are_those_of_version_0_1() -> None:
    """What an older version left in a tier is found."""
    assert key("search", "a", 1, 2.5, None, b"x").hex() == "3ddf91acc09d7004e0e08b7354a18186"


def test_packed_values_are_those_of_version_0_1() -> None:
    head = "5663010001000000000000000000f07f430c47b0"
    assert pack(b"value", expires=None).hex() == head + b"value".hex()


@pytest.mark.parametrize("payload", [b"", b"x", os.urandom(1024), b"words " * 1000, bytes(5000)])
def test_a_packed_value_comes_back(payload: bytes) -> None:
    data = pack(payload, schema=7, expires=100.0)
    assert unpack(data, schema=7, now=99.9) == payload
    assert expiry(data) == 100.0


def test_only_what_becomes_smaller_is_compressed() -> None:
    header = len(pack(b"", expires=None))
    assert len(pack(bytes(1024), expires=None)) == header + 1024
    assert len(pack(bytes(1025), expires=None)) < 100
    noise = os.urandom(4096)
    assert len(pack(noise, expires=None)) == header + 4096


def test_expired_and_foreign_values_are_misses() -> None:
    data = pack(b"value", schema=7, expires=100.0)
    assert unpack(data, schema=7, now=100.0) is None
    assert unpack(data, schema=8, now=0.0) is None
    assert unpack(pack(b"v", schema=7, expires=None), schema=7, now=1e12) == b"v"
    assert expiry(pack(b"v", schema=7, expires=None)) is None


@pytest.mark.parametrize("payload", [b"a short value", b"a long one, compressed " * 200])
def test_no_damaged_value_is_read(payload: bytes) -> None:
    data = pack(payload, expires=None)
    for length in range(len(data)):
        assert unpack(data[:length], now=0.0) is None
    for place in range(len(data)):
        for bit in (1, 128):
            damaged = bytearray(data)
            damaged[place] ^= bit
            assert unpack(bytes(damaged), now=0.0) is None
    assert unpack(data + b"more", now=0.0) is None


def test_counted_bytes_are_not_less_than_those_taken() -> None:
    store = BoundedStore(1 << 30, make_policy("lru", 1 << 30), weigh=weigh)
    counts = store.counts("all")
    rng = np.random.default_rng(0)

    def result(n: int) -> SearchResult:
        chunks = [
            Chunk(
                f"d{n}.{at}", f"{n} " * 300, id=n, title=f"title {n}", metadata={"n": n, "at": "x"}
            )
            for at in range(10)
        ]
        scores = {"bm25": 1.5 * n, "cosine": 0.5 * n, "fused": 0.25 * n}
        hits = [Hit(c, 1.0 + n, dict(scores)) for c in chunks]
        return SearchResult(tuple(hits), n)

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(200):
            store.set(b"%016d" % n, result(n), counts, ttl=60)
        for n in range(2_000):
            vector = embedded_text(rng.normal(size=384).astype(np.float32), None)
            store.set(b"%015dv" % n, vector, counts, ttl=60)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted = store.statistics().total.bytes
    assert 0.6 * counted < grown <= counted
