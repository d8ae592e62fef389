"""Docstrings and comments of code in a collection, as questions that the code answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from vivace.store.store import Store
from vivace.text.terms import terms
from vivace.types import Chunk

QuestionKind: TypeAlias = Literal["heading", "docstring", "comment", "sentence"]
SHORTEST, LONGEST = 25, 400
"""Characters of a question."""
LEAST_REST: Final = 80
"""Characters that must remain of a passage for it to answer without the part taken out."""
_LEAST_TERMS: Final = 2
_CODE_SHARE: Final = 0.3
_CODED: Final = re.compile(
    r"[;{}:(\[,]\s*$|^\s*(?:def|class|return|import|from|if|elif|else|for|while|try|except|raise|with"
    r"|async|await|function|var|let|const|public|private|protected|static|func|fn|struct|enum"
    r"|package|#include|use|impl)\b.*[:;({)]|^\s*@\w+|\w\(.*\)\s*$|^\s*[\w.]+ = \S|^\s*[\])}]"
)
"""A line of a program, recognised by its end, its beginning, or a call."""
_DOCSTRING: Final = re.compile(
    r":[ \t]*\n[ \t]*(?P<whole>[rRuU]?(?P<quote>\"{3}|'{3})(?P<said>.*?)(?P=quote))", re.DOTALL
)
_COMMENT: Final = re.compile(
    r"^[ \t]+#[ \t].*(?:\n[ \t]+#.*)*(?=\n[ \t]*\w)"
    r"|^[ \t]*//.*(?:\n[ \t]*//.*)*(?=\n[ \t]*\w)"
    r"|^[ \t]*/\*(?:[^*]|\*(?!/))*\*/(?=\s*\n[ \t]*[\w@])",
    re.MULTILINE,
)
"""A `#` at the beginning of a line may be a heading, and is no comment here."""


@dataclass(frozen=True, slots=True)
class QuestionDraft:
    """A question, the part of the document it was made from, and what remains of that part."""

    text: str
    kind: QuestionKind
    start: int
    end: int
    left: str = ""


def is_code(text: str) -> bool:
    """Whether enough of its lines are those of a program."""
    lines = [line for line in text.split("\n") if line.strip()]
    coded = sum(1 for line in lines if _CODED.search(line))
    return len(lines) > 1 and coded >= _CODE_SHARE * len(lines)


class Docstrings(dict[str, list[QuestionDraft]]):
    """The docstrings of a document by its id; each document is read once.

    A chunk often ends inside a long docstring and lacks its closing quotes, so whole documents are
    read.
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def __missing__(self, document_id: str) -> list[QuestionDraft]:
        whole = _joined(self._store.chunks_of(document_id))
        found = self[document_id] = [] if whole is None else list(_docstrings(whole))
        return found


def _joined(chunks: Sequence[Chunk]) -> Chunk | None:
    """A document's chunks as one, with line breaks where they do not touch; None where they are not
    pieces of one text."""
    parts: list[str] = []
    end = -1
    for chunk in sorted(chunks, key=lambda chunk: chunk.start):
        if chunk.end - chunk.start != len(chunk.text):
            return None
        if parts:
            parts.append("\n" * (chunk.start - end))
        parts.append(chunk.text[max(0, end - chunk.start) if parts else 0 :])
        end = max(end, chunk.end)
    if not parts:
        return None
    first = min(chunk.start for chunk in chunks)
    return Chunk(chunks[0].document_id, "".join(parts), first, end)


def _docstrings(chunk: Chunk) -> Iterator[QuestionDraft]:
    """Strings below a signature that say what the code below them does."""
    for found in _DOCSTRING.finditer(chunk.text):
        yield from _described(chunk, found["said"], found.start("whole"), found.end(), "docstring")


def comments(chunk: Chunk) -> Iterator[QuestionDraft]:
    """Comment blocks above a line of code."""
    for found in _COMMENT.finditer(chunk.text):
        said = " ".join(line.strip().lstrip("#/*!- \t") for line in found[0].split("\n"))
        yield from _described(chunk, said, found.start(), found.end(), "comment")


def _described(
    chunk: Chunk, said: str, start: int, end: int, kind: QuestionKind
) -> Iterator[QuestionDraft]:
    """A description's first paragraph as a question, if enough code remains to be found by."""
    first = " ".join(said.strip().split("\n\n")[0].split())
    left = len(chunk.text) - (end - start)
    if len(first) >= SHORTEST and len(set(terms(first))) > _LEAST_TERMS and left >= LEAST_REST:
        yield QuestionDraft(first[:LONGEST], kind, chunk.start + start, chunk.start + end)
