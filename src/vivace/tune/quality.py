"""Which stages give the best passages? Chosen by nDCG@10 on labelled questions.

A stage changes only if an alternative is clearly better: its difference to the setting in force has
an interval above zero that holds for all alternatives at once. That correction replaces a held-out
half: it costs as much, and the choice uses all questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import numpy as np

from vivace.retrieve.fitted import FittedModel
from vivace.tune.labels import LabelledQuestion
from vivace.tune.metrics import simultaneous
from vivace.tune.replay import CandidatePool, Gains, replay
from vivace.types import Fusion, Rerank, Stages

LabelSource: TypeAlias = Literal["qrels", "pseudo"]
TunedStage: TypeAlias = Literal["fusion", "candidates", "rerank"]

LEAST: Final = 50
"""Questions of a language below which its fusion is left alone."""
WIDTHS: Final = (20, 50, 100)
DEPTHS: Final = (10, 20, 50)
RERANK_WEIGHTS: Final = (0.3, 0.5, 0.7, 0.85)
FUSIONS: Final = (
    *(Fusion("max_norm", round(0.1 * step, 1)) for step in range(1, 10)),
    *(Fusion("min_max", round(0.1 * step, 1)) for step in range(2, 9)),
    Fusion("rrf"),
    Fusion("dense"),
    Fusion("keyword"),
)


@dataclass(frozen=True, slots=True)
class SearchCosts:
    """Measured milliseconds of a search, embedding excluded."""

    search: Mapping[int, float] = field(default_factory=dict)
    """By width, for the candidates of both sides and fusion."""
    rerank: Mapping[int, float] = field(default_factory=dict)
    """By depth, in addition."""

    def of(self, width: int, depth: int) -> float:
        return self.search.get(width, 0.0) + (self.rerank.get(depth, 0.0) if depth else 0.0)


@dataclass(frozen=True, slots=True)
class StageTrial:
    """One setting of one stage, the others as in force, measured on the same questions."""

    stage: TunedStage
    language: str
    """Language of the questions; "" is all."""
    fusion: Fusion
    candidates: int
    rerank: Rerank
    ndcg: float
    difference: float
    """Of nDCG@10, to the setting in force before."""
    low: float
    high: float
    """The difference's 95 % interval, for all settings of the stage at once."""
    milliseconds: float = 0.0
    """Estimated from the measured times of its width and its depth."""
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Quality:
    """The result of tuning the stages; every field is plain data."""

    before: Stages
    stages: Stages
    source: LabelSource
    questions: Mapping[str, int]
    """By language."""
    kinds: Mapping[str, int]
    """Questions made from headings, sentences and so on, by kind; empty with qrels."""
    tried: tuple[StageTrial, ...]
    reason: str
    """One sentence."""
    seconds: float = 0.0
    reranker: FittedModel | None = None
    """Fitted to the labels, where `search.rerank` is `fitted`."""

    @property
    def changed(self) -> bool:
        return self.stages != self.before


def choose(
    questions: Sequence[LabelledQuestion],
    pools: Sequence[CandidatePool],
    before: Stages,
    *,
    source: LabelSource,
    costs: SearchCosts | None = None,
    kinds: Sequence[str] = (),
    seed: int = 0,
) -> Quality:
    """The best stages for these questions, with their pools from `replay.gather`.

    First the fusion of each language, then the width of all. Reranking is judged only by labels
    that people gave: a question made from a passage shares its words with it, which flatters
    rerankers that compare words one by one.
    """
    trial = _StageTuner(questions, pools, costs or SearchCosts(), seed)
    stages = before
    languages = Counter(question.language for question in questions)
    reasons = []
    for language, count in sorted(languages.items()):
        stages, reason = trial.fusion(stages, language, count)
        reasons.append(reason)
    if trial.readable:
        stages, more = trial.widths(stages)
        reasons += more
    if source == "qrels" and any(pool.reranked is not None for pool in pools):
        stages, more = trial.reranks(stages)
        reasons += more
    sentence = "; ".join(reasons) or "there are no questions to judge by"
    return Quality(
        before,
        stages,
        source,
        dict(languages),
        dict(Counter(kinds)),
        tuple(trial.tried),
        f"{sentence[:1].upper()}{sentence[1:]}.",
    )


class _StageTuner:
    """Tunes one stage after the other on the same pools."""

    def __init__(
        self,
        questions: Sequence[LabelledQuestion],
        pools: Sequence[CandidatePool],
        costs: SearchCosts,
        seed: int,
    ) -> None:
        self._pools = pools
        self._languages = [question.language for question in questions]
        self._groups = [
            question.group or f"\0{number}" for number, question in enumerate(questions)
        ]
        self._costs = costs
        self._seed = seed
        self.tried: list[StageTrial] = []

    @property
    def readable(self) -> bool:
        """Whether enough questions have a dense side to compare widths by."""
        return sum(pool.cosine is not None for pool in self._pools) >= LEAST

    def fusion(self, stages: Stages, language: str, count: int) -> tuple[Stages, str]:
        """The stages with a language's best fusion if it is clearly better, and the reason."""
        places = [at for at, own in enumerate(self._languages) if own == language]
        if count < LEAST:
            return stages, f"{language}: {count} questions are too few"
        if all(self._pools[at].cosine is None for at in places):
            return stages, f"{language}: the model does not read it, so the keyword side answers"
        held = fusion_of(stages, language)
        others = [
            replace(stages, fusion={**stages.fusion, language: how})
            for how in FUSIONS
            if how != held
        ]
        stages, best = self._tuned("fusion", language, places, stages, others)
        if best is None:
            return stages, f"{language}: {named(held)} stays, nothing is clearly better"
        said = f"{named(best.fusion)} instead of {named(held)}, {_points(best)}"
        return stages, f"{language}: {said}"

    def widths(self, stages: Stages) -> tuple[Stages, list[str]]:
        """The stages with another width if it is clearly better, and the reasons."""
        places, before = range(len(self._pools)), stages.candidates
        others = [replace(stages, candidates=width) for width in WIDTHS if width != before]
        stages, best = self._tuned("candidates", "", places, stages, others)
        if best is None:
            return stages, []
        return stages, [f"{best.candidates} candidates instead of {before}, {_points(best)}"]

    def reranks(self, stages: Stages) -> tuple[Stages, list[str]]:
        """The stages with another depth or weight if it is clearly better, and the reasons."""
        places = [at for at, pool in enumerate(self._pools) if pool.reranked is not None]
        reranks = [Rerank(0, stages.rerank.weight)] if stages.rerank.depth else []
        reranks += [Rerank(depth, weight) for depth in DEPTHS for weight in RERANK_WEIGHTS]
        others = [replace(stages, rerank=other) for other in reranks if other != stages.rerank]
        stages, best = self._tuned("rerank", "", places, stages, others)
        if best is None:
            return stages, []
        rerank = best.rerank
        return stages, [f"rerank of {rerank.depth} at {rerank.weight:g}, {_points(best)}"]

    def _tuned(
        self,
        stage: TunedStage,
        language: str,
        places: Sequence[int],
        held: Stages,
        others: Sequence[Stages],
    ) -> tuple[Stages, StageTrial | None]:
        """The best of the others with its trial if it is clearly better, else `held` and None.

        Every trial is recorded. `places` are those of the questions that are compared.
        """
        base, each = self._gains(places, held), [self._gains(places, other) for other in others]
        figures = [(float(base.mean()), 0.0, 0.0, 0.0)]
        if each:
            groups = [self._groups[at] for at in places]
            found = simultaneous(np.stack(each, axis=1) - base[:, None], groups, seed=self._seed)
            figures += [
                (float(one.mean()), its.mean, its.low, its.high)
                for one, its in zip(each, found, strict=True)
            ]
        settings = [held, *others]
        trials = [
            StageTrial(
                stage,
                language,
                fusion_of(setting, language) if stage == "fusion" else Fusion(),
                setting.candidates,
                setting.rerank,
                *numbers,
                self._costs.of(setting.candidates, setting.rerank.depth),
            )
            for setting, numbers in zip(settings, figures, strict=True)
        ]
        clear = [at for at, trial in enumerate(trials) if trial.low > 0]
        best = max(clear, key=lambda at: trials[at].ndcg, default=0)
        trials[best] = replace(trials[best], chosen=True)
        self.tried += trials
        return settings[best], trials[best] if best else None

    def _gains(self, places: Sequence[int], stages: Stages) -> Gains:
        """(q,) gains of the questions at these places."""
        gains = np.zeros(len(places))
        languages = [self._languages[at] for at in places]
        for language in set(languages):
            own = [at for at, its in enumerate(languages) if its == language]
            gains[own] = replay(
                [self._pools[places[at]] for at in own],
                fusion_of(stages, language),
                width=stages.candidates,
                rerank=stages.rerank,
            )
        return gains


def fusion_of(stages: Stages, language: str) -> Fusion:
    """The fusion for questions in a language."""
    return stages.fusion.get(language) or stages.fusion.get("") or Fusion()


def named(how: Fusion) -> str:
    """A fusion in a few words."""
    return f"{how.mode} {how.weight:g}" if how.mode in ("max_norm", "min_max") else how.mode


def _points(row: StageTrial) -> str:
    return (
        f"{100 * row.difference:+.1f} points of nDCG@10 ({100 * row.low:.1f} to"
        f" {100 * row.high:.1f})"
    )
