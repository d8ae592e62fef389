"""Recall against cost of every trial of a tuning, as one SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vivace.cli.output import index_name, number
from vivace.cli.report.svg import (
    OTHER,
    STYLES,
    Box,
    Label,
    LogScale,
    RecallScale,
    line,
    marker,
    path,
    placed,
    text,
    width,
)
from vivace.cli.report.texts import Texts
from vivace.tune.tuning import Tuning
from vivace.types import Trial

_WIDE, _HIGH = 760.0, 470.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 74.0, 20.0, 44.0, 52.0


def frontier(tuning: Tuning, words: Texts, infeasible: bool = False) -> str:
    """Draw the trials by family, with intervals, the floor, the frontier, and the choice on top."""
    shown = [*tuning.trials, tuning.chosen]
    area = Box(_LEFT, _TOP, _WIDE - _RIGHT, _HIGH - _BOTTOM)
    x = LogScale.around([trial.cpu_ms for trial in shown], area.left, area.right)
    y = _recall_scale(tuning, shown, area)
    parts = [
        f'<svg class="plot" viewBox="0 0 {_WIDE:g} {_HIGH:g}" role="img"'
        ' aria-labelledby="plot-title plot-desc" xmlns="http://www.w3.org/2000/svg">',
        f'<title id="plot-title">{escape(words.plot_title)}</title>',
        f'<desc id="plot-desc">{escape(_description(tuning, words))}</desc>',
        *_axes(x, y, area, words),
    ]
    floor_at = y.at(tuning.objective.recall)
    parts.append(line(area.left, floor_at, area.right, floor_at, "floor"))
    parts.append(path([(x.at(t.cpu_ms), y.at(t.recall)) for t in best(tuning.trials)], "frontier"))
    ring = words.plot_nearest if infeasible else words.plot_chosen
    labels = [_choice_label(tuning, x, y, ring)]
    taken: list[Box] = []
    for series in _series(tuning.trials):
        parts += _draw_series(series, x, y, words)
        taken += [_around(x.at(t.cpu_ms), y.at(t.recall)) for t in series]
        top = max(series, key=lambda trial: (trial.recall, -trial.cpu_ms))
        look = f"name ink-{_style(top)[0]}"
        name = index_name(top.plan.family, top.plan.params)
        labels.append(Label(name, x.at(top.cpu_ms), y.at(top.recall), look))
    parts += _draw_chosen(tuning.chosen, x, y, words)
    taken.append(_around(x.at(tuning.chosen.cpu_ms), y.at(tuning.chosen.recall), 10))
    floor_words = words.floor.format(recall=f"{tuning.objective.recall:g}")
    floor_wide = width(floor_words, 12)
    taken.append(Box(area.right - floor_wide - 4, floor_at + 1, area.right, floor_at + 17))
    parts.append(text(floor_words, area.right - 4, floor_at + 15, "floor-name", 12, "end"))
    parts += placed(labels, taken, area)
    parts += _legend(tuning, words)
    return "".join([*parts, "</svg>"])


def best(trials: Sequence[Trial]) -> list[Trial]:
    """The Pareto frontier: trials that no other beats in both cost and recall, by rising cost."""
    found: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (trial.cpu_ms, -trial.recall)):
        if not found or trial.recall > found[-1].recall:
            found.append(trial)
    return found


def _recall_scale(tuning: Tuning, shown: Sequence[Trial], area: Box) -> RecallScale:
    """A scale that starts near the floor: trials far below it would compress the others."""
    least = min(min(trial.recall_low for trial in shown), tuning.objective.recall - 0.02)
    least = max(least, tuning.objective.recall - 0.35, 0.0)
    return RecallScale(max(0.0, least - 0.01), area.bottom, area.top)


def _series(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials grouped by build, each group by effort."""
    found: dict[tuple[str, tuple[tuple[str, int], ...]], list[Trial]] = {}
    for trial in trials:
        key = trial.plan.family, tuple(sorted(trial.plan.params.items()))
        found.setdefault(key, []).append(trial)
    return [sorted(series, key=lambda trial: trial.plan.effort) for series in found.values()]


def _axes(x: LogScale, y: RecallScale, area: Box, words: Texts) -> list[str]:
    parts = []
    for value in x.ticks():
        parts.append(line(x.at(value), area.top, x.at(value), area.bottom, "grid"))
        parts.append(text(number(value), x.at(value), area.bottom + 18, "tick", 12, "middle"))
    last = area.bottom + 14
    for value in y.ticks():
        parts.append(line(area.left, y.at(value), area.right, y.at(value), "grid"))
        if last - y.at(value) >= 13:
            last = y.at(value)
            parts.append(text(f"{value:g}", area.left - 8, last + 4, "tick", 12, "end"))
    parts.append(line(area.left, area.bottom, area.right, area.bottom, "axis"))
    parts.append(line(area.left, area.top, area.left, area.bottom, "axis"))
    middle = (area.left + area.right) / 2
    parts.append(text(words.plot_x, middle, area.bottom + 40, "axis-name", 12.5, "middle"))
    parts.append(
        f'<g transform="translate(16 {(area.top + area.bottom) / 2:.1f}) rotate(-90)">'
        + text(words.plot_y, 0, 0, "axis-name", 12.5, "middle")
        + "</g>"
    )
    return parts


def _draw_series(series: Sequence[Trial], x: LogScale, y: RecallScale, words: Texts) -> list[str]:
    look, shape = _style(series[0])
    parts = []
    if len(series) > 1:
        points = [(x.at(t.cpu_ms), y.at(t.recall)) for t in series]
        parts.append(path(points, f"series ink-{look}"))
    for trial in series:
        at = x.at(trial.cpu_ms)
        parts += _bar(at, y.at(trial.recall_low), y.at(trial.recall_high), f"bar ink-{look}")
        said = _tooltip(trial, words)
        parts.append(marker(shape, at, y.at(trial.recall), f"mark fill-{look}", said))
    return parts


def _bar(x: float, low: float, high: float, look: str) -> list[str]:
    if low - high < 1:
        return []
    return [
        line(x, low, x, high, look),
        line(x - 3, low, x + 3, low, look),
        line(x - 3, high, x + 3, high, look),
    ]


def _draw_chosen(trial: Trial, x: LogScale, y: RecallScale, words: Texts) -> list[str]:
    look, shape = _style(trial)
    at, high = x.at(trial.cpu_ms), y.at(trial.recall)
    bar = _bar(at, y.at(trial.recall_low), y.at(trial.recall_high), f"bar strong ink-{look}")
    ring = f'<circle cx="{at:.1f}" cy="{high:.1f}" r="11" class="ring"/>'
    return [*bar, ring, marker(shape, at, high, f"mark fill-{look}", _tooltip(trial, words))]


def _choice_label(tuning: Tuning, x: LogScale, y: RecallScale, said: str) -> Label:
    trial = tuning.chosen
    at = x.at(trial.cpu_ms), y.at(trial.recall)
    return Label(said, *at, "chosen-name", 13, gap=15)


def _legend(tuning: Tuning, words: Texts) -> list[str]:
    parts, at = [], _LEFT
    for family in dict.fromkeys(trial.plan.family for trial in tuning.trials):
        look, shape = STYLES.get(family, OTHER)
        parts.append(marker(shape, at + 6, 20, f"mark fill-{look}"))
        parts.append(text(family, at + 18, 24, "tick", 12.5))
        at += 18 + width(family, 12.5) + 22
    parts.append(path([(at, 20), (at + 26, 20)], "frontier"))
    parts.append(text(words.plot_frontier, at + 34, 24, "tick", 12.5))
    return parts


def _description(tuning: Tuning, words: Texts) -> str:
    chosen = tuning.chosen
    return words.plot_desc.format(
        trials=len(tuning.trials),
        plan=index_name(chosen.plan.family, chosen.plan.params),
        recall=f"{chosen.recall:.3f}",
        cpu=number(chosen.cpu_ms),
        floor=f"{tuning.objective.recall:g}",
    )


def _tooltip(trial: Trial, words: Texts) -> str:
    return (
        f"{index_name(trial.plan.family, trial.plan.params)} · {words.effort} {trial.plan.effort}"
        f" · {words.recall} {trial.recall:.3f} [{trial.recall_low:.3f}, {trial.recall_high:.3f}]"
        f" · {number(trial.cpu_ms)} ms"
    )


def _style(trial: Trial) -> tuple[str, str]:
    return STYLES.get(trial.plan.family, OTHER)


def _around(x: float, y: float, far: float = 6) -> Box:
    return Box(x - far, y - far, x + far, y + far)
