"""No two things have one key, and one thing has one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vivace.cache.keys import key

PARTS = st.lists(
    st.one_of(st.none(), st.text(max_size=4), st.binary(max_size=4), st.integers(), st.floats()),
    max_size=4,
)


def _shown(parts: list[object]) -> list[tuple[str, str]]:
    # repr tells -0.0 from 0.0, as the key does; every NaN is one here, and may be several there
    return [(type(part).__name__, repr(part)) for part in parts]


@given(PARTS, PARTS)
def test_other_parts_are_another_key(one: list[object], other: list[object]) -> None:
    same = _shown(one) == _shown(other)
    if "nan" in repr(one):
        return
    assert (key("k", *one) == key("k", *other)) is same  # type: ignore[arg-type]


def test_the_framing_is_unambiguous() -> None:
    several = [("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), (b"ab", "c"), ("ab", "c", None)]
    assert len({key("k", *parts) for parts in several}) == len(several)
    assert len({key("k", part) for part in (1, 1.0, "1", b"1", None)}) == 5
    assert key("k", "x") != key("kx")
    assert len(key("k")) == 16


def test_a_lone_surrogate_is_a_text_too() -> None:
    assert key("k", "\ud800") != key("k", "\ud801")
