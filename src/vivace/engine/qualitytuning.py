"""A collection that chooses its stages: by labels that were given, else by its own corpus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import numpy as np

from vivace.collection.corpus import Corpus
from vivace.collection.planned import Planned
from vivace.engine import fittedranking
from vivace.engine.selftuning import Decide, objective_of
from vivace.errors import BadInput
from vivace.protocols import CandidateSource, Embedder, EmbedsTokens
from vivace.run.work import Priority, work_context
from vivace.settings import Search, Settings
from vivace.text.language import language
from vivace.tune import labels, pseudo, quality, replay
from vivace.tune.quality import Costs, Quality
from vivace.tune.replay import Labelled
from vivace.types import (
    Decision,
    Fusion,
    Ids,
    Plan,
    Rerank,
    Scores,
    Signs,
    Stages,
    UpkeepProgress,
    Vector,
    Vectors,
)

Progress: TypeAlias = Callable[[UpkeepProgress], None]
MaxSim: TypeAlias = Callable[[Vectors, Sequence[Signs]], Scores]
"""As `retrieve.maxsim.maxsim`."""
MOST: Final = 2_000
"""Given questions that are used; more narrow no interval that matters."""
_TIMED: Final = 60
_AT_ONCE: Final = 256
_NO_PLAN: Final = Plan("")
"""Stages without a choice of index: segments are shaped as before any plan."""


def in_force(settings: Search, planned: Planned | None) -> Stages:
    """The stages that a search takes now: the plan's, else the settings'."""
    depth = 0 if settings.rerank == "off" else settings.rerank_depth
    plain = Stages(
        settings.candidates,
        {"": Fusion(weight=settings.keyword_weight)},
        Rerank(depth, settings.rerank_weight),
    )
    stages = planned.plan.stages if planned is not None else None
    if stages is None:
        return plain
    return replace(stages, fusion={**plain.fusion, **stages.fusion})


class QualityTuning:
    """Measures the stages of one collection, and puts them into its plan."""

    def __init__(
        self,
        corpus: Corpus,
        embedder: Embedder,
        settings: Settings,
        decide: Decide,
        maxsim: MaxSim | None = None,
    ) -> None:
        self._corpus = corpus
        self._embedder = embedder
        self._settings = settings
        self._decide = decide
        self._maxsim = maxsim
        self._one = asyncio.Lock()

    async def tune(
        self,
        qrels: Path | None = None,
        *,
        apply: bool = True,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Quality:
        """See `Collection.tune_quality`."""
        tell = progress or (lambda _: None)
        async with self._one:
            began = time.perf_counter()
            with work_context(Priority.BACKGROUND):
                tell(UpkeepProgress("questions"))
                questions, kinds = await self._questions(qrels, seed)
                found = await self._measured(questions, kinds, qrels is not None, seed, tell)
            found = replace(found, seconds=time.perf_counter() - began)
            if apply:
                await asyncio.to_thread(self._apply, found)
            return found

    async def _questions(
        self, qrels: Path | None, seed: int
    ) -> tuple[list[Labelled], list[pseudo.Kind]]:
        if qrels is None:
            made = await pseudo.labelled(self._corpus.store, self._embedder, seed=seed)
            if not made:
                raise BadInput(
                    "no questions can be made of this collection",
                    fix="Ingest some text, or give questions of your own with --qrels",
                )
            return [question for question, _ in made], [kind for _, kind in made]
        given = [item for item in await asyncio.to_thread(_given, qrels) if item.query.text.strip()]
        order = np.random.default_rng(seed).permutation(len(given))[:MOST]
        given = [given[at] for at in np.sort(order).tolist()]
        texts = [item.query.text for item in given]
        readable = [text for text in texts if self._embedder.reads(language(text))]
        vectors: dict[str, Vector] = {}
        for at in range(0, len(readable), _AT_ONCE):
            batch = readable[at : at + _AT_ONCE]
            embedded = await self._embedder.embed(batch, kind="query")
            vectors.update(zip(batch, embedded.vectors, strict=True))
        return [
            Labelled(item.query.text, item.relevant, vector=vectors.get(item.query.text))
            for item in given
        ], []

    async def _measured(
        self,
        questions: Sequence[Labelled],
        kinds: Sequence[pseudo.Kind],
        given: bool,
        seed: int,
        tell: Progress,
    ) -> Quality:
        source = self._corpus.snapshot()
        again = await self._again(source, questions) if given else None
        before = in_force(self._settings.search, self._corpus.planned)
        loop = asyncio.get_running_loop()

        def tell_later(step: UpkeepProgress) -> None:
            loop.call_soon_threadsafe(tell, step)

        def step(done: int, total: int) -> None:
            tell_later(UpkeepProgress("candidates", done, total))

        def work() -> Quality:
            pools = replay.gather(source, questions, again=again, step=step)
            some = questions[:_TIMED]
            widths = sorted({*quality.WIDTHS, before.candidates})
            costs = Costs(
                replay.milliseconds(source, some, widths),
                {} if again is None else _rerank_milliseconds(again, pools, before),
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
            # made of passages, questions would teach that their own words are what matters
            if given and self._settings.search.rerank == fittedranking.NAME:
                tell_later(UpkeepProgress("weights"))
                model = fittedranking.fit(self._corpus, source, questions, pools, found.stages)
                said = f"{found.reason} {fittedranking.decision(model, None).reason}"
                found = replace(found, reranker=model, reason=said)
            return found

        return await asyncio.to_thread(work)

    async def _again(
        self, source: CandidateSource, questions: Sequence[Labelled]
    ) -> replay.Again | None:
        """Late interaction with the stored token signs, where model and settings have it."""
        maxsim, embedder = self._maxsim, self._embedder
        if maxsim is None or not isinstance(embedder, EmbedsTokens):
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
            signs = source.signs(ids.tolist())
            return maxsim(tokens[number], [signs.get(id, nothing) for id in ids.tolist()])

        return scores

    def _apply(self, found: Quality) -> None:
        if found.reranker is not None:
            fittedranking.keep(self._corpus, found.reranker, self._decide)
        if not found.changed:
            return
        planned = self._corpus.planned
        if planned is None:
            planned = Planned(_NO_PLAN, objective_of(self._settings.tune))
        # the settings' fusion stays theirs to change, for every language that was not tuned
        own = {name: how for name, how in found.stages.fusion.items() if name}
        plan = replace(planned.plan, stages=replace(found.stages, fusion=own))
        self._corpus.set_plan(msgspec.structs.replace(planned, plan=plan))
        self._decide(decision(found))


def _given(qrels: Path) -> list[labels.Judged]:
    if qrels.is_dir():
        return labels.read(qrels)
    return labels.judged(qrels, qrels.with_name("queries.jsonl"))


def _rerank_milliseconds(
    again: replay.Again, pools: Sequence[replay.Pool], before: Stages
) -> dict[int, float]:
    """Median milliseconds of a second look by depth."""
    found = {}
    for depth in sorted({*quality.DEPTHS, before.rerank.depth} - {0}):
        taken = []
        for number, pool in enumerate(pools[:_TIMED]):
            if pool.again is not None:
                began = time.perf_counter()
                again(number, pool.ids[:depth])
                taken.append(time.perf_counter() - began)
        found[depth] = float(np.median(taken or [0.0])) * 1e3
    return found


def decision(found: Quality) -> Decision:
    """What `vivace why` tells of it."""
    plain = msgspec.to_builtins(found)
    evidence = {
        k: plain[k] for k in ("source", "questions", "kinds", "tried", "seconds") if plain[k]
    }
    return Decision("fusion", plain["before"], plain["stages"], found.reason, evidence)
