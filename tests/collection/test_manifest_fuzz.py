"""Whatever a manifest says, a collection opens with every chunk; no byte of it crashes or hangs."""

from __future__ import annotations

import base64
import copy
import json
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.collection.test_segments import filled
from tests.support.profiles import fuzzed
from vivace.collection import recovery
from vivace.collection.segment_directory import FOLDER, MANIFEST, read_manifest
from vivace.errors import CorruptIndex
from vivace.store.connections import Connections
from vivace.store.schema import FILE
from vivace.store.store import Store

Route: TypeAlias = list[str | int]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed collection with sealed segments, removed rows and a tail."""
    folder = tmp_path_factory.mktemp("fuzzed") / "c"
    filled(folder)
    return folder


@pytest.fixture(scope="module")
def store(collection: Path) -> Iterator[Store]:
    connections = Connections(collection / FILE)
    yield Store(connections)
    connections.close()


@pytest.fixture(scope="module")
def whole(collection: Path) -> dict[str, Any]:
    """What the manifest says."""
    value: dict[str, Any] = json.loads((collection / MANIFEST).read_bytes())["manifest"]
    return value


def sealed(value: object) -> bytes:
    """A manifest file that says this, with the right checksum."""
    body = json.dumps(value).encode()
    head = json.dumps({"format": 1, "oldest": 1, "crc32": zlib.crc32(body)}).encode()
    return head[:-1] + b', "manifest": ' + body + b"}"


def routes(value: Any, here: Route | None = None) -> Iterator[Route]:
    """The way to every part of a JSON value."""
    here = here or []
    if here:
        yield here
    if isinstance(value, dict | list):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from routes(each, [*here, name])


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 60),
    st.sampled_from([2**31, 2**40, 2**63, -(2**63), 2**70, 1e300]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(["..", "../..", "/etc/passwd", "", ".", "a/b", "a\0b", "store.db", "cosine"]),
    st.sampled_from(["flat", "pq", "ivf", "hnsw", "nothing", "ip"]),
    st.binary(max_size=9).map(lambda data: base64.b64encode(data).decode()),
    st.binary(max_size=9).map(lambda data: base64.b64encode(zlib.compress(data)).decode()),
    st.just(base64.b64encode(zlib.compress(bytes(50 << 20))).decode()),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def opened_ids(store: Store, folder: Path) -> list[int]:
    with recovery.load(store, folder) as loaded:
        live = loaded.dense.live
        return [i for s in loaded.dense.segments for i in s.index.ids.tolist() if live[i]]


@pytest.mark.timeout(1200)
@settings(max_examples=fuzzed())
@given(data=st.data())
def test_what_a_manifest_says_loses_no_chunk(
    data: st.DataObject, collection: Path, store: Store, whole: dict[str, Any]
) -> None:
    value = copy.deepcopy(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from(list(routes(value))))
        where: Any = value
        for name in parents:
            where = where[name]
        if data.draw(st.booleans()):
            where[last] = data.draw(VALUES)
        elif isinstance(where, list):
            where.append(copy.deepcopy(where[int(last)]))
        else:
            del where[last]
    (collection / MANIFEST).write_bytes(sealed(value))
    began = time.process_time()
    found = opened_ids(store, collection)
    assert time.process_time() - began < 1
    assert len(found) == len(set(found)) == store.count()


@pytest.mark.timeout(1200)
@settings(max_examples=fuzzed())
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_bytes_are_a_manifest_or_are_refused(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(CorruptIndex):
        read_manifest(folder)


@pytest.mark.parametrize(
    "content",
    [b"[" * 1_000_000, b'{"manifest":' * 100_000, b'{"a":' + b"9" * 1_000_000, b"\xff" * 1_000_000],
    ids=range(4),
)
def test_a_manifest_made_to_exhaust_the_reader_is_refused(tmp_path: Path, content: bytes) -> None:
    for body in (content, b'{"format": 1, "oldest": 1, "crc32": 0, "manifest": ' + content):
        (tmp_path / MANIFEST).write_bytes(body)
        began = time.process_time()
        with pytest.raises(CorruptIndex):
            read_manifest(tmp_path)
        assert time.process_time() - began < 1


@pytest.mark.parametrize("name", ["..", "../outside", "/outside", ".hidden", "a/b", "a\0b", ""])
def test_no_name_leads_out_of_the_collection(
    collection: Path, store: Store, whole: dict[str, Any], tmp_path: Path, name: str
) -> None:
    shutil.copytree(collection / FOLDER, tmp_path / "outside")
    value = copy.deepcopy(whole)
    value["segments"][0]["name"] = name
    (collection / MANIFEST).write_bytes(sealed(value))
    with pytest.raises(CorruptIndex, match="contradicts itself: the names"):
        read_manifest(collection)
    value = copy.deepcopy(whole)
    value["segments"][0]["files"]["files"][0]["name"] = name
    (collection / MANIFEST).write_bytes(sealed(value))
    with pytest.raises(CorruptIndex, match="contradicts itself: the names"):
        read_manifest(collection)
    assert len(opened_ids(store, collection)) == store.count()
