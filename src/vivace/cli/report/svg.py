"""Draw plots as SVG: scales, lines, markers, and labels that do not overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Protocol

MARKERS = {
    "circle": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "square": "M-4.5-4.5H4.5V4.5H-4.5Z",
    "diamond": "M0-6.2L6.2 0L0 6.2L-6.2 0Z",
    "triangle": "M0-6L5.6 4.4H-5.6Z",
    "pentagon": "M0-6L5.7-1.9L3.5 4.9H-3.5L-5.7-1.9Z",
    "wedge": "M0 6L5.6-4.4H-5.6Z",
}
"""Outlines around the origin."""
STYLES: dict[str, tuple[str, str]] = {
    "flat": ("a", "square"),
    "pq": ("b", "circle"),
    "ivf": ("c", "triangle"),
    "hnsw": ("d", "diamond"),
    "graph": ("e", "pentagon"),
}
"""By index family: its colour, a class of the style sheet, and its marker."""
OTHER = ("f", "wedge")
_SPARE = 0.004
"""Added to 1 - recall, so that a recall of 1 has a place on the scale."""


class Scale(Protocol):
    """Maps a value to a coordinate of the picture."""

    def at(self, value: float) -> float: ...


@dataclass(frozen=True, slots=True)
class LogScale:
    """A logarithmic scale: equal ratios have equal lengths."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float) -> LogScale:
        """A scale with a little room on both sides of the values."""
        known = [max(value, 1e-9) for value in values] or [1.0]
        low, high = min(known), max(known)
        room = max(1.25, (high / low) ** 0.06)
        return cls(low / room, high * room, start, end)

    def at(self, value: float) -> float:
        share = log10(max(value, 1e-9) / self.low) / log10(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times the powers of ten; the powers alone where those would be too many."""
        steps = (1,) if self.high / self.low > 2_000 else (1, 2, 5)
        exponents = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        values = [step * 10.0**exponent for exponent in exponents for step in steps]
        return [value for value in values if self.low <= value <= self.high]


@dataclass(frozen=True, slots=True)
class RecallScale:
    """A scale of recall, stretched towards 1, where small differences matter."""

    low: float
    start: float
    end: float

    def at(self, value: float) -> float:
        value = min(1.0, max(self.low, value))
        share = (_stretched(value) - _stretched(self.low)) / (
            _stretched(1.0) - _stretched(self.low)
        )
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        values = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
        return [value for value in values if value >= self.low]


def _stretched(recall: float) -> float:
    return -log10(1.0 + _SPARE - recall)


@dataclass(frozen=True, slots=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True, slots=True)
class Label:
    """A text beside the point x, y; `look` is its class."""

    text: str
    x: float
    y: float
    look: str = ""
    size: float = 12
    gap: float = 9
    """Least distance from the point."""


def placed(labels: Sequence[Label], taken: Sequence[Box], within: Box) -> list[str]:
    """The labels as SVG, placed in order; a label without room is left out."""
    full = list(taken)
    drawn = []
    for label in labels:
        wide, high = width(label.text, label.size), label.size * 1.15
        for x, y in _places(label, wide, high):
            box = Box(x, y, x + wide, y + high)
            if box.inside(within) and not any(box.meets(other) for other in full):
                full.append(box)
                drawn.append(text(label.text, x, y + label.size * 0.92, label.look, label.size))
                break
    return drawn


def _places(label: Label, wide: float, high: float) -> Iterable[tuple[float, float]]:
    """Positions to try, near ones first."""
    for far in (label.gap, 2 * label.gap, 3 * label.gap + 3):
        yield label.x + far, label.y - high / 2
        yield label.x - far - wide, label.y - high / 2
        yield label.x - wide / 2, label.y - far - high
        yield label.x - wide / 2, label.y + far
        yield label.x + far * 0.7, label.y - far * 0.7 - high
        yield label.x + far * 0.7, label.y + far * 0.7
        yield label.x - far * 0.7 - wide, label.y - far * 0.7 - high
        yield label.x - far * 0.7 - wide, label.y + far * 0.7


def width(words: str, size: float) -> float:
    """An upper estimate of a text's width."""
    return size * sum(1.02 if ord(sign) > 0x2E7F else 0.6 for sign in words)


def text(words: str, x: float, y: float, look: str = "", size: float = 12, end: str = "") -> str:
    """A text at x, y; `end` is `middle` or `end` where x is not its left edge."""
    anchor = f' text-anchor="{end}"' if end else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" class="{look}"{anchor}>'
        f"{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, look: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{look}"/>'


def path(points: Sequence[tuple[float, float]], look: str) -> str:
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{look}"/>'


def marker(shape: str, x: float, y: float, look: str, said: str = "") -> str:
    """A marker; `said` is its tooltip."""
    title = f"<title>{escape(said)}</title>" if said else ""
    return (
        f'<path d="{MARKERS[shape]}" transform="translate({x:.1f} {y:.1f})" class="{look}">'
        f"{title}</path>"
    )
