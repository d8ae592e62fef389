"""Under which headings does a text stand?"""

from __future__ import annotations

from collections.abc import Iterable

from vivace.types import Section


def outline(headings: Iterable[tuple[int, int, str]]) -> tuple[Section, ...]:
    """Sections of headings given in order as (start, level, text): each with its path of headings.

    A heading stands under the nearest one before it that has a lower level, so a skipped level
    (h1, then h3) leaves no gap in the path. Headings without text are left out.
    """
    above: list[tuple[int, str]] = []
    sections: list[Section] = []
    for start, level, text in headings:
        if not text:
            continue
        stand(above, level, text)
        sections.append(Section(start, path(above)))
    return tuple(sections)


def stand(above: list[tuple[int, str]], level: int, text: str) -> None:
    """Put a heading under those of `above` that it stands under, and drop the others from it."""
    while above and above[-1][0] >= level:
        above.pop()
    above.append((level, text))


def path(above: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    """The texts of the headings that something stands under."""
    return tuple(text for _, text in above)
