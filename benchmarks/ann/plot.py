"""p50, build time and bytes over the number of rows, as one SVG picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

from vivace.cli.output import number
from vivace.cli.report import STYLE
from vivace.cli.report.svg import (
    MARKERS,
    Box,
    LogScale,
    line,
    marker,
    path,
    text,
    width,
)

_WIDE, _PANEL, _GAP, _TOP = 900.0, 250.0, 58.0, 82.0
_LOOKS = "bdceaf"
_LEAST = 0.01
"""What is less, as the build of what needs none, is left out."""
Panels: TypeAlias = Sequence[tuple[str, Callable[[Mapping[str, Any]], float]]]
"""What each shows of a result, and how it is called."""
_PANELS: Panels = (
    ("p50, ms", lambda item: float(item["p50_ms"])),
    ("build, s", lambda item: float(item["build_seconds"])),
    (
        "bytes, resident and mapped, MB",
        lambda item: (item["bytes_resident"] + item["bytes_mapped"]) / 1e6,
    ),
)


def by_size(
    results: Sequence[Mapping[str, Any]],
    *,
    panels: Panels = _PANELS,
    title: str = "Vector search by number of rows",
) -> str:
    """The results of one run or several, a line a name; ours are drawn stronger."""
    names = list(dict.fromkeys(_short(str(item["name"])) for item in results))
    high = _TOP + len(panels) * (_PANEL + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {_WIDE:g} {high:g}">'
        f"<title>{escape(title)}</title><style>{STYLE}"
        "svg{background:var(--card);font-family:system-ui,sans-serif}</style>"
    ]
    parts += _legend(names)
    for at, (axis, value) in enumerate(panels):
        top = _TOP + at * (_PANEL + _GAP)
        parts += _panel(results, names, axis, value, Box(64, top, _WIDE - 20, top + _PANEL))
    return "".join([*parts, "</svg>\n"])


def _panel(
    results: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    title: str,
    value: Callable[[Mapping[str, Any]], float],
    area: Box,
) -> list[str]:
    x = LogScale.around([float(item["rows"]) for item in results], area.left, area.right)
    shown = [value(item) for item in results if value(item) >= _LEAST]
    y = LogScale.around(shown, area.bottom, area.top)
    few = len(y.ticks()) <= 8
    parts = [text(title, area.left, area.top - 8, "axis-name", 13)]
    for size in sorted({float(item["rows"]) for item in results}):
        parts.append(line(x.at(size), area.top, x.at(size), area.bottom, "grid"))
        parts.append(text(f"{size:,.0f}", x.at(size), area.bottom + 18, "tick", 12, "middle"))
    for tick in y.ticks():
        parts.append(line(area.left, y.at(tick), area.right, y.at(tick), "grid"))
        if few or f"{tick:.0e}"[0] == "1":
            parts.append(text(number(tick), area.left - 8, y.at(tick) + 4, "tick", 12, "end"))
    for order, name in enumerate(names):
        look, shape = _style(order)
        own = sorted(
            (
                item
                for item in results
                if _short(str(item["name"])) == name and value(item) >= _LEAST
            ),
            key=lambda item: int(item["rows"]),
        )
        points = [(x.at(float(item["rows"])), y.at(value(item))) for item in own]
        ours = "bar strong" if name.startswith("vivace") else "series"
        parts.append(path(points, f"{ours} ink-{look}"))
        for (across, up), item in zip(points, own, strict=True):
            said = f"{name}, {item['rows']:,} rows: {number(value(item))}"
            parts.append(marker(shape, across, up, f"mark fill-{look}", said))
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    parts, at, row = [], 64.0, 18.0
    for order, name in enumerate(names):
        look, shape = _style(order)
        wide = 10 + width(name, 12) + 16
        if at + wide > _WIDE:
            at, row = 64.0, row + 22
        parts.append(marker(shape, at, row, f"mark fill-{look}"))
        parts.append(text(name, at + 10, row + 4, "tick", 12))
        at += wide
    return parts


def _short(name: str) -> str:
    """Without what differs by size: the number of cells."""
    return "FAISS IVF,PQfs,RFlat" if name.startswith("FAISS IVF") else name


def _style(order: int) -> tuple[str, str]:
    count = len(_LOOKS)
    return _LOOKS[order % count], list(MARKERS)[(order + order // count) % len(MARKERS)]
