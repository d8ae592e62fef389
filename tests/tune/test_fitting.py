"""A reranker is fitted where judged questions show that it helps, and nowhere else."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from vivace.errors import BadSettings, CorruptIndex
from vivace.retrieve import fitted
from vivace.retrieve.fitted import NAMES, FittedModel, FittedReranker
from vivace.tune import fitting
from vivace.tune.fitting import FEWEST, JudgedRanking, weigh
from vivace.types import Chunk, Hit

PHRASE = NAMES.index("phrase")
HERE = "this collection"


def fit(judged: Sequence[JudgedRanking]) -> FittedModel:
    return fitting.fit(judged, HERE)


def question(rng: np.random.Generator, *, told: float, group: Hashable = None) -> JudgedRanking:
    """Twenty candidates, one relevant at any rank; `told` is how far its phrase stands out."""
    features = rng.uniform(0, 1, (20, len(NAMES))).astype(np.float32)
    relevant = np.zeros(20, np.bool_)
    relevant[rng.integers(20)] = True
    features[relevant, PHRASE] += np.float32(told)
    fused = np.sort(rng.uniform(0.5, 1, 20))[::-1].astype(np.float32)
    return JudgedRanking(features, fused, relevant, 1, group)


def questions(count: int, *, told: float, seed: int = 0) -> list[JudgedRanking]:
    rng = np.random.default_rng(seed)
    return [question(rng, told=told) for _ in range(count)]


def test_an_informative_feature_gets_the_weight() -> None:
    model = fit(questions(200, told=0.8))
    assert model.enabled
    assert 0 < model.low < model.gain < model.high
    assert int(np.argmax(model.weights)) == PHRASE
    assert (model.questions, model.depth) == (200, 20)
    assert fit(questions(200, told=0.8)) == model  # the same questions, the same model


def test_uninformative_features_enable_no_reranker() -> None:
    """Against a ranking that is good already, noise can only lose."""
    rng = np.random.default_rng(1)
    judged = []
    for one in questions(200, told=0.0):
        relevant = np.zeros(20, np.bool_)
        relevant[int(rng.integers(2))] = True
        judged.append(replace(one, relevant=relevant))
    model = fit(judged)
    assert not model.enabled
    assert model.low <= 0
    with pytest.raises(BadSettings, match="gains"):
        FittedReranker(model)


def test_no_group_is_on_both_sides_of_a_fold() -> None:
    """One question asked a hundred times is one question, and too little to fit anything on."""
    one = question(np.random.default_rng(0), told=0.8, group="same")
    model = fit([one] * 500)
    assert not model.enabled
    assert model.weights == (0.0,) * len(NAMES)
    few = fit(questions(FEWEST - 1, told=0.8))
    assert not few.enabled
    assert fit([]).questions == 0


def test_questions_without_relevant_chunks_are_left_out() -> None:
    rng = np.random.default_rng(2)
    nothing = np.zeros(20, np.bool_)
    unfound = [replace(question(rng, told=0), relevant=nothing) for _ in range(60)]
    unknown = [replace(one, known=0) for one in unfound]
    assert not weigh(unfound).any()
    model = fit([*unfound, *unknown])
    assert (model.questions, model.gain, model.enabled) == (60, 0.0, False)
    empty = JudgedRanking(np.zeros((0, 7), np.float32), np.zeros(0, np.float32), nothing[:0], 1)
    assert fit([*unfound, empty]).questions == 61


def test_separable_questions_have_finite_weights() -> None:
    weights = weigh(questions(100, told=50.0))
    assert np.isfinite(weights).all()
    assert weights[PHRASE] > 0


def test_a_saved_model_is_loaded_and_used(tmp_path: Path) -> None:
    path = tmp_path / fitted.FILE
    assert fitted.load(path, HERE) is None
    weights = tuple(float(name == "coverage") for name in NAMES)
    model = FittedModel(HERE, weights, 0.5, 20, 100, 0.1, 0.05, 0.15, enabled=True)
    fitted.save(model, path)
    found = fitted.load(path, HERE)
    assert found == model
    assert found is not None
    reranker = FittedReranker(found)
    hits = [Hit(Chunk("a", text), 1.0) for text in ("a stone", "green grass", "grass")]
    scores = reranker.score_inline("green grass", hits)
    assert scores.tolist() == [0, 1, 0.5]
    assert reranker.score_inline("x", []).shape == (0,)


def test_a_damaged_file_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / fitted.FILE
    model = FittedModel(HERE, (0.5,) * len(NAMES), 0.5, 20, 100, 0.1, 0.05, 0.15, enabled=True)
    fitted.save(model, path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-9], whole.replace(b"0.15", b"0.16"), b"\xff", b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(CorruptIndex, match=r"reranker\.json"):
            fitted.load(path, HERE)
    fitted.save(
        FittedModel(HERE, (1.0,), 0.5, 1, 1, 0.1, 0.1, 0.1, enabled=True, names=("other",)), path
    )
    with pytest.raises(CorruptIndex, match="other features"):
        fitted.load(path, HERE)


def test_a_model_of_another_collection_is_refused(tmp_path: Path) -> None:
    path = tmp_path / fitted.FILE
    fitted.save(fit(questions(60, told=0.8)), path)
    with pytest.raises(BadSettings, match="another collection's"):
        fitted.load(path, "another collection")


def test_gains_of_questions_not_fitted_on() -> None:
    model = fit(questions(100, told=0.8))
    unseen = questions(100, told=0.8, seed=1)
    assert fitting.gains(unseen, model).mean() > 0.1
    no_weights = msgspec.structs.replace(model, weights=(0.0,) * len(NAMES))
    assert not fitting.gains(unseen, no_weights).any()
