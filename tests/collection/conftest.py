"""A collection with a cheap embedder: these tests are about documents, not about a model."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from vivace.engine import Collection, Engine
from vivace.errors import EmbeddingError
from vivace.protocols import Kind
from vivace.settings import load
from vivace.types import Embedded


class HashEmbedder:
    """Each word has a random direction; a text's vector is the sum. Counts what it embeds."""

    name = "hash"
    dim = 32

    def __init__(self) -> None:
        self.embedded: list[str] = []
        self.broken = False

    def reads(self, language: str) -> bool:
        return language == "en"

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        if self.broken:
            raise EmbeddingError("the embedder is broken", fix="Mend it")
        if kind == "passage":
            self.embedded += texts
        rows = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())
                row += np.random.default_rng(seed).normal(size=self.dim)
            row /= np.linalg.norm(row) or 1.0
        return Embedded(rows)

    def close(self) -> None: ...


@pytest.fixture
def embedder() -> HashEmbedder:
    return HashEmbedder()


@pytest.fixture
async def engine(embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    monkeypatch.setattr("vivace.embed.names.load", lambda *_: embedder)
    async with Engine(load(chunk={"tokens": 16, "overlap": 0})) as engine:
        yield engine


@pytest.fixture
async def docs(engine: Engine, tmp_path: Path) -> Collection:
    return await engine.open(tmp_path / "collection")
