"""vivace tune --quality, and what it leaves behind; the extras of vivace eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vivace
from vivace.cli import main
from vivace.cli.evaluation import measures, stages
from vivace.cli.parser import BAD_INPUT, OK
from vivace.tune import quality
from vivace.tune.quality import Quality
from vivace.types import Chunk, Fusion, Hit, Stages

ANIMALS = ("cat", "dog", "owl", "bat", "fox", "hen", "cow", "ram", "eel", "ant", "bee", "yak")
PLACES = ("in the barn", "on the hill", "at the lake", "near the town", "under the bridge")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Every word of a question is in many documents; only its own vector would know the answer."""
    folder = tmp_path / "set"
    folder.mkdir()
    corpus, queries, qrels = [], [], ["query_id\tdoc_id\trel"]
    for at, (animal, place) in enumerate((a, p) for a in ANIMALS for p in PLACES):
        text = (
            f"The {animal} sleeps {place}. A farmer of the old village saw it there with his"
            f" brother early one morning in the year {at + 1900}. Nobody had ever written down"
            f" where a {animal} spends the night, so both of them went home to tell the others."
        )
        corpus.append({"id": f"d{at}", "title": "", "text": text})
        span = {"spans": [[0, text.index(".") + 1]], "doc": f"d{at}"} if at % 2 else {}
        queries.append({"id": f"q{at}", "text": f"who sleeps {place}, the {animal}?", **span})
        qrels.append(f"q{at}\td{at}\t1")
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels.tsv").write_text("\n".join(qrels) + "\n")
    return folder


@pytest.fixture
def collection(dataset: Path, tmp_path: Path) -> Path:
    with vivace.open(tmp_path / "collection") as docs:
        docs.ingest(dataset / "corpus.jsonl")
    return tmp_path / "collection"


def value(capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = OK) -> Any:
    assert main([*map(str, words), "--json"]) == status
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_from_labels_to_why(
    capsys: pytest.CaptureFixture[str], dataset: Path, collection: Path
) -> None:
    where = ("--collection", collection)
    # what is in force is bad: nothing but the keyword side's weight makes it so
    bad = ("--set", "search.keyword_weight=0.02")
    tune = ("tune", "--quality", "--qrels", dataset / "qrels.tsv", *where, *bad)
    found = value(capsys, *tune)
    assert found["source"] == "qrels"
    assert found["questions"] == {"en": 60}
    assert not found["applied"]
    for row in found["tried"]:
        assert row["milliseconds"] > 0
        assert row["low"] <= row["difference"] <= row["high"]
    assert value(capsys, "why", *where)["decisions"] == []
    with vivace.open(collection) as docs:
        assert docs.plan is None

    applied = value(capsys, *tune, "--apply")
    assert applied["applied"] == applied["changed"]
    if applied["changed"]:
        (decision,) = value(capsys, "why", *where)["decisions"]
        assert decision["what"] == "fusion"
        assert decision["reason"] == applied["reason"]
        assert decision["after"] == applied["stages"]


def test_a_plan_of_stages_alone_changes_no_index(
    collection: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    better = Stages(50, {"": Fusion(), "en": Fusion("max_norm", 0.2)})

    def chosen(*_: object, **__: object) -> Quality:
        before = Stages(50, {"": Fusion()})
        return Quality(before, better, "pseudo", {"en": 80}, {"sentence": 80}, (), "It is.")

    monkeypatch.setattr(quality, "choose", chosen)
    with vivace.open(collection) as docs:
        corpus = docs.collection.corpus
        policy = corpus.plans.policy
        shapes = [policy.layout(rows) for rows in (10, 10_000, 10**6)]
        assert docs.tune_quality().stages == better
        assert docs.plan is not None
        own = Stages(50, {"en": better.fusion["en"]})
        assert (docs.plan.family, docs.plan.stages) == ("", own)
        assert docs.collection.stages == better
        assert [corpus.plans.policy.layout(rows) for rows in (10, 10_000, 10**6)] == shapes
        assert corpus.snapshot().stages == own
        # a choice of index later keeps the stages
        docs.tune(budget_seconds=3, families=["flat"])
        assert docs.plan.family
        assert docs.plan.stages == own
    assert main(["why", "--collection", str(collection)]) == OK
    shown = capsys.readouterr().out
    assert "fusion: " in shown
    assert "en max_norm 0.2" in shown
    assert "It is." in shown


def test_from_the_corpus(capsys: pytest.CaptureFixture[str], collection: Path) -> None:
    found = value(capsys, "tune", "--quality", "--collection", collection)
    assert found["source"] == "pseudo"
    assert found["kinds"]
    assert main(["tune", "--quality", "--collection", str(collection)]) == OK
    assert "made of the corpus" in capsys.readouterr().out


def test_bad_labels(capsys: pytest.CaptureFixture[str], collection: Path, tmp_path: Path) -> None:
    where = ("--collection", collection)
    found = value(capsys, "tune", "--qrels", "x", *where, status=BAD_INPUT)
    assert "--quality" in found["error"]["fix"]
    missing = tmp_path / "qrels.tsv"
    found = value(capsys, "tune", "--quality", "--qrels", missing, *where, status=BAD_INPUT)
    assert str(missing) in found["error"]["message"]
    missing.write_text("q1 d1 1\n")
    (tmp_path / "queries.jsonl").write_text('{"id": "q1", "text": "x"}\n')
    found = value(capsys, "tune", "--quality", "--qrels", missing, *where, status=BAD_INPUT)
    assert "qrels.tsv:1" in found["error"]["message"]


def test_stages_spans_runs_and_failures(
    capsys: pytest.CaptureFixture[str], dataset: Path, collection: Path, tmp_path: Path
) -> None:
    saved, trec = tmp_path / "run.json", tmp_path / "run.trec"
    where = ("eval", dataset, "--collection", collection)
    report = value(capsys, *where, "--save", saved, "--run", trec, "--failures", "3")
    assert {"keyword", "dense", "candidates", "fused"} <= report["stages"].keys()
    for its in report["stages"].values():
        assert 0 <= its["recall@10"] <= 1
    best = report["stages"]["candidates"]["recall@10"]
    assert best >= report["stages"]["fused"]["recall@10"]
    assert report["span_coverage@4000"] == report["span_coverage_merged@4000"] == 1.0
    assert len(report["failures"]) <= 3
    lines = [line.split() for line in trec.read_text().splitlines()]
    assert {len(line) for line in lines} == {6}
    assert lines[0][:2] == ["q0", "Q0"]
    assert [line[3] for line in lines[:3]] == ["1", "2", "3"]
    assert json.loads(saved.read_text())["per_query"].keys() == {f"q{at}" for at in range(60)}

    again = value(capsys, *where, "--against", saved)
    same = again["against"]["measures"]["ndcg@10"]
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)
    worse = value(capsys, *where, "--against", saved, "--set", "search.keyword_weight=0")
    assert worse["against"]["queries"] == 60
    assert main([*map(str, where), "--against", str(saved), "--failures", "1"]) == OK
    shown = capsys.readouterr().out
    assert "against" in shown
    assert "keyword" in shown
    found = value(capsys, *where, "--against", trec, status=BAD_INPUT)
    assert "--save" in found["error"]["fix"]
    nowhere = tmp_path / "no" / "x"
    assert value(capsys, *where, "--save", nowhere, status=BAD_INPUT)["error"]


@pytest.mark.parametrize(
    ("ranks", "stage"),
    [
        ({"keyword": None, "dense": None, "fused": None, "returned": None}, "candidates"),
        ({"keyword": 4, "dense": 3, "fused": 3, "returned": 3}, "sides"),
        ({"keyword": 1, "dense": 9, "fused": 3, "returned": 3}, "fusion"),
        ({"keyword": 1, "dense": 1, "fused": 1, "reranked": 2, "returned": 2}, "rerank"),
        ({"keyword": 1, "fused": 1, "returned": None}, "after"),
    ],
)
def test_the_stage_that_lost_it(ranks: dict[str, int | None], stage: str) -> None:
    assert stages.lost(ranks) == stage


def test_coverage_of_spans() -> None:
    hits = [Hit(Chunk("d", "x" * 60, start, start + 60), 1.0) for start in (100, 140, 0)]
    assert measures.in_order(hits, 130) == [("d", 100, 160), ("d", 140, 200), ("d", 0, 10)]
    assert measures.together(hits, 130) == [("d", 100, 160), ("d", 160, 200), ("d", 0, 30)]
    wanted = [("d", 20, 40), ("d", 30, 50), ("e", 0, 10)]
    assert measures.covered(wanted, [("d", 0, 35)]) == pytest.approx(15 / 40)
    assert measures.covered(wanted, []) == 0
    assert measures.covered([], [("d", 0, 1)]) == 0
