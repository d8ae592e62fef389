"""The nouns: frozen dataclasses, with no behaviour beyond what follows from their own fields.

Ids, not texts, identify things. A score is never a field of a document or a chunk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from vivace.types.reports import BatchProgress as BatchProgress
from vivace.types.reports import CollectionInfo as CollectionInfo
from vivace.types.reports import Decision as Decision
from vivace.types.reports import Failure as Failure
from vivace.types.reports import Finding as Finding
from vivace.types.reports import IngestProgress as IngestProgress
from vivace.types.reports import IngestReport as IngestReport
from vivace.types.reports import OnBatch as OnBatch
from vivace.types.reports import OnIngest as OnIngest
from vivace.types.reports import OnUpkeep as OnUpkeep
from vivace.types.reports import Skipped as Skipped
from vivace.types.reports import UpkeepProgress as UpkeepProgress

Ids: TypeAlias = NDArray[np.int64]
"""Chunk ids, -1 for padding."""
Vector: TypeAlias = NDArray[np.float32]
"""(dim,) float32."""
Vectors: TypeAlias = NDArray[np.float32]
"""(n, dim) float32, L2-normalised where the metric is cosine."""
Float16Vectors: TypeAlias = NDArray[np.float16]
"""(n, dim) float16: how vectors are stored."""
Scores: TypeAlias = NDArray[np.float32]
"""A higher score is always better."""
Signs: TypeAlias = NDArray[np.uint8]
"""A chunk's token vectors as (tokens, ceil(dim / 8)) uint8: a set bit is a component above 0, as
`np.packbits` writes them, big-endian."""
Bitmap: TypeAlias = NDArray[np.bool_]
"""By chunk id: `bitmap[id]` says whether the chunk may be returned; ids past its end may not."""

Metric: TypeAlias = Literal["cosine", "ip", "l2"]
"""How near two vectors are. `cosine` is the inner product of vectors that have unit length already;
the score of `l2` is minus the squared distance, so that a higher score is better everywhere."""

Metadata: TypeAlias = Mapping[str, Any]
FusionMode: TypeAlias = Literal["max_norm", "min_max", "rrf", "dense", "keyword"]
"""JSON values by name."""


@dataclass(frozen=True, slots=True)
class Section:
    """Where a heading's or page's text begins in `Document.text`; it ends where the next begins."""

    start: int
    heading: tuple[str, ...] = ()
    """The headings above the text, outermost first."""
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """What a reader reads or a user adds. `text` is what chunk and citation offsets point into."""

    id: str
    text: str
    title: str = ""
    source: str = ""
    metadata: Metadata = field(default_factory=dict)
    sections: tuple[Section, ...] = ()

    def content_hash(self) -> bytes:
        """BLAKE2b-128 over everything that search or citations can show."""
        digest = hashlib.blake2b(digest_size=16)
        sections = [(s.start, s.heading, s.page) for s in self.sections]
        head = json.dumps([self.title, self.source, dict(self.metadata), sections], sort_keys=True)
        digest.update(head.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
        digest.update(self.text.encode("utf-8", "surrogatepass"))
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage: `document.text[start:end] == text`; title, source, metadata are its document's."""

    document_id: str
    text: str
    start: int = 0
    end: int = 0
    id: int = -1
    """Local to its collection, never reused; -1 until stored."""
    section: tuple[str, ...] = ()
    page: int | None = None
    title: str = ""
    source: str = ""
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """A question to a collection. `vector`, where given, is used instead of embedding the text.

    `deadline` is the seconds from the call after which the result is of no use; `user` is the user
    whose share of a full queue the question counts against.
    """

    text: str
    k: int = 10
    filters: Metadata | None = None
    min_score: float | None = None
    user: str = ""
    deadline: float | None = None
    vector: Vector | None = field(default=None, compare=False, repr=False)
    explain: bool = False
    """Whether the result reports what each stage did and how long it took."""


@dataclass(frozen=True, slots=True)
class Matches:
    """`ids` (q, k) int64 padded with -1, `scores` (q, k) float32 descending, padded with -inf."""

    ids: Ids
    scores: Scores


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a family of vector indexes guarantees."""

    exact: bool
    """Recall is 1: answers equal brute force over the stored vectors, ties to the lower id."""
    effort: bool
    """More `effort` finds more and costs more; without it, the number changes nothing."""
    metrics: frozenset[Metric] = frozenset({"cosine", "ip", "l2"})
    rounding: float = 0.0
    """Greatest difference of a score from a scan's, relative to the score or to 1; 0 is none."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that an index takes."""

    resident: int
    """Held in memory, including the parts of its files that every search reads."""
    mapped: int
    """The parts of its files that searches touch sparsely and memory pressure may evict."""

    @property
    def total(self) -> int:
        return self.resident + self.mapped


@dataclass(frozen=True, slots=True)
class Objective:
    """The constraints on an index; of those that meet them, least CPU per query is best."""

    recall: float = 0.95
    """Floor of recall@k against exact search."""
    p95_ms: float | None = None
    """Upper limit in milliseconds for a dense search on one thread."""
    memory_bytes: int | None = None
    """Upper limit for the resident bytes of the index; see `Footprint`."""
    k: int = 10


@dataclass(frozen=True, slots=True)
class Fusion:
    """How two rankings become one: see `retrieve.fusion`."""

    mode: FusionMode = "max_norm"
    weight: float = 0.5
    """Weight of the keyword side, from 0 to 1; unused by `rrf`, `dense` and `keyword`."""


@dataclass(frozen=True, slots=True)
class Rerank:
    """How many of the best candidates are reranked, and with what weight; a depth of 0 is none."""

    depth: int = 20
    weight: float = 0.6
    """w in (1-w) * fused/max + w * reranked/max."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What a search does between its candidates and its hits."""

    candidates: int = 50
    """Chunks taken from each side."""
    fusion: Mapping[str, Fusion] = field(default_factory=dict)
    """By language (a code of `text.language`); "" is for every other."""
    rerank: Rerank = field(default_factory=Rerank)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which index is searched, and how."""

    family: str
    """Empty leaves the index to the defaults: only the stages were chosen."""
    params: Mapping[str, int] = field(default_factory=dict)
    effort: int = 0
    """See `VectorIndex.search`."""
    stages: Stages | None = None
    """None leaves them to the settings."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A plan with its recall (and 95 % interval) and its times per query on one thread."""

    plan: Plan
    recall: float
    recall_low: float
    recall_high: float
    p50_ms: float
    p95_ms: float
    cpu_ms: float
    """Mean."""
    footprint: Footprint
    build_seconds: float
    queries: int
    """Number of queries it was measured on."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """`vectors` (n, dim) float32, one per text; a text the model cannot read has a zero vector.

    `tokens`, where requested and where the model has them, holds each text's token vectors
    (tokens, dim) float32 of unit length, without the special tokens; (0, dim) of an unread text.
    """

    vectors: Vectors
    tokens: tuple[Vectors, ...] | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that answers, its final score, and the score each stage gave it."""

    chunk: Chunk
    score: float
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage of a search did."""

    width: int
    """Candidates that came out of it; questions of one that embeds."""
    ms: float
    """Milliseconds from its beginning to its end."""
    bytes: int = 0
    """Of the vectors, token signs or texts that it read for single candidates; else 0."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`degraded` names what could not be done for this query; `epoch` is the state searched.

    `stages`, for a query that asks to `explain`, has what each stage did, in their order.
    """

    hits: tuple[Hit, ...]
    epoch: int
    degraded: tuple[str, ...] = ()
    stages: Mapping[str, Stage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of one document that answers: chunks of it that touch, without repeating overlaps."""

    chunk: Chunk
    """`document.text[start:end] == text`; its id is that of the best hit in it."""
    score: float
    """Of the best hit in it."""
    ids: tuple[int, ...]
    """Of the chunks it is made of, in reading order."""


@dataclass(frozen=True, slots=True)
class Citation:
    """The exact place an answer rests on: `document.text[start:end] == text`, inside `chunk`."""

    number: int
    chunk: Chunk
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """`answer.text[start:end]` rests on citation number `citation`."""

    start: int
    end: int
    citation: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat: `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the model server counted them; `cached_tokens` are part of `prompt_tokens`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    free: bool = field(default=False, kw_only=True)
    """Replayed from Vivace's cache: the tokens were spent when the answer was first written."""


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How an answer is to be written, beyond the question itself."""

    history: tuple[Message, ...] = ()
    """Earlier turns, oldest first, without system messages."""
    system: str = ""
    """The user's own instructions; they are added to the built-in ones."""
    max_tokens: int | None = None
    temperature: float | None = None
    template: str = "qa"
    """A kind of answer by name: qa, summary, translation, code, one of the user's; or auto, which
    chooses by the question's words."""
    target_language: str = ""
    """Language of the answer, by name or code (French, fr, 法语); empty is the question's."""


class AnswerArguments(TypedDict, total=False):
    """The keyword arguments of every call that answers; `resolve_arguments` gives their meaning."""

    filters: Metadata | None
    options: AnswerOptions
    template: str
    target_language: str
    messages: Sequence[Message]


_DEFAULT_OPTIONS: Final = AnswerOptions()


def resolve_arguments(
    *,
    filters: Metadata | None = None,
    options: AnswerOptions = _DEFAULT_OPTIONS,
    template: str = "",
    target_language: str = "",
    messages: Sequence[Message] = (),
) -> tuple[Metadata | None, AnswerOptions]:
    """The filters of the search, and the options of the answer.

    Args:
        filters: the chunks that may be searched; see `Query`.
        options: what the other arguments extend.
        template: replaces the options' template unless it is empty.
        target_language: replaces the options' target language unless it is empty.
        messages: earlier messages, oldest first, appended to the options' history; those of the
            role system or developer are appended to its instructions.
    """
    if template or target_language or messages:
        instructions = [m.content for m in messages if m.role in ("system", "developer")]
        turns = [m for m in messages if m.role not in ("system", "developer")]
        options = replace(
            options,
            history=(*options.history, *turns),
            system="\n\n".join(filter(None, [options.system, *instructions])),
            template=template or options.template,
            target_language=target_language or options.target_language,
        )
    return filters, options


@dataclass(frozen=True, slots=True)
class Support:
    """How the passages that were read support `answer.text[start:end]`, a sentence."""

    start: int
    end: int
    supported: bool
    score: float
    """From 0 to 1: how much of the sentence the passage holds."""
    chunk: int | None = None
    """Id of the passage that supports it best; None where nothing is like it."""
    reason: str = ""
    """Why it is not supported: words, number, name or negation."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`found` is False where the documents do not say; `generator` names what wrote the text."""

    text: str
    hits: tuple[Hit, ...]
    citations: tuple[Citation, ...] = ()
    spans: tuple[Span, ...] = ()
    found: bool = True
    generator: str = ""
    degraded: tuple[str, ...] = ()
    usage: Usage | None = None
    cost: float | None = None
    """In the currency of `generate.price_*`; None where no price is set or nothing was billed."""
    finish_reason: str = "stop"
    read: int | None = None
    """How many of the first hits fitted into what the text was written from; None is all."""
    support: tuple[Support, ...] = ()
    """One for each sentence with a claim, where a model wrote the text."""
    answerable: float | None = None
    """How likely the hits hold the answer, by their scores alone: see `answer.grounding`."""
    cached: Literal["", "exact", "semantic"] = ""
    """Whether it was written for an earlier request: for the same prompt (known where the model
    server counts tokens), or for `cached_question`."""
    cached_question: str = ""
    """The question it was written for, where `cached` is semantic."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer.

    From a `Generator`: text, and on the last one `finish_reason` and, where the server reports it,
    `usage`. From an `Answerer`: text, and a last one without text that carries the whole `answer`.
    """

    text: str = ""
    answer: Answer | None = None
    finish_reason: str = ""
    usage: Usage | None = None
    degraded: tuple[str, ...] = ()
    """From a `Generator`, on the last one: what was not sent to the model as requested."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the model itself, without documents. None stands for the settings' value."""

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's completion of a `Request`."""

    text: str
    finish_reason: str = "stop"
    usage: Usage | None = None
    degraded: tuple[str, ...] = ()
    """What was not sent to the model as requested."""
