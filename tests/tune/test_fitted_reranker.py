"""search.rerank = "fitted": weights of the collection's own labels, where they help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

import vivace
from vivace.retrieve import fitted
from vivace.types import Stages

WORDS = ("amber", "birch", "cedar", "delta", "ember", "flint", "grove", "heath")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """What answers has the question's words side by side; what does not has more of them, apart."""
    folder = tmp_path / "set"
    folder.mkdir()
    corpus, queries, qrels = [], [], ["query_id\tdoc_id\trel"]
    pairs = [(a, b) for a in WORDS for b in WORDS if a != b]
    for at, (one, other) in enumerate(pairs):
        right = f"It was the {one} {other} that everybody in the valley talked about that year."
        wrong = f"The {one} came first. {other} {one} {other} are old words; nobody {one} knew."
        for kind, text in (("right", right), ("wrong", f"{wrong} So it was with {other}.")):
            corpus.append({"id": f"{kind}{at}", "title": "", "text": text})
        queries.append({"id": f"q{at}", "text": f"{one} {other}"})
        qrels.append(f"q{at}\tright{at}\t1")
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels.tsv").write_text("\n".join(qrels) + "\n")
    return folder


def test_a_fitted_reranker_is_saved_used_and_recorded(dataset: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"embed": {"tokens": "off"}, "search": {"rerank": "fitted"}}
    where = tmp_path / "collection"
    with vivace.open(where, **settings) as docs:
        docs.ingest(dataset / "corpus.jsonl")
        assert "reranked" not in docs.search("amber birch").hits[0].stages
        looked = docs.tune_quality(dataset / "qrels.tsv", apply=False)
        assert looked.reranker is not None
        assert not (where / fitted.FILE).exists()
        found = docs.tune_quality(dataset / "qrels.tsv")
        model = found.reranker
        assert model is not None
        assert model.enabled
        assert 0 < model.low <= model.gain
        assert dict(zip(model.names, model.weights, strict=True))["phrase"] > 0
        assert "so it is used" in found.reason
        assert "reranked" in docs.search("amber birch").hits[0].stages
        (decision,) = [one for one in docs.decisions() if one.what == "reranker"]
        assert decision.evidence["questions"] == model.questions == 56
    with vivace.open(where, **settings) as docs:
        assert "reranked" in docs.search("cedar delta").hits[0].stages


def test_a_fitted_reranker_that_does_not_help_is_not_used(dataset: Path, tmp_path: Path) -> None:
    where = tmp_path / "collection"
    settings: dict[str, Any] = {"search": {"rerank": "fitted"}}
    with vivace.open(where, **settings) as docs:
        docs.ingest(dataset / "corpus.jsonl")
        stages: Stages = docs.collection.stages
        model = fitted.FittedModel(
            docs.collection.corpus.store.uuid,
            (1.0,) * len(fitted.NAMES),
            stages.rerank.weight,
            stages.rerank.depth,
            60,
            0.01,
            -0.01,
            0.03,
            enabled=False,
        )
        fitted.save(model, where / fitted.FILE)
    with vivace.open(where, **settings) as docs:  # late interaction, as with `auto`
        assert "fused" in docs.search("amber birch").hits[0].stages
        trace = docs.collection.trace
        fitted.save(msgspec.structs.replace(model, collection="another"), where / fitted.FILE)
    with vivace.open(where, **settings) as docs:
        assert docs.search("amber birch").hits
        trace = docs.collection.trace
        assert trace.counters()["rerank.unreadable"] == 1
