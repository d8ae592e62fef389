"""Tuning the stages of one collection: by given labels, or by questions made from its corpus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from vivace.collection.corpus import Corpus
from vivace.collection.plan_state import StoredPlan
from vivace.errors import BadInput
from vivace.protocols import CandidateSource, Embedder, EmbedsTokens
from vivace.retrieve.maxsim import maxsim
from vivace.run.work import Priority, work_context
from vivace.settings import Search, Settings
from vivace.tune import fitting, labels, pseudo, quality, replay
from vivace.tune.docstrings import QuestionKind
from vivace.tune.labels import LabelledQuestion
from vivace.tune.quality import Quality, SearchCosts
from vivace.tune.selftuning import Decide, objective_of
from vivace.tune.workload import vectors_of
from vivace.types import (
    Decision,
    Fusion,
    Ids,
    OnUpkeep,
    Plan,
    Rerank,
    Scores,
    Signs,
    Stages,
    UpkeepProgress,
    Vectors,
)

MOST: Final = 2_000
"""Given questions that are used; more would not narrow the intervals noticeably."""
_TIMED: Final = 60
"""Questions that are timed."""
_AT_ONCE: Final = 256
_NO_PLAN: Final = Plan("")
"""Stages without a choice of index: segments stay as without a plan."""


def in_force(settings: Search, stored: StoredPlan | None) -> Stages:
    """The stages of a search now: the plan's, else the settings'."""
    depth = 0 if settings.rerank == "off" else settings.rerank_depth
    plain = Stages(
        settings.candidates,
        {"": Fusion(weight=settings.keyword_weight)},
        Rerank(depth, settings.rerank_weight),
    )
    stages = stored.plan.stages if stored is not None else None
    if stages is None:
        return plain
    return replace(stages, fusion={**plain.fusion, **stages.fusion})


class QualityTuning:
    """Measures the stages of one collection, and puts them into its plan."""

    def __init__(
        self, corpus: Corpus, embedder: Embedder, settings: Settings, decide: Decide
    ) -> None:
        self._corpus = corpus
        self._embedder = embedder
        self._settings = settings
        self._decide = decide
        self._one = asyncio.Lock()

    async def tune(
        self,
        qrels: Path | None = None,
        *,
        apply: bool = True,
        seed: int = 0,
        progress: OnUpkeep | None = None,
    ) -> Quality:
        """See `Collection.tune_quality`."""
        report = progress or (lambda _: None)
        async with self._one:
            began = time.perf_counter()
            with work_context(Priority.BACKGROUND):
                report(UpkeepProgress("questions"))
                questions, kinds = await self._questions(qrels, seed)
                found = await self._measured(questions, kinds, qrels is not None, seed, report)
            found = replace(found, seconds=time.perf_counter() - began)
            if apply:
                await asyncio.to_thread(self._apply, found)
            return found

    async def _questions(
        self, qrels: Path | None, seed: int
    ) -> tuple[list[LabelledQuestion], list[QuestionKind]]:
        if qrels is None:
            made = await pseudo.labelled(self._corpus.store, self._embedder, seed=seed)
            if not made:
                raise BadInput(
                    "no questions can be made of this collection",
                    fix="Ingest some text, or give questions of your own with --qrels",
                )
            return [question for question, _ in made], [kind for _, kind in made]
        given = await asyncio.to_thread(labels.read, qrels)
        given = [item for item in given if item.query.text.strip()]
        order = np.random.default_rng(seed).permutation(len(given))[:MOST]
        given = [given[at] for at in np.sort(order).tolist()]
        vectors = await vectors_of([item.query.text for item in given], self._embedder)
        return [
            LabelledQuestion(item.query.text, item.relevant, vector=vector)
            for item, vector in zip(given, vectors, strict=True)
        ], []

    async def _measured(
        self,
        questions: Sequence[LabelledQuestion],
        kinds: Sequence[QuestionKind],
        given: bool,
        seed: int,
        report: OnUpkeep,
    ) -> Quality:
        source = self._corpus.snapshot()
        rerank = await self._late_interaction(source, questions) if given else None
        before = in_force(self._settings.search, self._corpus.stored_plan)
        loop = asyncio.get_running_loop()

        def report_later(step: UpkeepProgress) -> None:
            loop.call_soon_threadsafe(report, step)

        def step(done: int, total: int) -> None:
            report_later(UpkeepProgress("candidates", done, total))

        def work() -> Quality:
            pools = replay.gather(source, questions, rerank_scores=rerank, step=step)
            some = questions[:_TIMED]
            widths = sorted({*quality.WIDTHS, before.candidates})
            costs = SearchCosts(
                replay.milliseconds(source, some, widths),
                {} if rerank is None else _rerank_milliseconds(rerank, pools, before),
            )
            found = quality.choose(
                questions,
                pools,
                before,
                source="qrels" if given else "pseudo",
                costs=costs,
                kinds=kinds,
                seed=seed,
            )
            # questions made from passages would teach that a passage's own words are what matters
            if given and self._settings.search.rerank == fitting.SETTING:
                report_later(UpkeepProgress("weights"))
                model = fitting.fit_collection(self._corpus, source, questions, pools, found.stages)
                said = f"{found.reason} {fitting.decision(model, None).reason}"
                found = replace(found, reranker=model, reason=said)
            return found

        return await asyncio.to_thread(work)

    async def _late_interaction(
        self, source: CandidateSource, questions: Sequence[LabelledQuestion]
    ) -> replay.RerankScores | None:
        """Scores by late interaction with the stored token signs, if model and settings have it."""
        embedder = self._embedder
        if not isinstance(embedder, EmbedsTokens):
            return None
        if self._settings.search.rerank not in ("auto", "maxsim"):
            return None
        tokens: list[Vectors] = []
        for at in range(0, len(questions), _AT_ONCE):
            texts = [question.text for question in questions[at : at + _AT_ONCE]]
            tokens += (await embedder.embed_tokens(texts, kind="query")).tokens or ()
        if len(tokens) < len(questions):
            return None
        nothing: Signs = np.empty((0, -(-embedder.dim // 8)), np.uint8)

        def scores(number: int, ids: Ids) -> Scores:
            signs = source.reader.signs(ids.tolist())
            return maxsim(tokens[number], [signs.get(at, nothing) for at in ids.tolist()])

        return scores

    def _apply(self, found: Quality) -> None:
        if found.reranker is not None:
            fitting.save(self._corpus, found.reranker, self._decide)
        if not found.changed:
            return
        stored = self._corpus.stored_plan
        if stored is None:
            stored = StoredPlan(_NO_PLAN, objective_of(self._settings.tune))
        # languages that were not tuned keep following the settings
        own = {name: how for name, how in found.stages.fusion.items() if name}
        plan = replace(stored.plan, stages=replace(found.stages, fusion=own))
        self._corpus.set_plan(msgspec.structs.replace(stored, plan=plan))
        self._decide(decision(found))


def _rerank_milliseconds(
    rerank: replay.RerankScores, pools: Sequence[replay.CandidatePool], before: Stages
) -> dict[int, float]:
    """Median milliseconds of reranking by depth."""
    found = {}
    for depth in sorted({*quality.DEPTHS, before.rerank.depth} - {0}):
        taken = []
        for number, pool in enumerate(pools[:_TIMED]):
            if pool.reranked is not None:
                began = time.perf_counter()
                rerank(number, pool.ids[:depth])
                taken.append(time.perf_counter() - began)
        found[depth] = float(np.median(taken or [0.0])) * 1e3
    return found


def decision(found: Quality) -> Decision:
    """The decision that records these stages."""
    plain = msgspec.to_builtins(found)
    evidence = {
        k: plain[k] for k in ("source", "questions", "kinds", "tried", "seconds") if plain[k]
    }
    return Decision("fusion", plain["before"], plain["stages"], found.reason, evidence)
