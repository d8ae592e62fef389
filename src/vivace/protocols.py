"""The seams: a part is replaced by implementing one, and a wrapper implements what it wraps."""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Sequence,
)
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from vivace.errors import IngestError, VivaceError
from vivace.types import (
    AnswerOptions,
    Bitmap,
    Capabilities,
    Chunk,
    Decision,
    Delta,
    Document,
    Embedded,
    Float16Vectors,
    Footprint,
    Hit,
    Ids,
    Matches,
    Message,
    Metric,
    Query,
    Scores,
    SearchResult,
    Signs,
    Stages,
    Vectors,
)

Kind: TypeAlias = Literal["query", "passage"]
TokenCounter: TypeAlias = Callable[[Sequence[str]], list[int]]
"""Tokens of each text as the embedding model counts them, special tokens excluded."""


class Reader(Protocol):
    """One file format. Implementations hold no state, so that they can run in another process."""

    suffixes: frozenset[str]
    """Lower case, with the dot."""

    def read(self, path: Path) -> Iterator[Document | IngestError]:
        """Yield the file's documents in order; a bad part of a file is yielded as an `IngestError`.

        Raises:
            IngestError: nothing (more) of the file can be read.
        """
        ...


class Embedder(Protocol):
    """Texts to vectors. A text's vector never depends on the other texts of the call."""

    name: str
    """Part of every cache key and of the collection's manifest."""
    dim: int

    def reads(self, language: str) -> bool:
        """Whether the model understands the language (a code of `vivace.text.language`)."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """A `TokenCounter`: what chunks are measured with."""
        ...

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        """Vectors (n, dim) float32 of unit length, in the order of the texts.

        Raises:
            EmbeddingError: the model or its server failed.
        """
        ...

    def close(self) -> None:
        """Stop its threads and release its model. Idempotent."""
        ...


@runtime_checkable
class EmbedsTokens(Protocol):
    """An `Embedder` whose model returns token vectors from the same forward pass."""

    async def embed_tokens(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        """As `Embedder.embed`, with the token vectors of every text."""
        ...


class VectorIndex(Protocol):
    """Which vectors are near? Synchronous, batched, releases the GIL; immutable once built.

    Each family has its own way to build and store an index: `vivace.index.segments` lists the
    families, and `vivace.testing.conformance` tests one.
    """

    family: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    @classmethod
    def estimate_bytes(cls, n: int, dim: int, **params: int) -> Footprint:
        """What an index over n vectors takes, without building it."""
        ...

    @classmethod
    def estimate_seconds(cls, n: int, dim: int, **params: int) -> float:
        """CPU seconds that building takes, roughly: within a factor of three."""
        ...

    @classmethod
    def candidates(cls, n: int, dim: int) -> list[dict[str, int]]:
        """Parameters worth trying over n vectors, the likeliest first; `{}` is the default."""
        ...

    @property
    def footprint(self) -> Footprint:
        """What this one takes."""
        ...

    def efforts(self, k: int) -> tuple[int, int]:
        """The least and the greatest effort worth trying for k neighbours; the greatest finds
        (nearly) all of them."""
        ...

    @property
    def metric(self) -> Metric: ...

    @property
    def ids(self) -> Ids:
        """(n,) ascending."""
        ...

    @property
    def vectors(self) -> Float16Vectors:
        """(n, dim) float16 in the order of `ids`: what was indexed."""
        ...

    def search(
        self, queries: Vectors, k: int, *, effort: int = 0, allow: Bitmap | None = None
    ) -> Matches:
        """The k nearest allowed of each query (q, dim); equal scores ascend by id.

        `effort` is one monotone number: how many candidates, nodes or cells the family looks at; a
        higher one never finds less. 0 is the family's default for its size and k. A row's score is
        exact and depends on nothing but the row and the query.

        Raises:
            BadVectors: queries of another dimension, or with NaN or infinity.
        """
        ...

    def exact(self, queries: Vectors, k: int, *, allow: Bitmap | None = None) -> Matches:
        """The k nearest allowed by brute force over `vectors`; otherwise as `search`."""
        ...

    def similarity(self, query: Vectors, ids: Ids) -> Scores:
        """Scores (len(ids),) of one query (1, dim), to the bit those of a scan; -inf if absent.

        Raises:
            BadVectors: as `search`.
        """
        ...


class TermIndex(Protocol):
    """Which terms are near? Its engine keeps its own segments."""

    def add(self, chunk_id: int, terms: Sequence[str], /) -> None: ...

    def delete(self, chunk_id: int, /) -> None: ...

    def commit(self, epoch: int) -> None:
        """Make every add and delete so far durable and visible, as the state of `epoch`."""
        ...

    def search(self, terms: Sequence[str], k: int, *, allow: Bitmap | None = None) -> Matches:
        """The k best by BM25 as one row of matches."""
        ...


class ChunkReader(Protocol):
    """The store's side of one state of a collection: what its chunks are. Blocks."""

    def chunks(self, ids: Iterable[int]) -> dict[int, Chunk]:
        """The chunks that exist now, by id."""
        ...

    def signs(self, ids: Iterable[int]) -> dict[int, Signs]:
        """The token vectors of those chunks that have some, by id."""
        ...

    def neighbours(self, chunks: Sequence[Chunk]) -> dict[int, tuple[Chunk | None, Chunk | None]]:
        """Of each by id: the chunks of its document that come before and after it in reading."""
        ...


class CandidateSource(Protocol):
    """One state of a collection: it proposes and scores chunks, on both sides, by their ids.

    It blocks: call it from the search pool. A whole search is one hop to that pool: one
    asynchronous call per side took 60 % longer.
    """

    epoch: int

    @property
    def approximate(self) -> bool:
        """Whether `dense` may miss true neighbours."""
        ...

    def dense(
        self, vectors: Vectors, k: int, *, allow: Bitmap | None = None, hurried: bool = False
    ) -> Matches:
        """The k nearest of each query (q, dim); `hurried` searches with the least effort."""
        ...

    def exact(self, vectors: Vectors, k: int, *, allow: Bitmap | None = None) -> Matches:
        """As `dense`, by brute force."""
        ...

    def keyword(self, terms: Sequence[str], k: int, *, allow: Bitmap | None = None) -> Matches: ...

    def similarity(self, vector: Vectors, ids: Ids) -> Scores:
        """Exact similarity of one query (1, dim) to the given chunks; -inf for one not there."""
        ...

    def vectors(self, ids: Ids) -> Vectors:
        """The stored vectors (len(ids), dim) float32; zeros for one not there."""
        ...

    def allowed(self, query: Query) -> Bitmap | None:
        """The chunks its filters allow; None allows all.

        Raises:
            BadFilter: an unknown key or operator.
        """
        ...

    @property
    def reader(self) -> ChunkReader:
        """Reads the chunks that the ids name."""
        ...

    @property
    def stages(self) -> Stages | None:
        """What the collection's plan says of them; None leaves them to the settings."""
        ...


class Reranker(Protocol):
    """How well does each passage answer? Callers go on without scores that fail or are late."""

    name: str

    async def score(self, query: Query, hits: Sequence[Hit]) -> Scores:
        """One score per hit (n,) float32, higher is better, on any scale.

        Raises:
            RerankError: the model or its server failed.
        """
        ...

    async def close(self) -> None:
        """Stop its threads, close its connections. Idempotent."""
        ...


@runtime_checkable
class ReranksSeveral(Protocol):
    """A `Reranker` that is more efficient on several questions at once, as servers are."""

    @property
    def at_once(self) -> int:
        """Questions, at most."""
        ...


class Searcher(Protocol):
    """Which passages answer?"""

    async def search(self, query: Query) -> SearchResult: ...

    async def search_many(self, queries: Sequence[Query]) -> list[SearchResult | VivaceError]:
        """One result or error per query, in order."""
        ...


class Generator(Protocol):
    """A language model behind a wire. Closing the iterator stops the model's work upstream."""

    name: str

    def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        """The completion in pieces; the last carries the finish reason and, if known, the usage.

        Raises:
            GenerationError: see its subclasses.
        """
        ...

    async def close(self) -> None: ...


Search: TypeAlias = Callable[[Query], Awaitable[SearchResult]]
"""Searches one collection; checks and logs the query."""


class Answerer(Protocol):
    """What is the answer? Writes from passages; the last delta carries the whole answer."""

    name: str

    def stream(
        self, query: Query, search: Search, options: AnswerOptions = ...
    ) -> AsyncIterator[Delta]:
        """The answer in pieces. Calls `search` once when it needs passages; never for a text to
        translate or a cached answer."""
        ...

    async def close(self) -> None: ...


class CacheTier(Protocol):
    """A shared store of bytes behind the memory of a process: L2 or L3.

    It may lose anything at any time. Its callers count the errors it raises and go on without it.
    """

    name: str

    async def get(self, key: bytes) -> tuple[bytes, float | None] | None:
        """The value and the seconds it still lives (None: until it is evicted)."""
        ...

    async def set(self, key: bytes, value: bytes, *, ttl: float | None = None) -> None: ...

    async def delete(self, key: bytes) -> None: ...

    async def clear(self) -> None:
        """Delete everything of this namespace."""
        ...

    async def close(self) -> None: ...


class EvictionPolicy(Protocol):
    """Which key is evicted? Holds keys and numbers, no values; not thread-safe: the cache locks.

    Every call is O(1), amortised or sampled. A key that `insert` does not admit is among those it
    returns. Weights and the capacity are in one unit, entries or bytes.
    """

    name: ClassVar[str]

    def hit(self, key: Hashable) -> None:
        """A resident key was requested."""
        ...

    def insert(self, key: Hashable, *, weight: int = 1, cost: float = 1.0) -> list[Hashable]:
        """Insert a key that is not resident, after a miss; returns the keys to evict.

        `cost` is what computing it again would take, in any unit (milliseconds, tokens).
        """
        ...

    def remove(self, key: Hashable) -> None:
        """Remove a key that was deleted or has expired. Unknown keys are ignored."""
        ...

    def resize(self, capacity: int) -> list[Hashable]:
        """Change the capacity; returns the keys to evict."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Hashable]:
        """The resident keys in the order of eviction, as far as the policy knows it."""
        ...


class DecisionSink(Protocol):
    """Where decisions are recorded."""

    def record(self, decision: Decision) -> None:
        """Record a decision. Never raises; failures are counted. Any thread may call."""
        ...
