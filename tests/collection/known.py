"""Documents whose every answer is known, so that a collection can be compared with brute force.

A document is its number and a version. Each of its chunks has a word that no other version of any
document has, and a vector of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.collection.prepared_chunks import checked_vectors
from vivace.engine import Collection, Engine
from vivace.protocols import Kind
from vivace.settings import Settings, load
from vivace.types import Chunk, Embedded, Query

DIM = 32
PARTS = 3
ALL = 300
"""Hits: more than there are chunks, so that no tie is cut."""
Versions = Mapping[int, int]
"""The version of each document that exists, by its number."""


def settings(family: str = "flat") -> Settings:
    """Segments are sealed and merged after a few chunks."""
    return load(
        embed__model=f"given:{DIM}",
        search__threads=1,
        index={"seal_chunks": 24, "merge_factor": 2, "family": family, "terms_chunks": 40},
    )


async def embed(texts: Sequence[str], *, kind: Kind) -> Embedded:
    rows = np.stack([vector(text) for text in texts])
    # as `add` scales what it is given: the last bit of a length would show after a rebuild
    return Embedded(checked_vectors(rows, count=len(texts), dim=DIM))


def engine(family: str = "flat") -> Engine:
    """Its embedder gives a chunk's text the vector that `put` gives it."""
    made = Engine(settings(family))
    made.resources.embedder.embed = embed  # type: ignore[method-assign]
    return made


def word(number: int, version: int) -> str:
    return f"d{number}v{version}x"


def chunks(number: int, version: int) -> list[Chunk]:
    return [
        Chunk(
            f"d{number}",
            f"This is part {part} of {word(number, version)}, as common as the others.",
            metadata={"even": number % 2 == 0},
        )
        for part in range(PARTS)
    ]


def vector(text: str) -> NDArray[np.float32]:
    """(DIM,) of unit length."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    row = np.random.default_rng(seed).standard_normal(DIM, np.float32)
    unit: NDArray[np.float32] = row / np.linalg.norm(row)
    return unit


async def put(docs: Collection, versions: Versions) -> None:
    """Add or replace documents, as one acknowledged call."""
    items = [chunk for number in versions for chunk in chunks(number, versions[number])]
    await docs.add(items, np.stack([vector(chunk.text) for chunk in items]))


async def state(docs: Collection) -> dict[int, int]:
    """Which versions the store says are there; each document has to be whole."""
    found = {}
    for document, count in await docs.list():
        number = int(document.id[1:])
        whole = await docs.get(document.id)
        assert whole is not None
        version = int(whole.text.partition(f"d{number}v")[2].partition("x")[0])
        wanted = [chunk.text for chunk in chunks(number, version)]
        assert count == PARTS
        assert [chunk.text for chunk in await docs.chunks(document.id)] == wanted
        assert whole.text == " ".join(wanted)
        found[number] = version
    return found


async def agrees(
    docs: Collection, versions: Versions, *, gone: Iterable[str] = (), exact: bool = True
) -> None:
    """Assert that both sides of a search find what is there, and nothing else."""
    for number in [*versions][:: max(1, len(versions) // 12)]:
        found = await docs.search(word(number, versions[number]), 20)
        assert [hit.chunk.document_id for hit in found.hits] == [f"d{number}"] * PARTS
    for text in gone:
        assert (await docs.search(text, 20)).hits == ()
    texts = [chunk.text for number in versions for chunk in chunks(number, versions[number])]
    if not texts:
        return
    rows = np.stack([vector(text) for text in texts]).astype(np.float16).astype(np.float32)
    scores_of = {}
    for question in ("one", "two", "three"):
        row = vector(question)
        scores = rows @ row
        scores_of = dict(zip(texts, scores.tolist(), strict=True))
        best = [texts[at] for at in np.argsort(-scores, kind="stable")[:10]]
        hits = (await docs.search(Query("", 10, vector=row))).hits
        for hit in hits:
            assert hit.chunk.text in scores_of, f"{hit.chunk.text} is not there"
            assert abs(hit.score - scores_of[hit.chunk.text]) < 2e-3
        found_texts = [hit.chunk.text for hit in hits]
        assert found_texts == best if exact else len(set(found_texts) & set(best)) >= 8


async def everything(docs: Collection) -> list[Any]:
    """Many answers with their scores, to be compared bit for bit; chunk ids are left out."""
    answers: list[Any] = []
    for question in ("one", "two", "part common others", "d1v0x part 2", "d5v1x"):
        for row in (None, vector(question)):
            for filters in (None, {"even": True}):
                result = await docs.search(Query(question, ALL, filters, vector=row))
                answers.append(
                    sorted((-hit.score, hit.chunk.text, dict(hit.stages)) for hit in result.hits)
                )
    return answers


def unnamed(folder: Path) -> list[str]:
    """Files and folders that nothing of the collection names."""
    known = {"store.db", "ops.db", "write.lock", "manifest.json", "segments", "terms"}
    found = [path.name for path in folder.iterdir() if path.name not in known]
    segments = folder / "segments"
    manifest = folder / "manifest.json"
    text = json.dumps(json.loads(manifest.read_text())) if manifest.exists() else ""
    if segments.exists():
        found += [f"segments/{p.name}" for p in segments.iterdir() if f'"{p.name}"' not in text]
    return found
