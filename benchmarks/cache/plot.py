"""The hit ratio along a stream, as one SVG picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from vivace.cli.report import STYLE
from vivace.cli.report.svg import MARKERS, line, marker, path, text, width

_WIDE, _HIGH = 900.0, 420.0
_LEFT, _TOP, _RIGHT, _BOTTOM = 64.0, 70.0, 880.0, 372.0
_LOOKS = "bdceaf"


def along(title: str, series: Mapping[str, Sequence[float]], shifts: Sequence[float]) -> str:
    """A line a policy, `adaptive` drawn stronger.

    Args:
        shifts: where in the stream (0 to 1) another trace begins.
    """
    most = max((max(values) for values in series.values()), default=1.0)
    top = max(0.05, -(-most // 0.05) * 0.05)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {_WIDE:g} {_HIGH:g}">'
        f"<title>{escape(title)}</title><style>{STYLE}"
        "svg{background:var(--card);font-family:system-ui,sans-serif}</style>",
        text(title, _LEFT, 22, "axis-name", 13),
    ]
    for step in range(6):
        y = _BOTTOM - (_BOTTOM - _TOP) * step / 5
        parts.append(line(_LEFT, y, _RIGHT, y, "grid"))
        parts.append(text(f"{100 * top * step / 5:.0f} %", _LEFT - 8, y + 4, "tick", 12, "end"))
    for shift in shifts:
        x = _LEFT + (_RIGHT - _LEFT) * shift
        parts.append(line(x, _TOP, x, _BOTTOM, "axis"))
    at = _LEFT
    ordered = sorted(series, key=lambda name: name == "adaptive")
    for order, name in enumerate(ordered):
        look, shape = _LOOKS[order % len(_LOOKS)], list(MARKERS)[order % len(MARKERS)]
        values = series[name]
        points = [
            (
                _LEFT + (_RIGHT - _LEFT) * (place + 0.5) / len(values),
                _BOTTOM - (_BOTTOM - _TOP) * value / top,
            )
            for place, value in enumerate(values)
        ]
        strong = "bar strong" if name == "adaptive" else "series"
        parts.append(path(points, f"{strong} ink-{look}"))
        for point, value in list(zip(points, values, strict=True))[order :: len(series)]:
            parts.append(marker(shape, *point, f"mark fill-{look}", f"{name} {100 * value:.1f} %"))
        parts.append(marker(shape, at, 44, f"mark fill-{look}"))
        parts.append(text(name, at + 10, 48, "tick", 12))
        at += 10 + width(name, 12) + 18
    parts.append(text("requests, from the first to the last", _LEFT, _BOTTOM + 28, "tick", 12))
    return "".join([*parts, "</svg>\n"])
