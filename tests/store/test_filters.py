"""Filters against a plain-Python reading of the same rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.profiles import FUZZ, FUZZ_SECONDS, SLOWEST_INPUT, InputTime
from vivace.errors import BadFilter
from vivace.store.filters import digest
from vivace.store.store import Store
from vivace.store.transaction import NewChunk, Put
from vivace.types import Chunk, Document

DOCUMENTS: list[dict[str, Any]] = [
    {"lang": "en", "year": 2019, "tags": ["a", "b"]},
    {"lang": "zh", "year": 2021, "tags": ["b"]},
    {"lang": "en", "year": 2021.5, "draft": True},
    {"lang": None, "year": "2020", "draft": False, "tags": []},
    {"other": 1},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.open(tmp_path_factory.mktemp("f"), embedder="t", dim=1)
    for at, metadata in enumerate(DOCUMENTS):
        chunk = NewChunk(Chunk(f"d{at}", "x", 0, 1), b"x", np.zeros(1, np.float16))
        store.commit([Put(Document(f"d{at}", "x", f"T{at}", f"/s/{at}", metadata), b"", (chunk,))])
    yield store
    store.close()


def found(store: Store, filters: Mapping[str, Any]) -> list[int]:
    return [int(number) - 1 for number in sorted(store.matching(filters))]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"lang": "en"}, [0, 2]),
        ({"lang": "en", "year": 2019}, [0]),
        ({"tags": "b"}, [0, 1]),
        ({"tags": {"$in": ["a", "x"]}}, [0]),
        ({"tags": {"$nin": ["b"]}}, [2, 3, 4]),
        ({"year": {"$gte": 2019, "$lt": 2021.5}}, [0, 1]),
        ({"year": {"$gt": 2019}}, [1, 2]),
        ({"year": {"$lte": "2020"}}, [3]),
        ({"draft": True}, [2]),
        ({"draft": {"$ne": True}}, [0, 1, 3, 4]),
        ({"other": True}, []),
        ({"lang": None}, [3]),
        ({"$not": {"lang": "en"}}, [1, 3, 4]),
        ({"$or": [{"lang": "zh"}, {"other": 1}]}, [1, 4]),
        ({"$and": [{"lang": "en"}, {"$or": [{"draft": True}, {"year": 2021}]}]}, [2]),
        ({"$id": {"$in": ["d1", "d4"]}}, [1, 4]),
        ({"$source": "/s/2"}, [2]),
        ({"$title": "T3"}, [3]),
        ({"lang": {"$in": []}}, []),
        ({"year": {"$in": [*range(5000), 2021.5]}}, [0, 1, 2]),
        ({"year": {"$in": ["2020", 2019, None]}}, [0, 3]),
        ({"lang": {"$in": [None, "zh"]}}, [1, 3]),
        ({"draft": {"$in": [False]}}, [3]),
        ({"lang": "\ud800"}, []),
    ],
)
def test_filters_match_the_documents_they_describe(
    store: Store, filters: dict[str, Any], expected: list[int]
) -> None:
    assert found(store, filters) == expected


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"language": "en"}, "no document has the metadata key 'language'"),
        ({"year": {"$near": 3}}, "unknown operator"),
        ({"year": {}}, "no operator"),
        ({"year": {"$in": "abc"}}, "takes a list"),
        ({"year": [1, 2]}, r"cannot compare with .* \(list\)"),
        ({"year": 2**70}, r"\(int\)"),
        ({"$or": [{"lang": "en"}] * 900}, "more than 400 conditions"),
        ({"$or": []}, "non-empty list"),
        ({"$or": {"lang": "en"}}, "non-empty list"),
        ({"$not": "lang"}, "must be a mapping"),
        ({"$or": [{}] * 3000}, "more than 400 conditions"),
        ({"$and": [{"year": {"$in": []}}] * 3000}, "more than 400 conditions"),
        ({"$or": [{}] * 20_000}, "more than 16,384 values"),
        ({"lang": {"$in": ["x" * 100] * 1000}}, "65,536 bytes"),
        ({"x" * 100_000: "en"}, "65,536 bytes"),
        ({"lang": "\u4e2d" * 30_000}, "65,536 bytes"),
        ({"x" * 1000: "en"}, r"key 'x{80}\.\.\.'"),
        ({"year": 10**5000}, "a large number"),
        ({"year": {"$in": [1, float("nan")]}}, "finite number"),
        ({"year": float("inf")}, "finite number"),
    ],
)
def test_mistakes_are_named(store: Store, filters: dict[str, Any], message: str) -> None:
    with pytest.raises(BadFilter, match=message):
        store.matching(filters)


def test_depth_is_bounded(store: Store) -> None:
    deep: dict[str, Any] = {"lang": "en"}
    for _ in range(100):
        deep = {"$not": deep}
    with pytest.raises(BadFilter, match="deep"):
        store.matching(deep)
    for _ in range(100_000):  # far deeper than a recursion could follow
        deep = {"$not": deep}
    with pytest.raises(BadFilter, match="nested more than 100 levels deep"):
        store.matching(deep)


def test_a_filter_that_holds_itself_is_refused(store: Store) -> None:
    endless: dict[str, Any] = {}
    endless["$not"] = endless
    with pytest.raises(BadFilter, match="deep"):
        store.matching(endless)


def test_the_most_conditions_that_are_allowed_are_answered(store: Store) -> None:
    filters: dict[str, Any] = {"$or": [{"lang": "xx"}] * 399 + [{"lang": "zh"}]}
    assert found(store, filters) == [1]
    for _ in range(31):
        filters = {"$and": [filters]}
    assert found(store, filters) == [1]
    assert found(store, {"$and": [{}] * 400}) == [0, 1, 2, 3, 4]


def test_a_digest_tells_filters_apart() -> None:
    filters: list[dict[str, Any]] = [
        {"a": 1}, {"a": "1"}, {"a": 1.0}, {"a": True}, {"a": None}, {"b": 1}, {"a": [1]},
        {"a": {"$in": [1]}}, {"$and": [{"a": 1}]}, {"a": "\ud800"}, {},
    ]  # fmt: skip
    assert len({digest(each) for each in filters}) == len(filters)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert {len(digest(each)) for each in filters} == {16}


def test_known_keys_are_listed(store: Store) -> None:
    with pytest.raises(BadFilter, match="draft, lang, other, tags, year"):
        store.matching({"typo": 1})


def test_a_quote_in_a_key_is_refused(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "q", embedder="t", dim=1)
    store.commit([Put(Document("a", "x", metadata={'k"': 1}), b"", ())])
    with pytest.raises(BadFilter, match="holds a quote"):
        store.matching({'k"': 1})
    store.close()


def _nested(key: str, inner: Any, times: int) -> Any:
    for _ in range(times):
        inner = {key: inner} if key != "$or" else {key: [inner]}
    return inner


leaves = st.one_of(
    st.fixed_dictionaries({"lang": st.sampled_from(["en", "zh", "x"])}),
    st.fixed_dictionaries({"year": st.sampled_from([2019, 2021, 2021.5])}),
    st.fixed_dictionaries({"tags": st.sampled_from(["a", "b"])}),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=8,
)


def holds(metadata: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    for key, value in filters.items():
        if key == "$and":
            ok = all(holds(metadata, f) for f in value)
        elif key == "$or":
            ok = any(holds(metadata, f) for f in value)
        elif key == "$not":
            ok = not holds(metadata, value)
        else:
            stored = metadata.get(key)
            ok = value in stored if isinstance(stored, list) else stored == value
        if not ok:
            return False
    return True


@settings(max_examples=60, deadline=None)
@given(tree=trees)
def test_any_tree_of_filters_matches_as_python_does(store: Store, tree: dict[str, Any]) -> None:
    assert found(store, tree) == [n for n, m in enumerate(DOCUMENTS) if holds(m, tree)]


keys = st.one_of(
    st.sampled_from(["lang", "year", "tags", "$id", "$source", "$title", "$and", "$or", "$not"]),
    st.sampled_from(["$eq", "$ne", "$gt", "$in", "$nin", "$lte", "$near", 'k"', "a\\", ""]),
    st.text(max_size=5),
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from([2**63, -(2**63), "\x00", "\ud800", b"bytes"]),
        st.builds(lambda n: 10**n, st.just(5000)),
        st.builds(lambda n: "x" * n, st.just(70_000)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.dictionaries(keys, inner, max_size=4),
        # what only its size makes hostile
        st.builds(lambda each, n: [each] * n, inner, st.integers(0, 5000)),
        st.builds(_nested, keys, inner, st.integers(0, 200)),
    ),
    max_leaves=12,
)


@pytest.mark.timeout(FUZZ_SECONDS)
@settings(max_examples=FUZZ)
@given(filters=st.one_of(st.dictionaries(keys, values, max_size=4), values))
def test_any_value_is_a_filter_or_is_refused(store: Store, filters: Any) -> None:
    message, matching = "", []
    with InputTime() as took:
        try:
            digest(filters)
            matching = found(store, filters)
        except BadFilter as error:
            message = str(error)
    assert set(matching) <= set(range(len(DOCUMENTS)))
    assert len(message) < 1000
    assert took.seconds < SLOWEST_INPUT
