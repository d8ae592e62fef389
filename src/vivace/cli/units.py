"""Numbers with units, as a command line gives them. Imports nothing of ours."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping

_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE)
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SIZES = {
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}


def share(text: str) -> float:
    """A number above 0 and up to 1, also as `95%`."""
    percent = text.strip().endswith("%")
    try:
        value = float(text.strip().rstrip("%")) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: give e.g. 0.95")
    return value


def milliseconds(text: str) -> float:
    """A time; a bare number is milliseconds."""
    return round(1e3 * _measured(text, _TIMES, "ms", "5ms"), 9)


def seconds(text: str) -> float:
    """A time; a bare number is seconds."""
    return _measured(text, _TIMES, "s", "120s")


def size(text: str) -> int:
    """Bytes; `MB` is a million of them, `MiB` 1,048,576."""
    return round(_measured(text, _SIZES, "b", "2GiB or 30MB"))


def _measured(text: str, units: Mapping[str, float], bare: str, example: str) -> float:
    found = _NUMBER.fullmatch(text)
    unit = units.get((found[2] or bare).lower()) if found else None
    value = float(found[1]) * unit if found and unit else 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: give e.g. {example}")
    return value
