"""Reads sources, chunks them and compares them with the store: all of a change but its vectors."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

from vivace.errors import BadInput, IngestError
from vivace.ingest import formats
from vivace.ingest.chunking import indexed_text, split
from vivace.ingest.sandbox import Passwords, Reading, Sandbox
from vivace.ingest.walk import FoundFile, Links, walk
from vivace.protocols import Reader, TokenCounter
from vivace.settings import Parse, Settings
from vivace.store.store import Store
from vivace.types import Chunk, Document, Failure, Skipped

CHUNKER = 1
"""Part of every fingerprint. Raise it when chunking changes: documents are then chunked again."""

_LOOK_AHEAD: Final = 256
"""Most files listed ahead of reading."""

Source: TypeAlias = Document | IngestError | Skipped | Failure


def from_paths(
    paths: Sequence[Path],
    *,
    max_bytes: int,
    parse: Parse,
    sandbox: Sandbox,
    readers: Sequence[Reader] = (),
    links: Links = "inside",
    ask: Passwords | None = None,
) -> Iterator[Source]:
    """Every document below the paths, and what could not be read or was skipped, in order.

    Large files, and those of risky formats, are read in the sandbox, a few ahead of the consumer,
    so that its workers are busy while earlier documents are chunked and embedded. `readers` come
    before the built-in ones and run in this process.
    """
    ahead: deque[FoundFile | Reading | Skipped | Failure] = deque()
    reading = 0
    own = {suffix: reader for reader in readers for suffix in reader.suffixes}
    found = walk(paths, {*formats.SUFFIXES, *own}, links)
    try:
        while True:
            while reading < sandbox.ahead and len(ahead) < _LOOK_AHEAD:
                item = next(found, None)
                if item is None:
                    break
                if (
                    isinstance(item, FoundFile)
                    and item.path.suffix.lower() not in own
                    and formats.sandboxed(item.path, item.size)
                ):
                    boundary = item.boundary
                    ahead.append(
                        sandbox.read(item.path, max_bytes=max_bytes, boundary=boundary, ask=ask)
                    )
                    reading += 1
                else:
                    ahead.append(item)
            if not ahead:
                return
            first = ahead[0]
            if isinstance(first, FoundFile):
                yield from formats.read(
                    first.path,
                    max_bytes=max_bytes,
                    parse=parse,
                    reader=own.get(first.path.suffix.lower()),
                    boundary=first.boundary,
                )
            elif isinstance(first, Reading):
                yield from first
                reading -= 1
            else:
                yield first
            ahead.popleft()
    finally:
        for left in ahead:
            if isinstance(left, Reading):
                left.cancel()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A chunked document; `missing` are the places of chunks whose vector is not stored yet."""

    document: Document
    fingerprint: bytes
    chunks: tuple[Chunk, ...]
    hashes: tuple[bytes, ...]
    missing: tuple[int, ...]
    texts: tuple[str, ...]
    """What to embed for each of `missing`."""

    def whole(self, index_title: bool) -> Prepared:
        """The same with every chunk missing, whatever is stored."""
        return replace(
            self,
            missing=tuple(range(len(self.chunks))),
            texts=tuple(indexed_text(chunk, index_title=index_title) for chunk in self.chunks),
        )


@dataclass(slots=True)
class Window:
    """Documents to embed and commit together, with what was skipped or failed between them."""

    prepared: list[Prepared] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    read: int = 0
    last: str = ""

    @property
    def chunks(self) -> int:
        return sum(len(p.chunks) for p in self.prepared)


class Preparation:
    """Cuts a stream of sources into windows. One thread at a time may call `next_window`."""

    def __init__(
        self, sources: Iterable[Source], store: Store, count: TokenCounter, settings: Settings
    ) -> None:
        self._sources = iter(sources)
        self._store = store
        self._count = count
        self._settings = settings
        self._in_flight: Counter[str] = Counter()
        """Ids prepared and not committed yet: the store's knowledge of them is out of date."""
        recipe = [CHUNKER, settings.chunk.tokens, settings.chunk.overlap, self._index_title]
        self._recipe = json.dumps(recipe).encode()

    @property
    def _index_title(self) -> bool:
        return self._settings.ingest.index_title

    def next_window(self, chunks: int) -> Window | None:
        """The next documents, at least one item where there are any; None at the end.

        Args:
            chunks: the number after which the window is full.
        """
        window, pending = Window(), list[Document]()
        until = time.monotonic() + self._settings.ingest.commit_seconds
        for source in self._sources:
            window.read += 1
            if isinstance(source, Document):
                window.last = source.source or source.id
                pending.append(source)
                if len(pending) >= 32 or len(source.text) > 100_000:
                    self._prepare(pending, window)
                    pending.clear()
            elif isinstance(source, IngestError):
                window.failures.append(Failure(source.source, source.reason, source.fix))
            elif isinstance(source, Failure):
                window.failures.append(source)
            else:
                window.skipped.append(source)
            if window.chunks >= chunks or time.monotonic() > until:
                break
        self._prepare(pending, window)
        return window if window.read else None

    def committed(self, window: Window) -> None:
        """Note that the window's documents are in the store."""
        self._in_flight -= Counter(prepared.document.id for prepared in window.prepared)

    def _prepare(self, documents: Sequence[Document], window: Window) -> None:
        prints = [self._fingerprint(document) for document in documents]
        stored = self._store.fingerprints([d.id for d in documents])
        differing = [
            document.id
            for document, print_ in zip(documents, prints, strict=True)
            if stored.get(document.id, print_) != print_
        ]
        known = self._store.hashes(differing)
        for document, print_ in zip(documents, prints, strict=True):
            # what the store knows of a document in flight is about to change
            settled = document.id not in self._in_flight
            if settled and stored.get(document.id) == print_:
                window.unchanged.append(document.id)
                continue
            reusable = known.get(document.id, {}) if settled else {}
            window.prepared.append(self._one(document, print_, reusable))
            self._in_flight[document.id] += 1

    def _one(self, document: Document, fingerprint: bytes, stored: dict[bytes, int]) -> Prepared:
        size = self._settings.chunk
        chunks = split(document, self._count, tokens=size.tokens, overlap=size.overlap)
        texts = [indexed_text(chunk, index_title=self._index_title) for chunk in chunks]
        hashes = [_hash(chunk, text) for chunk, text in zip(chunks, texts, strict=True)]
        missing = []
        for at, digest in enumerate(hashes):
            if stored.get(digest, 0) > 0:
                stored[digest] -= 1
            else:
                missing.append(at)
        return Prepared(
            document,
            fingerprint,
            tuple(chunks),
            tuple(hashes),
            tuple(missing),
            tuple(texts[at] for at in missing),
        )

    def _fingerprint(self, document: Document) -> bytes:
        try:
            content = document.content_hash()
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"the metadata of document {document.id!r} has no JSON form: {error}",
                fix="Use strings, numbers, booleans, lists and mappings with string keys",
            ) from error
        return hashlib.blake2b(content + self._recipe, digest_size=16).digest()


def _hash(chunk: Chunk, indexed: str) -> bytes:
    """Covers all that is embedded and indexed, and where the context ends and the text begins."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{len(chunk.text)}\0".encode())
    digest.update(indexed.encode("utf-8", "surrogatepass"))
    return digest.digest()
