"""The engine: opens and closes collections over the resources they share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from vivace import settings as settings_module
from vivace.collection.corpus import Corpus
from vivace.collection.paths import collection_path
from vivace.collection.upkeep import Reembedded, reembed
from vivace.engine.collection import Collection
from vivace.engine.resources import Parts, Resources
from vivace.errors import BadSettings, VivaceError
from vivace.generate.batch import generate_many
from vivace.protocols import Embedder, Generator, Reader, Reranker
from vivace.settings import Settings
from vivace.store.operations import Operations
from vivace.trace import Trace
from vivace.types import Completion, Decision, OnBatch, OnUpkeep, Request


class Engine:
    """Owns the models and thread pools, and opens any number of collections over them.

    Use it as an asynchronous context manager, or call `close`. Settings come from every source that
    `vivace.settings.load` knows, unless given.

    Args:
        embedder, generator, reranker: used in place of what the settings name, and closed with the
            engine. See `docs/extending.md`.
        readers: read files of their suffixes, before the built-in readers do.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        embedder: Embedder | None = None,
        generator: Generator | None = None,
        reranker: Reranker | None = None,
        readers: Sequence[Reader] = (),
        **overrides: Any,
    ) -> None:
        loaded = settings if settings is not None else settings_module.load(**overrides)
        parts = Parts(embedder, generator, reranker, tuple(readers))
        self.resources = Resources.load(loaded, self.record, parts)
        self.settings = self.resources.settings
        self._collections: dict[Path, Collection] = {}
        self._opening = asyncio.Lock()

    async def open(self, name: str | Path = "default", *, create: bool = True) -> Collection:
        """The collection at a path, or of a name under `settings.home`; opened once.

        Raises:
            CollectionNotFound: there is none and `create` is False.
            EmbedderMismatch: it was made with another embedder.
            CollectionTooNew: a later version of Vivace wrote it.
        """
        folder = collection_path(name, self.settings)
        async with self._opening:
            opened = self._collections.get(folder)
            if opened is not None and not opened.closed:
                return opened
            trace = Trace()
            operations = Operations(folder, trace)
            embedder = self.resources.embedder
            corpus = await asyncio.to_thread(
                Corpus.open,
                folder,
                embedder=embedder.name,
                dim=embedder.dim,
                trace=trace,
                settings=self.settings.index,
                create=create,
                decide=operations.record,
            )
            collection = Collection(self.resources, corpus, trace, operations)
            self._collections[folder] = collection
            return collection

    async def reembed(
        self, name: str | Path = "default", *, progress: OnUpkeep | None = None
    ) -> Reembedded:
        """Give every chunk a vector of this engine's embedder: see `collection.upkeep.reembed`."""
        folder = collection_path(name, self.settings)
        tokens = self.settings.embed.tokens
        opened = self._collections.get(folder)
        if opened is not None and not opened.closed:
            return await opened.upkeep.reembed(progress, tokens=tokens)
        embedder = self.resources.embedder
        return await reembed(folder, embedder, tokens=tokens, progress=progress)

    async def generate_many(
        self, requests: Sequence[Request], *, progress: OnBatch | None = None
    ) -> list[Completion | VivaceError]:
        """The model's completion or an error for each request, in order, without documents.

        Equal requests are sent once, unless their temperature is above zero. As many run at once as
        give the model's servers the most throughput: see `run.limit`.

        Args:
            progress: called on the event loop whenever a request has ended.

        Raises:
            BadSettings: there is no model.
        """
        if self.resources.generator is None:
            raise BadSettings(
                "there is no model to ask", fix="Set generate.model to openai:NAME@URL"
            )
        settings = self.settings.generate
        return await generate_many(
            self.resources.generator,
            requests,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            sampled=settings.coalesce_sampled,
            parallel=self.resources.parallel,
            progress=progress,
        )

    async def close(self) -> None:
        """Close every collection, then what they share. Idempotent."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.resources.close)
            for collection in self._collections.values():
                stack.push_async_callback(collection.close)
            self._collections.clear()

    def record(self, decision: Decision) -> None:
        """Record a decision about what all collections share with each of them."""
        for collection in list(self._collections.values()):
            if not collection.closed:
                collection.record(decision)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
