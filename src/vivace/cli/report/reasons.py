"""Why was this chosen and that not? Told from a tuning's figures, in the report's language."""

from __future__ import annotations

import re
from typing import Final

from vivace.cli.report.svg import number
from vivace.cli.report.texts import Texts, described
from vivace.tune import choice
from vivace.tune.tuning import Tuning
from vivace.types import Trial

CHINESE: Final = tuple(
    (re.compile(pattern), told)
    for pattern, told in (
        (r"would hold (.+) in memory, where (.+) are allowed", "需要 {0} 内存，只允许 {1}"),
        (r"(\d+) builds had been made", "已经构建了 {0} 个索引，达到上限"),
        (r"the (\S+) s for tuning were over", "{0} 秒的调优时间已用完"),
        (r"building takes about (\S+) s, (\S+) s were left", "构建约需 {0} 秒，只剩 {1} 秒"),
        (
            r"building it takes about (.+) of memory, and the machine has (.+) free",
            "构建约需 {0} 内存，机器只剩 {1}",
        ),
        (
            r"at effort (\d+) takes (\S+) times the CPU of (.+) and has not reached the floor",
            "effort {0} 时 CPU 已是 {2} 的 {1} 倍，召回率仍未达到下限",
        ),
        (
            r"what was tried of its family takes (\S+) times the CPU of the best",
            "同类中试过的方案，CPU 已是最佳方案的 {0} 倍",
        ),
        (r"(\d+) rows are searched as soon without an index", "{0} 个向量不用索引检索也一样快"),
        (r"finds (\S+) \((\S+) to (\S+)\) at most", "召回率最高只有 {0}（{1} 到 {2}）"),
        (
            r"finds (\S+) \((\S+) to (\S+)\) at most: more and other questions would be needed to"
            r" be sure of the floor",
            "召回率最高 {0}（{1} 到 {2}）：要有更多不同的问题，才能确定达到下限",
        ),
    )
)
"""What the tuner gives as reasons for leaving something out, and how to say it in Chinese."""


def verdict(trial: Trial, tuning: Tuning, words: Texts) -> tuple[str, bool]:
    """What became of a trial, and whether it keeps to the objective."""
    if faults := _faults(trial, tuning, words):
        return words.comma.join(faults), False
    chosen = _decided(tuning)
    times = trial.cpu_ms / chosen.cpu_ms if chosen.cpu_ms else 1.0
    if abs(times - 1) < choice.NOISE:
        return words.close, True
    return words.dearer.format(times=_times(times)), True


def why(tuning: Tuning, words: Texts, infeasible: bool) -> str:
    """The reason: the tuner's own sentence in English, else the same from the figures."""
    if words.code == "en":
        return tuning.reason
    if infeasible:
        faults = _faults(tuning.chosen, tuning, words)
        return words.comma.join(faults) + words.stop if faults else ""
    keeping = choice.ranked(tuning.trials, tuning.objective)
    others = [trial for trial in keeping if trial.plan != tuning.chosen.plan]
    if not others:
        return words.reason_only
    second = min(others, key=lambda trial: trial.cpu_ms)
    times = second.cpu_ms / max(1e-9, _decided(tuning).cpu_ms)
    values = {
        "plan": described(second.plan.family, second.plan.params),
        "effort": second.plan.effort,
        "times": _times(times),
    }
    last = words.reason_next if times > 1 + choice.NOISE else words.reason_alike
    return words.reason_cheapest.format(kept=len(keeping)) + last.format(**values)


def left_out(reason: str, words: Texts) -> tuple[str, str]:
    """Why something was left out, and the language that is told in."""
    if words.code != "en":
        for pattern, told in CHINESE:
            if found := pattern.fullmatch(reason):
                return told.format(*found.groups()), words.code
    return reason, "en"


def _faults(trial: Trial, tuning: Tuning, words: Texts) -> list[str]:
    told = {"recall": words.below, "p95": words.slow, "memory": words.large}
    return [told[name] for name in choice.lacks(trial, tuning.objective)]


def _decided(tuning: Tuning) -> Trial:
    """The choice as it was measured when it was chosen."""
    return next((t for t in tuning.trials if t.plan == tuning.chosen.plan), tuning.chosen)


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 3 else number(ratio)
