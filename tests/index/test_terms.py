"""BM25 against the textbook, commits, crashes and damage."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from vivace.errors import CorruptIndex
from vivace.index.terms import STATE, TantivyTerms, damage

TEXTS = {1: "red fox red den", 2: "blue fox", 5: "green hill far away", 9: "fox fox fox"}


def filled(folder: Path) -> TantivyTerms:
    terms = TantivyTerms.create(folder)
    for number, text in TEXTS.items():
        terms.add(number, text.split())
    terms.commit(1)
    return terms


def bm25(query: list[str], text: list[str], texts: list[list[str]]) -> float:
    average = sum(map(len, texts)) / len(texts)
    score = 0.0
    for term in query:
        df = sum(term in t for t in texts)
        idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        tf = text.count(term)
        score += idf * tf * 2.2 / (tf + 1.2 * (1 - 0.75 + 0.75 * len(text) / average))
    return score


def test_scores_are_textbook_bm25(tmp_path: Path) -> None:
    terms = filled(tmp_path / "t")
    texts = {number: text.split() for number, text in TEXTS.items()}
    query = ["fox", "red", "red"]
    found = terms.search(query, 10)
    expected = {number: bm25(query, text, list(texts.values())) for number, text in texts.items()}
    assert found.ids[0].tolist() == sorted(
        (number for number in expected if expected[number] > 0),
        key=lambda number: -expected[number],
    )
    for number, score in zip(found.ids[0], found.scores[0], strict=True):
        assert score == pytest.approx(expected[int(number)], rel=1e-4)


@pytest.mark.parametrize("query", [[], ["nothing"]])
def test_a_query_that_matches_no_chunk_finds_nothing(tmp_path: Path, query: list[str]) -> None:
    assert filled(tmp_path / "t").search(query, 5).ids.shape == (1, 0)


def test_adding_again_replaces_and_deleting_removes(tmp_path: Path) -> None:
    terms = filled(tmp_path / "t")
    before = terms.searcher()
    terms.add(2, ["violet"])
    terms.delete(9)
    terms.commit(2)
    assert terms.search(["blue"], 5).ids.size == 0
    assert terms.search(["violet"], 5).ids[0].tolist() == [2]
    assert 9 not in terms.search(["fox"], 5).ids[0]
    assert 9 in before.search(["fox"], 5).ids[0], "a searcher is a state"


def test_uncommitted_changes_are_not_seen(tmp_path: Path) -> None:
    terms = filled(tmp_path / "t")
    terms.add(11, ["fox"])
    assert 11 not in terms.search(["fox"], 5).ids[0]


@pytest.mark.parametrize("n", [40, 3000])
def test_filters_both_narrow_and_wide(tmp_path: Path, n: int) -> None:
    terms = TantivyTerms.create(tmp_path / "t")
    for number in range(n):
        terms.add(number, ["fox"] * (1 + number % 7) + ["den"])
    terms.commit(1)
    allow = np.zeros(n, np.bool_)
    allow[1::2] = True
    found = terms.search(["fox"], 15, allow=allow).ids[0]
    everything = terms.search(["fox"], n).ids[0]
    assert found.tolist() == [number for number in everything if allow[number]][:15]
    assert terms.search(["fox"], 5, allow=np.zeros(n, np.bool_)).ids.size == 0


def test_reopened_it_answers_the_same(tmp_path: Path) -> None:
    terms = filled(tmp_path / "t")
    expected = terms.search(["fox"], 5).ids.tolist()
    terms.release()
    again = TantivyTerms.open(tmp_path / "t")
    assert again.epoch == 1
    assert again.search(["fox"], 5).ids.tolist() == expected


def test_another_process_is_followed(tmp_path: Path) -> None:
    writer = filled(tmp_path / "t")
    reader = TantivyTerms.open(tmp_path / "t")
    writer.add(20, ["fox"])
    writer.commit(2)
    reader.follow()
    assert reader.epoch == 2
    assert 20 in reader.search(["fox"], 9).ids[0]


def test_in_memory_needs_no_folder() -> None:
    terms = TantivyTerms.volatile()
    terms.add(1, ["fox"])
    terms.commit(3)
    terms.follow()
    assert terms.search(["fox"], 1).ids[0].tolist() == [1]


def test_every_flipped_byte_of_a_segment_is_found(tmp_path: Path) -> None:
    terms = filled(tmp_path / "t")
    terms.release()
    assert damage(tmp_path / "t") == []
    files = [p for p in (tmp_path / "t").iterdir() if p.suffix and p.suffix != ".json"]
    files = [p for p in files if not p.name.startswith(".")]
    assert len(files) >= 5
    for path in files:
        data = path.read_bytes()
        # what follows the body is its checksum and the version of the engine that wrote it
        body = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        for at in range(0, body, 7):
            path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
            assert damage(tmp_path / "t") == [path.name], at
        path.write_bytes(data[: len(data) // 2])
        assert damage(tmp_path / "t") == [path.name]
        path.write_bytes(data)


@pytest.mark.parametrize("name", ["meta.json", STATE])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"format": 99, "epoch": 1}'])
def test_damaged_descriptions_are_corrupt(tmp_path: Path, name: str, content: bytes | None) -> None:
    filled(tmp_path / "t").release()
    path = tmp_path / "t" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CorruptIndex):
        TantivyTerms.open(tmp_path / "t")


def test_a_missing_segment_file_is_corrupt(tmp_path: Path) -> None:
    filled(tmp_path / "t").release()
    segment = json.loads((tmp_path / "t" / "meta.json").read_text())["segments"][0]["segment_id"]
    for path in (tmp_path / "t").glob(segment.replace("-", "") + ".*"):
        path.unlink()
    with pytest.raises(CorruptIndex, match="damaged"):
        TantivyTerms.open(tmp_path / "t")
    shutil.rmtree(tmp_path / "t")
    with pytest.raises(CorruptIndex):
        TantivyTerms.open(tmp_path / "t")
