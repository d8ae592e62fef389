"""What of a passage a prompt holds: the passage, and which of its sentences are shown.

The passage stays whole beside it, so that a citation points at the exact span of the document,
whatever was left out of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from vivace.text.sentences import sentences
from vivace.types import Chunk, Hit

GAP: Final = " … "
"""Stands where sentences were left out."""
Spans: TypeAlias = tuple[tuple[int, int], ...]
Count: TypeAlias = Callable[[str], int]
"""Tokens of a text."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """`spans` are offsets into `chunk.text`, in order, and do not overlap."""

    chunk: Chunk
    spans: Spans
    score: float = 0.0
    rank: int = 0
    """Of its hit, from 0."""
    _split: Spans | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def text(self) -> str:
        """What the prompt shows."""
        text = self.chunk.text
        parts: list[str] = []
        last = 0
        for start, end in self.spans:
            if parts:
                between = text[last:start]
                parts.append(between if between.isspace() or not between else GAP)
            parts.append(text[start:end])
            last = end
        return "".join(parts)

    def sentences(self) -> Spans:
        """The shown sentences, as offsets into `chunk.text`."""
        if self._split is None:  # asked for the prompt, and again to ground the answer
            split = [
                sentence
                for start, end in self.spans
                for sentence in sentences(self.chunk.text, start, end)
            ]
            object.__setattr__(self, "_split", tuple(split))
        assert self._split is not None
        return self._split

    def keeping(self, kept: Sequence[tuple[int, int]]) -> Excerpt:
        """With these of its sentences alone; what stands between two neighbours stays."""
        shown = self.sentences()
        at = {sentence: number for number, sentence in enumerate(shown)}
        spans: list[tuple[int, int]] = []
        before = -2
        for sentence in sorted(kept):
            number = at[sentence]
            follows = (
                number == before + 1 and not self.chunk.text[spans[-1][1] : sentence[0]].strip()
            )
            if follows:
                spans[-1] = (spans[-1][0], sentence[1])
            else:
                spans.append(sentence)
            before = number
        return replace(self, spans=tuple(spans))


def whole(hits: Sequence[Hit]) -> tuple[Excerpt, ...]:
    """Every hit's passage, all of it, in their order."""
    return tuple(
        Excerpt(hit.chunk, ((0, len(hit.chunk.text)),), hit.score, rank)
        for rank, hit in enumerate(hits)
    )
