"""Questions with what a search finds for them, kept in a folder so that it is searched for once."""

from __future__ import annotations

import csv
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.report import DATA
from vivace.engine import Engine
from vivace.types import Chunk, Document, Hit

KEPT = Path(tempfile.gettempdir()) / "vivace-bench-retrieved"
PASSAGES = 10


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    text: str
    answers: tuple[str, ...]
    document: str
    """Where the answer is; empty where there is none."""
    hits: tuple[Hit, ...]


def lines(path: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in path.read_text("utf-8").splitlines() if line]


async def retrieved(corpus: str, questions: str = "") -> list[Question]:
    """The questions of a set (`questions`: FOLDER/FILE, by default the corpus's own) with their
    hits in `corpus`."""
    path = DATA / "qa" / f"{questions or corpus + '/queries'}.jsonl"
    asked = [line for line in lines(path) if line["text"].strip()]
    right: dict[str, str] = {}
    if not questions:
        with (DATA / "qa" / corpus / "qrels.tsv").open(encoding="utf-8") as file:
            for row in csv.reader(file, delimiter="\t"):
                right.setdefault(row[0], row[1])
    found = await _hits(corpus, questions, [line["text"] for line in asked])
    return [
        Question(
            line["id"], line["text"], tuple(line.get("answers", ())), right.get(line["id"], ""), hit
        )
        for line, hit in zip(asked, found, strict=True)
    ]


async def _hits(corpus: str, questions: str, texts: Sequence[str]) -> list[tuple[Hit, ...]]:
    name = f"{corpus}-{questions.replace('/', '-') or 'own'}"
    digest = hashlib.blake2b("\n".join(texts).encode(), digest_size=6).hexdigest()
    path = KEPT / f"{name}-{digest}.json"
    if not path.is_file():
        KEPT.mkdir(parents=True, exist_ok=True)
        async with Engine(queries__log=False) as engine:
            docs = await engine.open(KEPT / corpus)
            items = lines(DATA / "qa" / corpus / "corpus.jsonl")
            if (await docs.info()).documents < len(items):
                # the title gives the answer's article away in SQuAD's sets
                await docs.add([Document(item["id"], item["text"]) for item in items])
            found = [(await docs.search(text, PASSAGES)).hits for text in texts]
        path.write_bytes(msgspec.json.encode(found, enc_hook=dict))
    return [tuple(_hit(hit) for hit in hits) for hits in msgspec.json.decode(path.read_bytes())]


def _hit(value: dict[str, Any]) -> Hit:
    fields = value["chunk"]
    chunk = Chunk(**{**fields, "section": tuple(fields["section"])})
    return Hit(chunk, value["score"], value["stages"])


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    z = 1.96
    share, width = hits / of, z * z / of
    middle = (share + width / 2) / (1 + width)
    half = z / (1 + width) * (share * (1 - share) / of + width / (4 * of)) ** 0.5
    return middle - half, middle + half
