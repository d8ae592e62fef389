"""Nothing changes unless it is clear; what is clear is found."""

from __future__ import annotations

import numpy as np
import pytest

from vivace.tune.labels import LabelledQuestion
from vivace.tune.quality import SearchCosts, choose, fusion_of
from vivace.tune.replay import CandidatePool, ranks
from vivace.types import Fusion, Rerank, Stages

HELD = Stages(50, {"": Fusion()}, Rerank(0))


def questions(n: int, text: str = "what is it") -> list[LabelledQuestion]:
    return [LabelledQuestion(f"{text} {at}", frozenset({"a"})) for at in range(n)]


def pools(
    n: int, *, side: float, read: bool = True, again: bool = False, seed: int = 0
) -> list[CandidatePool]:
    """The dense side knows the answer in the share `side` of them, the keyword side in the rest."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        bm25 = rng.uniform(1, 10, 20).astype(np.float32)
        cosine = rng.uniform(0, 0.8, 20).astype(np.float32)
        if rng.random() < side:
            cosine[0], bm25[0] = 0.95, 0.5
        else:
            bm25[0], cosine[0] = 11, 0.1
        ids, every = np.arange(20), np.ones(20, np.bool_)
        found.append(
            CandidatePool(
                ids,
                bm25,
                cosine if read else None,
                ranks(bm25, every, ids),
                ranks(cosine, every, ids),
                ids,
                ids == 0,
                1,
                (ids == 0).astype(np.float32) if again else None,
            )
        )
    return found


def test_the_better_side_is_chosen_and_every_trial_recorded() -> None:
    found = choose(
        questions(200), pools(200, side=1.0), HELD, source="pseudo", costs=SearchCosts({50: 0.4})
    )
    how = fusion_of(found.stages, "en")
    assert how.mode == "dense" or how.weight < 0.5
    assert found.changed
    assert found.stages.fusion[""] == Fusion()
    (chosen,) = [row for row in found.tried if row.stage == "fusion" and row.chosen]
    assert chosen.fusion == how
    assert chosen.low > 0
    assert chosen.milliseconds == 0.4
    assert found.questions == {"en": 200}
    assert "en: " in found.reason.lower()
    other = choose(questions(200), pools(200, side=0.0), HELD, source="pseudo")
    assert fusion_of(other.stages, "en").weight > 0.5 or other.stages.fusion["en"].mode == "keyword"


@pytest.mark.parametrize("seed", range(4))
def test_chance_alone_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = []
    for one in pools(80, side=0.0, seed=seed):
        order = rng.permutation(20)
        noise = rng.uniform(1, 10, 20).astype(np.float32)
        cosine = rng.uniform(0, 1, 20).astype(np.float32)
        every = np.ones(20, np.bool_)
        found.append(
            CandidatePool(
                one.ids, noise, cosine, ranks(noise, every, one.ids),
                ranks(cosine, every, one.ids), one.ids, order == 0, 1,
            )
        )  # fmt: skip
    assert not choose(questions(80), found, HELD, source="qrels").changed


def test_too_few_questions_change_nothing() -> None:
    found = choose(questions(30), pools(30, side=1.0), HELD, source="qrels")
    assert not found.changed
    assert "too few" in found.reason


def test_an_unread_language_is_left_to_the_keyword_side() -> None:
    asked = questions(80, "试用期是多久")
    found = choose(asked, pools(80, side=1.0, read=False), HELD, source="pseudo")
    assert not found.changed
    assert found.tried == ()
    assert "zh: the model does not read it" in found.reason.lower()


def test_each_language_gets_its_own_fusion() -> None:
    asked = questions(150) + questions(150, "试用期是多久")
    both = pools(150, side=1.0) + pools(150, side=0.0)
    found = choose(asked, both, HELD, source="qrels")
    assert fusion_of(found.stages, "en") != fusion_of(found.stages, "zh")
    assert fusion_of(found.stages, "ko") == Fusion()


def test_reranking_is_judged_only_by_given_labels() -> None:
    asked, found = questions(150), pools(150, side=0.5, again=True)
    given = choose(
        asked, found, HELD, source="qrels", costs=SearchCosts({50: 0.4}, {10: 0.6, 20: 1.2})
    )
    assert given.stages.rerank.depth > 0
    costs = {r.rerank.depth: r.milliseconds for r in given.tried if r.stage == "rerank"}
    assert costs[10] == pytest.approx(1.0)
    made = choose(asked, found, HELD, source="pseudo")
    assert made.stages.rerank == HELD.rerank
    assert not [row for row in made.tried if row.stage == "rerank"]
