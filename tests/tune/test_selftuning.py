"""A whole collection that tunes itself, watches its recall, and can say what it did."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

import vivace
from vivace.collection.corpus import Corpus
from vivace.collection.plan_state import StoredPlan
from vivace.collection.segment_directory import read_manifest
from vivace.engine import Collection, Engine
from vivace.errors import BadInput, Closed, CollectionLocked, InfeasibleObjective, MissingExtra
from vivace.settings import Tune, load
from vivace.tune import selftuning
from vivace.tune.guard import FAILED
from vivace.tune.selftuning import SelfTuning, objective_of
from vivace.tune.tuning import Tuning
from vivace.types import Chunk, Decision, Objective, Plan, Query, UpkeepProgress, Vectors

DIM = 32
ROWS = 3_000


def engine(dim: int = DIM, **tune: object) -> Engine:
    index = {"seal_chunks": 1024, "merge_factor": 2}
    return Engine(load(embed__model=f"given:{dim}", search__threads=1, index=index, tune=tune))


def clustered(n: int = ROWS, seed: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(60, DIM))
    rows = centres[rng.integers(0, 60, n)] + 0.6 * rng.normal(size=(n, DIM))
    return np.asarray(rows, np.float32)


async def filled(engine: Engine, folder: Path, vectors: Vectors) -> Collection:
    docs = await engine.open(folder)
    await docs.add([Chunk(f"d{n}", f"text {n}") for n in range(len(vectors))], vectors)
    await asyncio.to_thread(docs.corpus.settle)
    return docs


def families(docs: Collection) -> list[str]:
    """Of the sealed segments, which hold every row."""
    manifest = read_manifest(docs.corpus.folder)
    assert manifest is not None
    assert sum(entry.files.n for entry in manifest.segments) == len(docs.corpus.store.ids())
    return [entry.files.family for entry in manifest.segments]


def watching() -> bool:
    return any(thread.name.startswith("vivace-recall") for thread in threading.enumerate())


async def told(docs: Collection, what: str) -> list[Decision]:
    """Oldest first."""
    return [d for d in reversed(await docs.decisions()) if d.what == what]


class TestTuning:
    async def test_tuning_replaces_plan_and_segments(self, tmp_path: Path) -> None:
        seen: list[UpkeepProgress] = []
        async with engine() as e:
            docs = await filled(e, tmp_path / "c", clustered())
            assert docs.plan is None
            tuning = await docs.tune(
                Objective(0.9), budget_seconds=6, families=["pq"], progress=seen.append
            )
            assert (tuning.source, tuning.rows, tuning.plan.family) == ("synthetic", ROWS, "pq")
            assert tuning.chosen.recall >= 0.9
            assert docs.plan == tuning.plan
            assert docs.stored_plan is not None
            assert docs.stored_plan.objective == Objective(0.9)
            assert families(docs) == ["pq"]
            (decision,) = await told(docs, "plan")
            assert decision.before is None
            assert decision.after["family"] == "pq"
            assert decision.evidence["rows"] == ROWS
            assert len(decision.evidence["trials"]) == len(tuning.trials)
            assert decision.reason == tuning.reason
            assert {step.step for step in seen} >= {"neighbours", "plan: segments"}
        async with engine() as e:
            docs = await e.open(tmp_path / "c")
            assert docs.plan == tuning.plan
            assert families(docs) == ["pq"]

    async def test_a_tuning_that_is_not_applied_changes_nothing(self, tmp_path: Path) -> None:
        async with engine() as e:
            docs = await filled(e, tmp_path / "c", clustered(1200))
            before = docs.corpus.snapshot()
            await docs.tune(Objective(0.9), budget_seconds=4, families=["pq"], apply=False)
            assert docs.plan is None
            assert docs.corpus.snapshot() is before
            assert await told(docs, "plan") == []

    async def test_an_infeasible_objective_is_recorded(self, tmp_path: Path) -> None:
        async with engine() as e:
            docs = await filled(e, tmp_path / "c", clustered(1200))
            impossible = Objective(1.0, memory_bytes=1000)
            with pytest.raises(InfeasibleObjective):
                await docs.tune(impossible, budget_seconds=4, families=["flat", "pq"])
            assert docs.plan is None
            (decision,) = await told(docs, "plan")
            assert decision.before == decision.after
            assert decision.evidence["objective"]["memory_bytes"] == 1000

    async def test_searches_go_on_during_a_tuning(self, tmp_path: Path) -> None:
        async with engine() as e:
            vectors = clustered(1200)
            docs = await filled(e, tmp_path / "c", vectors)
            tuning = asyncio.create_task(docs.tune(Objective(0.9), budget_seconds=4))
            answered = 0
            while not tuning.done():
                at = answered % len(vectors)
                found = await docs.search(Query("", 3, vector=vectors[at]))
                assert found.hits[0].chunk.document_id == f"d{at}"
                answered += 1
                await asyncio.sleep(0)
            await tuning
            assert answered > 1

    async def test_cancelling_a_tuning_keeps_the_best_so_far(self, tmp_path: Path) -> None:
        async with engine() as e:
            docs = await filled(e, tmp_path / "c", clustered())
            task: asyncio.Task[Tuning] | None = None
            cancelled = False

            def step(now: UpkeepProgress) -> None:
                nonlocal cancelled
                if now.step == "candidates" and task is not None and not cancelled:
                    cancelled = task.cancel()

            task = asyncio.create_task(docs.tune(Objective(0.9), budget_seconds=20, progress=step))
            tuning = await task
            assert tuning.interrupted
            assert docs.plan == tuning.plan

    async def test_a_tuning_waits_for_another_writer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = 0
        keep = Corpus.set_plan

        def locked_at_first(self: Corpus, stored: StoredPlan) -> None:
            nonlocal asked
            asked += 1
            if asked < 3:
                raise CollectionLocked("another process writes", fix="Wait")
            keep(self, stored)

        monkeypatch.setattr(Corpus, "set_plan", locked_at_first)
        monkeypatch.setattr(selftuning, "POLL_SECONDS", 0.01)
        async with engine() as e:
            docs = await filled(e, tmp_path / "c", clustered(1200))
            tuning = await docs.tune(Objective(0.9), budget_seconds=4, families=["pq"])
            assert asked == 3
            assert docs.plan == tuning.plan

    async def test_a_retuning_does_not_lower_the_effort_that_live_questions_needed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with engine() as e:
            docs = await filled(e, tmp_path / "c", clustered(1200))
            found = await docs.tune(Objective(0.9), budget_seconds=4, families=["pq"])
            assert docs.stored_plan is not None
            needed = replace(found.plan, effort=found.plan.effort + 7)
            docs.corpus.set_plan(msgspec.structs.replace(docs.stored_plan, plan=needed))
            monkeypatch.setattr(selftuning, "tune", lambda *_, **__: found)
            await docs.tuning.tune(Objective(0.9), low_priority=True)
            assert docs.plan == needed
            decision = (await told(docs, "plan"))[-1]
            assert f"stays at {needed.effort}" in decision.reason
            await docs.tune(Objective(0.9))  # asked for, it is as it was found
            assert docs.plan == found.plan

    async def test_tuning_an_empty_collection_is_refused(self, tmp_path: Path) -> None:
        async with engine() as e:
            docs = await e.open(tmp_path / "c")
            with pytest.raises(BadInput):
                await docs.tune()

    async def test_tuning_a_closed_collection_is_refused(self, tmp_path: Path) -> None:
        async with engine() as e:
            docs = await filled(e, tmp_path / "c", clustered(200))
            await docs.close()
            with pytest.raises(Closed):
                await docs.tune()

    async def test_closing_ends_a_tuning_without_applying_it(self, tmp_path: Path) -> None:
        async with engine() as e:
            docs = await filled(e, tmp_path / "c", clustered())
            begun = asyncio.Event()
            task = asyncio.create_task(docs.tune(budget_seconds=60, progress=lambda _: begun.set()))
            await begun.wait()
            await docs.close()
            with pytest.raises(Closed):
                await task
        assert not (tmp_path / "c" / "plan.json").exists()

    async def test_closing_ends_the_reshaping_by_a_plan(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun = threading.Event()

        def reshape(self: Corpus, progress: Callable[[UpkeepProgress], None]) -> None:
            begun.set()
            while True:
                progress(UpkeepProgress("plan: segments", 0, 1))

        monkeypatch.setattr(Corpus, "reshape", reshape)
        async with engine() as e:
            docs = await filled(e, tmp_path / "c", clustered())
            task = asyncio.create_task(docs.tune(Objective(0.9), budget_seconds=4))
            assert await asyncio.to_thread(begun.wait, 60)
            await docs.close()
            with pytest.raises(Closed):
                await task
        assert (tmp_path / "c" / "plan.json").exists()

    def test_tuning_by_the_blocking_facade(self, tmp_path: Path) -> None:
        vectors = clustered(1200)
        with vivace.open(tmp_path / "c", embed__model=f"given:{DIM}") as docs:
            docs.add([Chunk(f"d{n}", f"text {n}") for n in range(len(vectors))], vectors)
            tuning = docs.tune(Objective(0.9), budget_seconds=4, families=["pq"])
            assert docs.plan == tuning.plan
            assert docs.recall().queries == 0

    def test_an_objective_from_settings(self) -> None:
        assert objective_of(Tune()) == Objective(0.95)
        limited = Tune(recall=0.9, p95_ms=5, memory_mib=1.5)
        assert objective_of(limited) == Objective(0.9, 5.0, 3 << 19)


class TestGuard:
    """Real vectors, and an effort that is deliberately too low."""

    async def test_the_floor_is_restored_and_every_step_recorded(
        self, data: Path, tmp_path: Path
    ) -> None:
        if not (data / "ann").is_dir():
            pytest.skip("there are no vectors")
        base = np.load(data / "ann" / "sentences40k.base.f16.npy")[:8_000].astype(np.float32)
        asked = np.load(data / "ann" / "sentences40k.queries.f16.npy").astype(np.float32)
        settings = load(
            embed__model="given:384",
            index={"family": "pq", "seal_chunks": 2048},
            search={"threads": 1, "candidates": 10},
            tune={"recall": 0.95, "budget_seconds": 3, "guard_share": 1.0},
        )
        async with Engine(settings) as e:
            docs = await filled(e, tmp_path / "c", base)
            low = Plan("pq", {}, 10)
            docs.corpus.set_plan(StoredPlan(low, objective_of(settings.tune)))
            watch = docs.tuning.watch
            assert watch is not None
            for row in asked[:300]:
                await docs.search(Query("", 5, vector=row))
                watch.drain()
            assert docs.plan is not None
            assert docs.plan.effort > 10
            if docs.tuning.retuning is not None:
                await docs.tuning.retuning
            for row in asked[300:400]:
                await docs.search(Query("", 5, vector=row))
                watch.drain()
            assert docs.recall().mean >= 0.95
            raised = await told(docs, "recall")
            assert raised[0].before["effort"] == 10
            assert raised[0].after["effort"] > 10
            assert raised[0].evidence["mean"] < 0.95
            assert raised[0].evidence["queries"] <= 300
            assert "under the floor of 0.95" in raised[0].reason
            assert [d.evidence["source"] for d in await told(docs, "plan")] == ["synthetic"]
            counters = docs.trace.counters()
            assert counters["recall.samples"] <= 400
            assert counters["tune.again"] == 1
            assert docs.trace.gauges()["recall.queries"] == docs.recall().queries

    async def test_without_the_guard_nothing_is_watched(self, tmp_path: Path) -> None:
        async with engine(guard=False) as e:
            docs = await filled(e, tmp_path / "c", clustered(50))
            await docs.search(Query("", 3, vector=clustered(1)[0]))
            assert docs.recall().queries == 0
            assert docs.tuning.watch is None

    async def test_a_failing_check_is_counted_and_the_answer_stands(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise MissingExtra("a library", "graph")

        vectors = clustered()
        index = {"seal_chunks": 1024, "merge_factor": 2, "family": "pq"}
        settings = load(embed__model=f"given:{DIM}", index=index, tune__guard_share=1.0)
        async with Engine(settings) as e:
            docs = await filled(e, tmp_path / "c", vectors)
            watch = docs.tuning.watch
            assert watch is not None
            monkeypatch.setattr("vivace.collection.dense.Dense.exact", broken)
            for row in vectors[:200]:
                assert (await docs.search(Query("", 3, vector=row))).hits
                watch.drain()
            assert docs.trace.counters()[FAILED] > 0
            assert docs.recall().queries == 0

    async def test_retunings_keep_their_distance_and_run_one_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun = 0

        async def tune(*_: object, **__: object) -> None:
            nonlocal begun
            begun += 1

        async with engine(retune_seconds=600) as e:
            docs = await filled(e, tmp_path / "c", clustered(50))
            now, embedder = [0.0], e.resources.embedder
            tuning = SelfTuning(
                docs.corpus, embedder, e.settings, docs.trace, docs.record, lambda: now[0]
            )
            monkeypatch.setattr(tuning, "tune", tune)
            for at in (0.0, 1.0, 599.0, 600.0, 601.0):
                now[0] = at
                tuning.retune()
                tuning.retune()
                assert tuning.retuning is not None
                await tuning.retuning
            await tuning.close()
            assert begun == 2

    async def test_the_watch_ends_with_the_collection(self, tmp_path: Path) -> None:
        index = {"seal_chunks": 512, "merge_factor": 2, "family": "pq"}
        settings = load(embed__model=f"given:{DIM}", index=index, tune__guard_share=1.0)
        vectors = clustered(1200)
        async with Engine(settings) as e:
            docs = await filled(e, tmp_path / "c", vectors)
            watch = docs.tuning.watch
            assert watch is not None
            for row in vectors[:200]:
                await docs.search(Query("", 3, vector=row))
            watch.drain()
            assert docs.recall().queries > 0
            assert watching()
            await docs.close()
            assert not watching()
