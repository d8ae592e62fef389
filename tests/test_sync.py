"""The blocking facade does what the asynchronous collection does."""

from __future__ import annotations

import inspect
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import vivace
from vivace import BlockingCollection, Chunk, Collection, Document, Engine, SearchResult


def test_ingest_and_ask_as_in_the_readme(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Leave\n\nThe notice period is six weeks.\n")
    with vivace.open(tmp_path / "c") as docs:
        seen: list[int] = []
        report = docs.ingest(tmp_path / "docs", progress=lambda now: seen.append(now.documents))
        assert report.documents == 1
        assert seen == [1]
        answer = docs.ask("How long is the notice period?")
        assert "six weeks" in answer.text
        assert answer.citations[0].chunk.section == ("Leave",)


def test_every_method_of_the_facade_works(tmp_path: Path) -> None:
    with vivace.open(tmp_path / "c", embed__model="given:4") as docs:
        chunks = [Chunk("a", "Apples are red."), Chunk("b", "Bananas are yellow.")]
        docs.add(chunks, np.eye(2, 4))
        docs.add([Chunk("c", "Cherries")], np.ones((1, 4)))
        assert [d.id for d, _ in docs.list()] == ["a", "b", "c"]
        assert docs.info().documents == 3
        assert docs.search("apples").hits[0].chunk.document_id == "a"
        many = docs.search_many(["bananas", "cherries"])
        assert all(isinstance(r, SearchResult) for r in many)
        assert docs.chunks("c")[0].text == "Cherries"
        document = docs.get("b")
        assert document is not None
        assert document.text == "Bananas are yellow."
        assert docs.delete("b") == 1
        deltas = list(docs.stream("Which fruits are red?"))
        assert deltas[-1].answer is not None
        with pytest.raises(vivace.errors.BadQuery):
            docs.search("")
        steps: list[vivace.types.UpkeepProgress] = []
        docs.compact(progress=steps.append)
        docs.rebuild()
        assert docs.verify(progress=steps.append) == []
        assert steps
        assert isinstance(docs.decisions(limit=5), list)
        assert docs.search("apples").hits[0].chunk.document_id == "a"


def test_documents_of_given_vectors_need_vectors(tmp_path: Path) -> None:
    with (
        vivace.open(tmp_path / "c", embed__model="given:4") as docs,
        pytest.raises(vivace.errors.EmbeddingError, match="Pass the vectors"),
    ):
        docs.add([Document("a", "text")])


def test_reembedding_by_the_blocking_facade(tmp_path: Path) -> None:
    with vivace.open(tmp_path / "c", embed__model="given:4") as docs:
        docs.add([Chunk("a", "Apples are red.")], np.eye(1, 4))
    with pytest.raises(vivace.errors.EmbedderMismatch):
        vivace.open(tmp_path / "c")
    assert vivace.reembed(tmp_path / "c").chunks == 1
    with vivace.open(tmp_path / "c") as docs:
        assert docs.search("apples").hits[0].stages["cosine"] > 0.3
        assert docs.decisions()[-1].what == "reembed"


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    docs = vivace.open(tmp_path / "c")
    docs.add([Document("a", "Apples are red.")])
    docs.close()
    docs.close()
    with pytest.raises(vivace.errors.StoreError, match="closed"):
        docs.info()
    with pytest.raises(vivace.errors.CollectionNotFound):
        vivace.open(tmp_path / "none", create=False)
    assert set(threading.enumerate()) == before


def test_a_callback_that_calls_back_gets_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Some text.")
    with vivace.open(tmp_path / "c") as docs:
        with pytest.raises(vivace.errors.StoreError, match="own callback"):
            docs.ingest(tmp_path / "a.txt", progress=lambda _: print(docs.info()))
        assert docs.info().documents == 1


def test_an_interrupt_waits_for_the_clean_up(tmp_path: Path) -> None:
    """Ctrl-C in the middle of an ingest leaves no lock and no running task."""
    (tmp_path / "docs").mkdir()
    for number in range(32):  # as many as are committed together
        (tmp_path / "docs" / f"{number}.txt").write_text("Some text.")
    (tmp_path / "docs" / "large.txt").write_text("Some more text. " * 20_000)
    main = threading.main_thread().ident
    assert main is not None
    with vivace.open(tmp_path / "c", ingest__commit_chunks=1) as docs:
        with pytest.raises(KeyboardInterrupt):
            docs.ingest(
                tmp_path / "docs", progress=lambda _: signal.pthread_kill(main, signal.SIGINT)
            )
        (tmp_path / "b.txt").write_text("Other text.")
        assert docs.ingest(tmp_path / "b.txt").documents == 1
        assert docs.info().documents == 33


ASYNCHRONOUS = {"question_counts", "record", "snapshot", "stages", "warm"}
"""What only the command line and the engine itself need of a `Collection`."""


def public(cls: type) -> Mapping[str, object]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("_")}


def test_the_facade_has_every_method_with_its_signature_and_documentation() -> None:
    wanted = {name: value for name, value in public(Collection).items() if name not in ASYNCHRONOUS}
    blocking = public(BlockingCollection)
    assert blocking.keys() == wanted.keys() | {"generate_many"}
    for name, method in (wanted | {"generate_many": Engine.generate_many}).items():
        if inspect.iscoroutinefunction(method) and name != "close":
            twin = blocking[name]
            assert callable(twin)
            assert not inspect.iscoroutinefunction(twin)
            assert inspect.signature(twin) == inspect.signature(method)
            assert twin.__doc__ == method.__doc__ is not None


def test_a_stream_may_be_left_early(tmp_path: Path) -> None:
    with vivace.open(tmp_path / "c") as docs:
        docs.add([Document("a", "The notice period is six weeks. Lunch is at noon.")])
        stream = docs.stream("How long is the notice period?")
        assert next(stream).text
        del stream
        assert docs.ask("How long is the notice period?", k=3, template="qa").found
        with pytest.raises(TypeError, match="languge"):
            docs.ask("How long?", languge="French")  # type: ignore[call-arg]
