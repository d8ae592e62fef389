"""A collection written by an earlier version opens, answers and grows as if written by this one."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

import vivace
from vivace.types import Document

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A collection of 0.1: English and Chinese, sealed segments and a tail, a plan, a query log.

    `tests/data/make_collection_0_1.py` made it.
    """
    with tarfile.open(DATA / "collection-0.1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "collection-0.1"


def test_a_collection_of_0_1_opens_without_a_rebuild(collection: Path) -> None:
    with vivace.open(collection, create=False) as docs:
        assert docs.info().documents == docs.info().chunks == 45
        assert docs.info().epoch == 3
        assert docs.info().signs_bytes > 0
        assert docs.plan is not None
        assert docs.plan.family == "pq"
        assert {decision.what for decision in docs.decisions()} == {"plan", "default"}
        logged = [text for _, text, *_ in docs.collection.corpus.store.queries()]
        assert logged == ["owl in a barn", "成都的豆腐", "Where does the otter live?"]
        counted = docs.collection.trace.counters()
        assert not [name for name in counted if name.startswith(("segments.", "terms.", "plan."))]
        assert docs.verify() == []


def test_a_collection_of_0_1_is_searched(collection: Path) -> None:
    with vivace.open(collection, create=False) as docs:
        assert docs.search("which animal sleeps in a barn", filters={"lang": "en"}).hits
        otter = docs.search("otter river").hits[0]
        assert (otter.chunk.document_id, otter.chunk.metadata["place"]) == ("en-otter-0", 0)
        tofu = docs.search("成都的豆腐").hits[0]
        assert tofu.chunk.document_id == "zh-成都-2"
        assert tofu.chunk.text == "成都的豆腐很有名。游客常常在老城的小店里吃豆腐。"
        removed = docs.search("newt", k=50).hits
        assert "en-newt-3" not in {hit.chunk.document_id for hit in removed}


def test_a_collection_of_0_1_is_written_to(collection: Path) -> None:
    with vivace.open(collection, create=False) as docs:
        docs.add([Document("wolf", "The wolf crosses the frozen lake."), Document("en-fox-0", "A")])
        docs.delete("zh-北京-0")
        assert docs.info().documents == 45
        assert docs.search("wolf frozen lake").hits[0].chunk.document_id == "wolf"
        docs.compact()
        assert docs.verify() == []
    with vivace.open(collection, create=False) as docs:
        assert docs.search("wolf frozen lake").hits[0].chunk.document_id == "wolf"
        assert docs.info().epoch == 5
        docs.rebuild()
        assert docs.verify() == []
