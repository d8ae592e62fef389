"""Labels that people gave: which documents answer which question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from vivace.errors import BadInput
from vivace.types import Query


@dataclass(frozen=True, slots=True)
class Judged:
    """A question and the documents that answer it."""

    query: Query
    relevant: frozenset[str]
    id: str = ""
    spans: tuple[tuple[str, int, int], ...] = field(default=())
    """Characters of documents (document id, start, end) that hold the answer; none is unknown."""


def read(folder: Path) -> list[Judged]:
    """The questions of queries.jsonl that qrels.tsv judges, in file order.

    Raises:
        BadInput: a file is missing, or a line of it cannot be read; names the line.
    """
    return judged(folder / "qrels.tsv", folder / "queries.jsonl")


def judged(qrels: Path, queries: Path) -> list[Judged]:
    """The questions of one file ({id, text, spans, doc} a line) that the other judges.

    Raises:
        BadInput: a file is missing, or a line of it cannot be read; names the line.
    """
    relevant = _relevant(qrels)
    found = []
    for number, row in enumerate(_bytes(queries).splitlines(), start=1):
        if not row.strip():
            continue
        try:
            value = msgspec.json.decode(row)
            id, text = str(value["id"]), value["text"]
            if not isinstance(text, str):
                raise TypeError("text is no string")
            spans = _spans(value)
        except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{queries}:{number}: {error}", fix="Write {id, text} a line") from error
        if id in relevant:
            found.append(Judged(Query(text), frozenset(relevant[id]), id, spans))
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
