"""Runs on the disk: for comparing with, and as TREC's tools read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vivace.cli.evaluation.measured import Measured
from vivace.errors import BadInput
from vivace.tune.metrics import difference

_NAME = "vivace"
_MEASURES = "per_query"


def writable(name: str | None) -> None:
    """Refuse a file that cannot be written, before the work.

    Raises:
        BadInput: it is a folder, or in none.
    """
    path = Path(name) if name else None
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise BadInput(f"{path} cannot be written", fix="Name a file in a folder that exists")


def write(path: Path, report: Mapping[str, Any], found: Sequence[Measured]) -> None:
    """The report with the values of every question, for `--against`."""
    each = {item.id: dict(item.values) for item in found}
    path.write_bytes(msgspec.json.encode({**report, _MEASURES: each}) + b"\n")


def read(path: Path) -> dict[str, dict[str, float]]:
    """The values by question id of a run that `write` wrote.

    Raises:
        BadInput: there is none in the file.
    """
    fix = "Write one with vivace eval DIR --save RUN.json"
    try:
        value = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        return msgspec.convert(value[_MEASURES], dict[str, dict[str, float]])
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", fix=fix) from error
    except (msgspec.MsgspecError, KeyError, UnicodeError) as error:
        raise BadInput(f"{path} holds no run: {error}", fix=fix) from error


def write_trec(path: Path, found: Sequence[Measured]) -> None:
    """`query_id Q0 doc_id rank score tag` a line, as trec_eval reads it; ids without spaces."""
    lines = [
        f"{_word(item.id)} Q0 {_word(id)} {rank} {score:.6f} {_NAME}\n"
        for item in found
        for rank, (id, score) in enumerate(zip(item.ranked, item.scores, strict=True), start=1)
    ]
    path.write_text("".join(lines), "utf-8")


def compared(
    before: Mapping[str, Mapping[str, float]], found: Sequence[Measured]
) -> dict[str, Any]:
    """Each measure's mean difference, this run less that one, with the paired bootstrap's interval.

    Raises:
        BadInput: the runs have no question in common.
    """
    both = [item for item in found if item.id in before]
    if not both:
        raise BadInput("the runs have no question in common", fix="Compare runs of one data set")
    measures = {}
    for name in both[0].values:
        pairs = [(item.values[name], before[item.id].get(name)) for item in both]
        if any(old is None for _, old in pairs):
            continue
        its = difference(np.array([new - (old or 0.0) for new, old in pairs]))
        measures[name] = {
            "difference": round(its.mean, 4),
            "low": round(its.low, 4),
            "high": round(its.high, 4),
            "clear": its.better or its.worse,
        }
    return {"queries": len(both), "measures": measures}


def _word(id: str) -> str:
    return "_".join(id.split()) or "_"
