"""The bitmaps of filters that a snapshot keeps are bounded in bytes."""

from __future__ import annotations

import numpy as np

from vivace.collection.snapshot import FilterBitmaps


def test_the_least_used_bitmap_is_dropped_when_the_bytes_are_used_up() -> None:
    most = 10_000
    kept = FilterBitmaps(most)
    for number in range(100):
        kept.put(b"%d" % number, np.ones(1500, np.bool_))
        assert kept.get(b"0") is not None  # used again and again
        assert kept.bytes <= most
    assert kept.get(b"99") is not None
    assert kept.get(b"50") is None


def test_a_bitmap_over_the_bound_is_not_kept_and_drops_no_other() -> None:
    kept = FilterBitmaps(10_000)
    kept.put(b"small", np.ones(100, np.bool_))
    kept.put(b"large", np.ones(20_000, np.bool_))
    assert kept.get(b"large") is None
    assert kept.get(b"small") is not None


def test_a_bitmap_put_twice_counts_once() -> None:
    kept = FilterBitmaps(10_000)
    kept.put(b"a", np.ones(100, np.bool_))
    once = kept.bytes
    kept.put(b"a", np.ones(100, np.bool_))
    assert kept.bytes == once
