"""The part of a `Collection` that chooses its index and its stages."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from vivace.collection.querylog import QueryLog
from vivace.collection.reembedding import Progress as UpkeepProgressed
from vivace.engine.batches import Batches
from vivace.tune.metrics import Recall
from vivace.tune.quality import Quality
from vivace.tune.qualitytuning import QualityTuning
from vivace.tune.selftuning import SelfTuning
from vivace.tune.tuning import Tuning
from vivace.types import Objective


class Tuned(Batches):
    """By its index and by its passages; whoever derives from it has made the parts."""

    _tuning: SelfTuning
    _quality: QualityTuning
    _log: QueryLog

    @abstractmethod
    def _in_flight(self) -> AbstractContextManager[None]: ...

    @abstractmethod
    def _renew_searcher(self) -> None:
        """Something that it was made of has changed."""

    def recall(self) -> Recall:
        """Recall@10 of the newest live questions, some of which are answered again exactly."""
        return self._tuning.recall()

    async def tune(
        self,
        objective: Objective | None = None,
        *,
        budget_seconds: float | None = None,
        apply: bool = True,
        families: Sequence[str] | None = None,
        progress: UpkeepProgressed | None = None,
    ) -> Tuning:
        """Find the index that keeps to the objective at the least CPU a question, and use it.

        Judged by exact search over every chunk, on the questions that were logged, or as long as
        there are few, on some made from the chunks. Searches go on meanwhile. Cancelling it (once)
        ends the race, and returns and applies the best so far.

        Args:
            objective: the settings' (`tune.recall`, ...) unless given.
            apply: without it, nothing of the collection changes; a tuning that was ended before it
                compared anything (`Tuning.conclusive`) is not applied either.
            families: those that may be chosen; all by default.
            progress: called on the event loop.

        Raises:
            BadInput: there is nothing to tune, an objective outside its range, no such family.
            InfeasibleObjective: nothing that was tried keeps to it; carries the nearest `Tuning`.
            CollectionLocked: to apply it, and another process is writing.
            StoreUnwritable: the folder cannot be written.
        """
        await asyncio.to_thread(self._log.flush)
        return await self._tuning.tune(
            objective,
            budget_seconds=budget_seconds,
            apply=apply,
            families=families,
            progress=progress,
        )

    async def tune_quality(
        self,
        qrels: str | Path | None = None,
        *,
        apply: bool = True,
        progress: UpkeepProgressed | None = None,
    ) -> Quality:
        """Find the fusion, widths and rerank of the best passages, and put them into the plan.

        Judged by nDCG@10 on your own labels, else on questions made of the corpus. What is in force
        stays unless something else is clearly better. No index is built or changed by it.

        Args:
            qrels: `qrels.tsv` (query_id, doc_id, rel) with `queries.jsonl` beside it, or a folder
                with both.
            apply: without it, nothing of the collection changes.
            progress: called on the event loop.

        Raises:
            BadInput: there is nothing to judge by, or a file cannot be read.
            CollectionLocked: to apply it, and another process is writing.
            StoreUnwritable: the folder cannot be written.
        """
        with self._in_flight():
            path = Path(qrels) if qrels is not None else None
            found = await self._quality.tune(path, apply=apply, progress=progress)
            if apply and found.reranker is not None:
                self._renew_searcher()
            return found
