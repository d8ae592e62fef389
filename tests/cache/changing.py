"""Collections that change in every way they can, here and in another process.

    python -m tests.cache.changing

reads one change a line from stdin, as JSON, makes it, and says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from vivace.collection.plan_state import StoredPlan
from vivace.engine import Collection, Engine
from vivace.errors import CollectionLocked
from vivace.protocols import Kind
from vivace.settings import Settings, load
from vivace.types import (
    Delta,
    Document,
    Embedded,
    Fusion,
    Message,
    Plan,
    Rerank,
    Stages,
    Usage,
    Vectors,
)

DIM = 8
WORDS = ["ash", "birch", "cedar", "elm", "fir", "gum"]
COLOURS = ["red", "blue"]


class Salted:
    """An embedder whose every salt is another model."""

    dim = DIM

    def __init__(self, salt: str) -> None:
        self.name = f"salted:{salt}"

    def reads(self, language: str) -> bool:
        return True

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        return Embedded(np.stack([self._vector(text) for text in texts]))

    def _vector(self, text: str) -> Vectors:
        row = np.zeros(DIM, np.float32)
        for word in text.lower().split() or [""]:
            digest = hashlib.blake2b(f"{self.name} {word}".encode(), digest_size=DIM).digest()
            row += np.frombuffer(digest, np.uint8).astype(np.float32) - 127.5
        return row / np.linalg.norm(row)

    def close(self) -> None: ...


class Echo:
    """A model whose answer is a digest of everything it was asked: no two prompts have one."""

    def __init__(self, name: str) -> None:
        self.name = f"openai:{name}"

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        said = repr((self.name, messages, max_tokens, temperature)).encode()
        for word in ("It is", f" {hashlib.blake2b(said, digest_size=8).hexdigest()}", " [1]."):
            yield Delta(word)
        yield Delta(finish_reason="stop", usage=Usage(len(said), 3))

    async def close(self) -> None: ...


def settings_of(*, log: bool = False, **more: Any) -> Settings:
    return load(
        index={"family": "flat", "seal_chunks": 12, "merge_factor": 2, "terms_chunks": 5},
        tune={"guard": False},
        queries={"log": log},
        **more,
    )


def engine(settings: Settings, salt: str, model: str) -> Engine:
    with (
        mock.patch("vivace.embed.names.load", return_value=Salted(salt)),
        mock.patch("vivace.generate.names.load", return_value=Echo(model)),
    ):
        return Engine(settings)


async def change(docs: Collection, what: str, number: int, words: Sequence[str]) -> None:
    """One change; who finds another writer at work leaves it."""
    try:
        if what == "put":
            text, colour = " ".join(words), COLOURS[number % 2]
            await docs.add([Document(f"d{number}", text, metadata={"colour": colour})])
        elif what == "recolour":
            found = await docs.get(f"d{number}")
            if found is not None:
                colour = COLOURS[len(words) % 2]
                await docs.add([Document(found.id, found.text, metadata={"colour": colour})])
        elif what == "delete":
            await docs.delete(f"d{number}")
        elif what == "plan":
            fusion = {"": Fusion("max_norm", (number % 4) / 4)}
            stages = Stages(10 + number % 3, fusion, Rerank(0))
            stored = StoredPlan(Plan("", stages=stages))
            await asyncio.to_thread(docs.corpus.set_plan, stored)
        elif what == "rebuild":
            await docs.rebuild()
    except CollectionLocked:
        pass


class Elsewhere:
    """Another process that changes the same collections."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cache.changing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def do(self, folder: Path, salt: str, what: str, number: int, words: Sequence[str]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(folder), salt, what, number, words]) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


async def _obey() -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        folder, salt, what, number, words = json.loads(line)
        async with engine(settings_of(cache={"memory_mib": 0}), salt, "none") as made:
            await change(await made.open(Path(folder)), what, number, words)
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(_obey())
