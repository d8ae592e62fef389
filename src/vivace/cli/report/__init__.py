"""The result of a tuning as one self-contained HTML page, in English or Chinese."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from vivace.cli.output import digits, index_name, number
from vivace.cli.report.frontier import frontier
from vivace.cli.report.svg import OTHER, STYLES
from vivace.cli.report.texts import TEXTS, Language, Texts, left_out, size, verdict, why
from vivace.tune.tuning import Tuning
from vivace.types import Trial

STYLE = "\n" + files(__name__).joinpath("style.css").read_text("utf-8")
"""The page's style sheet: light and dark, on paper, on a phone."""


def page(tuning: Tuning, *, language: Language, command: str, infeasible: bool = False) -> str:
    """The whole page, without scripts and without anything loaded from elsewhere.

    `command` repeats the tuning. `infeasible` says that the choice does not meet the objective and
    is only the nearest.
    """
    words = TEXTS[language]
    body = [
        *_opening(tuning, words, infeasible),
        f"<h2>{escape(words.plot)}</h2>",
        f'<figure><div class="scroll">{frontier(tuning, words, infeasible)}</div>',
        f"<figcaption>{escape(words.plot_note)}</figcaption></figure>",
        f"<h2>{escape(words.table)}</h2>",
        f'<p class="note">{escape(_table_note(tuning, words))}</p>',
        _trials(tuning, words, infeasible),
        f"<h2>{escape(words.rejected)}</h2>",
        _rejected(tuning, words),
        f"<h2>{escape(words.pattern)}</h2>",
        _pattern(tuning, words),
        f"<h2>{escape(words.ground)}</h2>",
        _ground(tuning, words),
        f"<h2>{escape(words.again)}</h2>",
        f"<pre>{escape(command)}</pre>",
        f"<footer>{escape(words.footer)}</footer>",
    ]
    return (
        f'<!doctype html>\n<html lang="{words.code}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(words.title)} · Vivace</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _opening(tuning: Tuning, words: Texts, infeasible: bool) -> list[str]:
    chosen = tuning.chosen
    sentence = words.choice_exact if chosen.recall_low == 1 else words.choice
    values = {
        "plan": index_name(chosen.plan.family, chosen.plan.params),
        "effort": chosen.plan.effort,
        "recall": f"{100 * chosen.recall:.1f} %",
        "k": tuning.objective.k,
        "cpu": digits(chosen.cpu_ms),
    }
    parts = [
        f'<p class="over">{escape(words.subtitle)}</p><h1>{escape(words.title)}</h1>',
    ]
    if infeasible:
        parts.append(f'<p class="warn">{escape(words.infeasible)}</p>')
        sentence = words.nearest
    parts.append(f'<p class="choice">{escape(sentence.format(**values))}</p>')
    parts.append(f'<p class="reason">{escape(why(tuning, words, infeasible))}</p>')
    if tuning.interrupted:
        parts.append(f'<p class="warn">{escape(words.interrupted)}</p>')
    parts.append(_objective(tuning, words))
    parts.append(_tiles(chosen, words))
    parts.append(f'<p class="note">{escape(words.held_out.format(queries=chosen.queries))}</p>')
    return parts


def _objective(tuning: Tuning, words: Texts) -> str:
    wanted = tuning.objective
    shown = [
        f"{words.objective}",
        words.objective_recall.format(k=wanted.k, recall=f"{wanted.recall:g}"),
    ]
    if wanted.p95_ms is not None:
        shown.append(words.objective_p95.format(p95=number(wanted.p95_ms)))
    if wanted.memory_bytes is not None:
        shown.append(words.objective_memory.format(memory=size(wanted.memory_bytes)))
    shown.append(words.objective_then)
    items = "".join(f"<li>{escape(item)}</li>" for item in shown)
    return f'<ul class="chips">{items}</ul>'


def _tiles(chosen: Trial, words: Texts) -> str:
    interval = f"[{chosen.recall_low:.3f}, {chosen.recall_high:.3f}]"
    tiles = (
        (words.tile_recall, f"{chosen.recall:.3f}", interval),
        (words.tile_cpu, f"{digits(chosen.cpu_ms)} ms", ""),
        (
            words.tile_time,
            f"{digits(chosen.p50_ms)} ms",
            f"{words.p95} {digits(chosen.p95_ms)} ms",
        ),
        (
            words.tile_memory,
            f"{_megabytes(chosen.footprint.resident)} MB",
            f"+ {_megabytes(chosen.footprint.mapped)} {words.mapped}",
        ),
        (words.tile_build, f"{number(chosen.build_seconds)} s", ""),
    )
    return (
        '<dl class="tiles">'
        + "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}"
            + (f"<small>{escape(more)}</small>" if more else "")
            + "</dd></div>"
            for name, value, more in tiles
        )
        + "</dl>"
    )


def _table_note(tuning: Tuning, words: Texts) -> str:
    asked = max((trial.queries for trial in tuning.trials), default=0)
    return words.table_note.format(queries=asked)


def _trials(tuning: Tuning, words: Texts, infeasible: bool) -> str:
    columns = (
        (words.family, ""),
        (words.effort, "n"),
        (words.interval, "n"),
        (words.cpu_column, "n"),
        (words.time_column, "n"),
        (words.memory_column, "n"),
        (words.build_column, "n"),
        (words.verdict, ""),
    )
    rows = []
    held_out = words.chosen_held if not infeasible else words.held_row
    rows.append(_row(tuning.chosen, held_out, "won", columns))
    judged = [(trial, *verdict(trial, tuning, words)) for trial in tuning.trials]
    for trial, said, keeps in sorted(judged, key=lambda item: (not item[2], item[0].cpu_ms)):
        if trial.plan == tuning.chosen.plan and not infeasible:
            rows.append(_row(trial, words.chosen, "won", columns))
        else:
            rows.append(_row(trial, said, "" if keeps else "out", columns))
    return _table(columns, rows)


def _row(trial: Trial, said: str, look: str, columns: Sequence[tuple[str, str]]) -> str:
    plan, footprint = trial.plan, trial.footprint
    interval = f"[{trial.recall_low:.3f}, {trial.recall_high:.3f}]"
    colour, _ = STYLES.get(plan.family, OTHER)
    cells = (
        f'<span class="dot fill-{colour}"></span>{escape(index_name(plan.family, plan.params))}',
        str(plan.effort) if plan.effort else "–",
        f"<span>{trial.recall:.3f} <small>{interval}</small></span>",
        digits(trial.cpu_ms),
        f"<span>{digits(trial.p50_ms)} / {digits(trial.p95_ms)}</span>",
        f"<span>{_megabytes(footprint.resident)}"
        f" <small>+ {_megabytes(footprint.mapped)}</small></span>",
        number(trial.build_seconds),
        escape(said),
    )
    looks = ("named", *(["n"] * 6), "verdict")
    shown = "".join(
        f'<td class="{cell_look}" data-label="{escape(name)}">{cell}</td>'
        for cell, cell_look, (name, _) in zip(cells, looks, columns)
    )
    return f'<tr class="{look}">{shown}</tr>'


def _rejected(tuning: Tuning, words: Texts) -> str:
    if not tuning.rejected:
        return f'<p class="note">{escape(words.rejected_none)}</p>'
    rows = []
    for item in tuning.rejected:
        reason, language = left_out(item.reason, words)
        rows.append(
            f'<tr><td class="named">{escape(index_name(item.family, item.params))}</td>'
            f'<td class="prose" lang="{language}">{escape(reason)}</td></tr>'
        )
    return _table(((words.family, ""), (words.why, "")), rows)


def _table(columns: Sequence[tuple[str, str]], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col" class="{look}">{escape(name)}</th>' for name, look in columns)
    return (
        f'<div class="frame"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _pattern(tuning: Tuning, words: Texts) -> str:
    seen = tuning.pattern
    often = "few" if seen.duplicates < 0.1 else "some" if seen.duplicates < 0.5 else "many"
    near = "even" if seen.locality < 0.25 else "some" if seen.locality < 0.5 else "high"
    return _facts(
        (
            (words.source, words.sources[tuning.source], ""),
            (words.queries, words.queries_value.format(queries=tuning.queries), ""),
            (words.duplicates, f"{100 * seen.duplicates:.0f} %", words.duplicates_mean[often]),
            (words.locality, f"{100 * seen.locality:.0f} %", words.locality_mean[near]),
        )
    )


def _ground(tuning: Tuning, words: Texts) -> str:
    spent = words.spent_value.format(seconds=number(tuning.seconds), builds=tuning.builds)
    facts = [
        (words.rows, f"{tuning.rows:,} × {tuning.dim}, float16", ""),
        (words.metric, tuning.metric, ""),
        (words.data, tuning.data, ""),
        (words.spent, spent, ""),
    ]
    facts += [
        (words.machine_names.get(name, name), value, "") for name, value in tuning.machine.items()
    ]
    return _facts(facts)


def _facts(facts: Iterable[tuple[str, str, str]]) -> str:
    return (
        '<dl class="facts">'
        + "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}"
            + (f"<small>{escape(more)}</small>" if more else "")
            + "</dd>"
            for name, value, more in facts
        )
        + "</dl>"
    )


def _megabytes(size: int) -> str:
    return number(size / 1e6)
