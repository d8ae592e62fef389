"""Questions with known answers: judged by people in files, or labelled for a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from vivace.errors import BadInput
from vivace.text.language import language
from vivace.types import Query, Vector


@dataclass(frozen=True, slots=True)
class JudgedQuestion:
    """A question and the documents that answer it, as people judged them."""

    query: Query
    relevant: frozenset[str]
    id: str = ""
    spans: tuple[tuple[str, int, int], ...] = ()
    """Characters of documents (document id, start, end) that hold the answer; empty is unknown."""


@dataclass(frozen=True, slots=True)
class ChunkRemainder:
    """A chunk without the words that a question was made of: what it is judged by instead."""

    share: float
    """Share of the chunk's own keyword score that the remaining text has."""
    vector: Vector | None
    """(dim,) of the remaining text; None keeps the chunk's own."""


@dataclass(frozen=True, slots=True)
class LabelledQuestion:
    """A question with what answers it: documents by id, or chunks by id."""

    text: str
    documents: frozenset[str] = frozenset()
    chunks: frozenset[int] = frozenset()
    vector: Vector | None = None
    """(dim,); None where the model cannot read the question."""
    remainders: Mapping[int, ChunkRemainder] = field(default_factory=dict)
    """By chunk id."""
    group: str = ""
    """Questions that vary together, such as those made from one document, share it."""

    @property
    def language(self) -> str:
        return language(self.text)


def read(where: Path) -> list[JudgedQuestion]:
    """The questions of queries.jsonl that qrels.tsv judges, in file order.

    A line of the former is {id, text, spans, doc}.

    Args:
        where: the folder of both, or a file in place of qrels.tsv beside queries.jsonl.

    Raises:
        BadInput: a file is missing, or a line of it cannot be read; names the line.
    """
    qrels = where / "qrels.tsv" if where.is_dir() else where
    queries = qrels.with_name("queries.jsonl")
    relevant = _relevant(qrels)
    found = []
    for number, row in enumerate(_bytes(queries).splitlines(), start=1):
        if not row.strip():
            continue
        try:
            value = msgspec.json.decode(row)
            name, text = str(value["id"]), value["text"]
            if not isinstance(text, str):
                raise TypeError("text is no string")
            spans = _spans(value)
        except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{queries}:{number}: {error}", fix="Write {id, text} a line") from error
        if name in relevant:
            found.append(JudgedQuestion(Query(text), frozenset(relevant[name]), name, spans))
    if not found:
        raise BadInput(
            f"{queries.parent}: no question of {queries.name} is judged in {qrels.name}",
            fix="Use the same ids in both",
        )
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror}",
            fix="Put queries.jsonl ({id, text} a line) beside qrels.tsv (query_id, doc_id, rel)",
        ) from error


def _relevant(path: Path) -> Mapping[str, set[str]]:
    relevant: dict[str, set[str]] = {}
    for number, line in enumerate(_bytes(path).decode("utf-8", "replace").splitlines(), start=1):
        parts = line.split("\t")
        if parts[0] == "query_id" or not line.strip():
            continue
        try:
            query_id, document_id, gain = parts
            if float(gain) > 0:
                relevant.setdefault(query_id, set()).add(document_id)
        except ValueError as error:
            raise BadInput(
                f"{path}:{number}: {line[:80]!r}",
                fix="Write query_id, doc_id and rel separated by tabs",
            ) from error
    return relevant


def _spans(value: Mapping[str, object]) -> tuple[tuple[str, int, int], ...]:
    """`spans` [[start, end], ...] of the document `doc`."""
    spans, document = value.get("spans"), value.get("doc")
    if not isinstance(spans, list) or not isinstance(document, str):
        return ()
    return tuple((document, int(start), int(end)) for start, end in spans)
