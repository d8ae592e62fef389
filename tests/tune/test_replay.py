"""What is replayed is what a search finds; scores of other fusions follow by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vivace.engine import Engine
from vivace.settings import load
from vivace.tune import replay
from vivace.tune.labels import ChunkRemainder, LabelledQuestion
from vivace.tune.replay import CandidatePool
from vivace.types import Document, Fusion, Query, Rerank, Scores

TEXTS = [
    f"{animal} {verb} at {time}."
    for animal in ("Cats", "Dogs", "Birds", "Owls")
    for verb in ("sing", "sleep", "hunt")
    for time in ("dawn", "night")
]


def pool(
    bm25: Sequence[float],
    cosine: Sequence[float] | None,
    relevant: int,
    again: Scores | None = None,
) -> CandidatePool:
    n = len(bm25)
    scores = np.array(bm25, np.float32)
    ranks = replay.ranks(scores, scores > 0, np.arange(n))
    dense = np.array(cosine, np.float32) if cosine is not None else None
    every = np.ones(n, np.bool_)
    return CandidatePool(
        np.arange(n),
        scores,
        dense,
        ranks,
        ranks if dense is None else replay.ranks(dense, every, np.arange(n)),
        np.arange(n),
        np.arange(n) == relevant,
        1,
        again,
    )


@pytest.mark.parametrize("question", ["what do owls do at night?", "birds that sing"])
async def test_a_replay_ranks_as_the_search_does(tmp_path: Path, question: str) -> None:
    async with Engine(load(search__rerank="off")) as engine:
        docs = await engine.open(tmp_path / "c")
        await docs.add([Document(f"d{at}", text) for at, text in enumerate(TEXTS)])
        vector = (await engine.resources.embedder.embed([question], kind="query")).vectors[0]
        hits = (await docs.search(Query(question, 10, vector=vector))).hits
        asked = LabelledQuestion(question, frozenset({hits[1].chunk.document_id}), vector=vector)
        (found,) = replay.gather(docs.snapshot(), [asked])
        ranked = found.ids[replay.order(found, Fusion())]
        assert ranked[:10].tolist() == [hit.chunk.id for hit in hits]
        assert replay.gain(found, replay.order(found, Fusion())) == pytest.approx(1 / np.log2(3))


async def test_a_remainder_replaces_the_passages_scores(tmp_path: Path) -> None:
    async with Engine(load()) as engine:
        docs = await engine.open(tmp_path / "c")
        await docs.add([Document(f"d{at}", text) for at, text in enumerate(TEXTS)])
        vector = (await engine.resources.embedder.embed(["Owls hunt"], kind="query")).vectors[0]
        (plain,) = replay.gather(docs.snapshot(), [LabelledQuestion("Owls hunt", vector=vector)])
        first = int(plain.ids[replay.order(plain, Fusion("keyword"))[0]])
        asked = LabelledQuestion(
            "Owls hunt",
            chunks=frozenset({first}),
            vector=vector,
            remainders={first: ChunkRemainder(0.0, -vector)},
        )
        (masked,) = replay.gather(docs.snapshot(), [asked])
        at = masked.ids.tolist().index(first)
        assert masked.bm25[at] == 0
        assert masked.cosine is not None
        assert masked.cosine[at] == pytest.approx(-1, abs=1e-3)
        assert masked.keyword_rank[at] > 1_000_000
        assert masked.dense_rank[at] == len(TEXTS) - 1
        assert masked.relevant.tolist().count(True) == 1


def test_fusion_of_one_side_and_of_both() -> None:
    one = pool([4, 2, 0, 0], [0.1, 0.2, 0.9, 0.5], 2)
    assert replay.order(one, Fusion("keyword")).tolist()[:2] == [0, 1]
    assert replay.order(one, Fusion("dense")).tolist() == [2, 3, 1, 0]
    assert replay.replay([one], Fusion("dense")).tolist() == [1.0]
    # 0.5 * 4/4 + 0.5 * 0.1 = 0.55; 0.35; 0.45; 0.25
    assert replay.order(one, Fusion("max_norm", 0.5)).tolist() == [0, 2, 1, 3]


def test_a_question_without_a_vector_is_ranked_by_keywords() -> None:
    unread = pool([1, 3, 2], None, 1)
    for mode in ("dense", "rrf", "max_norm"):
        assert replay.order(unread, Fusion(mode)).tolist() == [1, 2, 0]


def test_a_narrower_width_sees_less() -> None:
    one = pool([5, 4, 3, 2], [0.0, 0.1, 0.2, 0.3], 2)
    assert replay.order(one, Fusion("keyword"), width=1).tolist() == [0, 3]
    assert len(replay.order(one, Fusion(), width=4)) == 4


def test_reranking_moves_only_the_first_candidates() -> None:
    again = np.array([0.1, 0.9, 0.3, 1.0], np.float32)
    one = pool([5, 4, 3, 2], [0.0] * 4, 1, again=again)
    how = Fusion("keyword")
    assert replay.order(one, how, rerank=Rerank(3, 1.0)).tolist() == [1, 2, 0, 3]
    assert replay.order(one, how, rerank=Rerank(0)).tolist() == [0, 1, 2, 3]
    assert replay.order(one, how, rerank=Rerank(3, 0.0)).tolist() == [0, 1, 2, 3]


def test_an_answer_in_several_chunks_counts_once() -> None:
    one = pool([5, 4, 3], None, 2)
    same = CandidatePool(
        one.ids, one.bm25, None, one.keyword_rank, one.dense_rank,
        np.array([0, 0, 1]), one.relevant, 1,
    )  # fmt: skip
    assert replay.gain(same, replay.order(same, Fusion("keyword"))) == pytest.approx(1 / np.log2(3))
    assert replay.gain(one, replay.order(one, Fusion("keyword"))) == pytest.approx(0.5)
