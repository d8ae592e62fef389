"""JSON bodies of requests and responses: OpenAI's API, and Vivace's own search.

The one place that turns hits and answers into JSON: the command line's `--json` prints what
`search_response` and `answer_value` return.

Requests of OpenAI's API ignore unknown fields, as every server of that API does; Vivace's own
refuse them, because there an unknown field is a typing error.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import quote

import msgspec
from msgspec import Meta

from vivace.types import Answer, Chunk, Hit, SearchResult

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Hits: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
_NULL = msgspec.Raw(b"null")
FilterJson: TypeAlias = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": ["object", "null"]})]
"""A metadata filter, not decoded yet: `asgi.decode_filters` bounds it before."""
DEFAULT_MODEL = "vivace"
DEFAULT_HITS = 10


class Part(msgspec.Struct, frozen=True):
    """A part of a message's content; only text can be read."""

    type: str
    text: str = ""


class ChatMessage(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    type: str = "text"


class ChatRequest(msgspec.Struct, frozen=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    model: str = DEFAULT_MODEL
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    n: int | None = None
    response_format: ResponseFormat | None = None
    k: Hits = DEFAULT_HITS
    """Vivace's own: the number of hits."""
    filters: FilterJson = msgspec.field(default_factory=lambda: _NULL)
    """Vivace's own: a metadata filter."""
    template: str = "qa"
    """Vivace's own: the kind of answer, see `AnswerOptions.template`."""
    target_language: str = ""
    """Vivace's own: the language of the answer."""


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    input: str | list[str | int | list[int]]
    model: str = DEFAULT_MODEL
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    input_type: Literal["query", "passage"] | None = None
    """Not OpenAI's: what the text is; `passage` by default."""


class SearchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: str
    k: Hits = DEFAULT_HITS
    filters: FilterJson = msgspec.field(default_factory=lambda: _NULL)
    min_score: float | None = None
    model: str = DEFAULT_MODEL


class HitBody(msgspec.Struct, frozen=True):
    """A hit. `start` and `end` are character offsets in the document's text."""

    id: int
    document_id: str
    title: str
    source: str
    section: tuple[str, ...]
    page: int | None
    start: int
    end: int
    text: str
    metadata: dict[str, Any]
    score: float
    stages: dict[str, float]


class SearchResponse(msgspec.Struct, frozen=True):
    hits: list[HitBody]
    epoch: int
    degraded: tuple[str, ...]


class Quote(msgspec.Struct, frozen=True):
    """The text that citation `number` rests on: `document.text[start:end] == text`."""

    number: int
    start: int
    end: int
    text: str


class Source(HitBody, frozen=True):
    """A hit the answer was written from; `citations` is empty where none cites it."""

    citations: list[Quote]


class UrlCitation(msgspec.Struct, frozen=True):
    """`content[start_index:end_index]` rests on the source; indexes count code points."""

    url: str
    title: str
    start_index: int
    end_index: int


class Annotation(msgspec.Struct, frozen=True):
    url_citation: UrlCitation
    type: Literal["url_citation"] = "url_citation"


class SupportBody(msgspec.Struct, frozen=True):
    """Whether a passage supports `content[start_index:end_index]`, a sentence of the answer."""

    start_index: int
    end_index: int
    supported: bool
    score: float
    source: int | None
    """Id of the passage."""
    reason: str
    """Why not: words, number, name or negation."""


class AnswerMessage(msgspec.Struct, frozen=True):
    content: str
    annotations: list[Annotation]
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class AnswerChoice(msgspec.Struct, frozen=True):
    message: AnswerMessage
    finish_reason: str
    index: int = 0
    logprobs: None = None


class PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int = 0


class ChatUsage(msgspec.Struct, frozen=True):
    """Tokens as the model server counted them; zeros where no model wrote the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    cost: float | None = None


class ChatResponse(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: list[AnswerChoice]
    usage: ChatUsage
    sources: list[Source]
    degraded: tuple[str, ...]
    found: bool
    generator: str
    support: list[SupportBody]
    answerable: float | None
    cached: str
    """`exact` or `semantic` where the answer was made for an earlier request."""
    cached_question: str
    """The question it was made for, where `cached` is `semantic`."""
    object: Literal["chat.completion"] = "chat.completion"


class FinalDelta(msgspec.Struct, frozen=True):
    annotations: list[Annotation]


class FinalChoice(msgspec.Struct, frozen=True):
    finish_reason: str
    delta: FinalDelta
    index: int = 0
    logprobs: None = None


class FinalChunk(msgspec.Struct, frozen=True):
    """The last chunk with a choice: everything known only when the answer is complete."""

    id: str
    created: int
    model: str
    choices: list[FinalChoice]
    sources: list[Source]
    degraded: tuple[str, ...]
    found: bool
    generator: str
    support: list[SupportBody]
    answerable: float | None
    cached: str
    cached_question: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


class UsageChunk(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    usage: ChatUsage
    choices: tuple[()] = ()
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


class Embedding(msgspec.Struct, frozen=True):
    index: int
    embedding: list[float] | str
    """Numbers, or base64 of little-endian float32."""
    object: Literal["embedding"] = "embedding"


class EmbeddingsUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(msgspec.Struct, frozen=True):
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage
    object: Literal["list"] = "list"


class ErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(msgspec.Struct, frozen=True):
    error: ErrorBody


def search_response(result: SearchResult) -> SearchResponse:
    return SearchResponse(hit_bodies(result.hits), result.epoch, result.degraded)


def hit_bodies(hits: tuple[Hit, ...]) -> list[HitBody]:
    return [HitBody(**_hit_fields(hit)) for hit in hits]


def _hit_fields(hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "id": chunk.id,
        "document_id": chunk.document_id,
        "title": chunk.title,
        "source": chunk.source,
        "section": chunk.section,
        "page": chunk.page,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "metadata": dict(chunk.metadata),
        "score": hit.score,
        "stages": dict(hit.stages),
    }


def answer_value(answer: Answer) -> dict[str, Any]:
    """The whole answer, as `vivace ask --json` prints it."""
    return {
        "text": answer.text,
        "found": answer.found,
        "generator": answer.generator,
        "citations": [
            {
                "number": one.number,
                "chunk": one.chunk.id,
                "document_id": one.chunk.document_id,
                "source": one.chunk.source,
                "start": one.start,
                "end": one.end,
                "text": one.text,
            }
            for one in answer.citations
        ],
        "spans": answer.spans,
        "support": answer.support,
        "answerable": answer.answerable,
        "hits": hit_bodies(answer.hits),
        "degraded": answer.degraded,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "cost": answer.cost,
        "cached": answer.cached,
        "cached_question": answer.cached_question,
    }


def answer_fields(answer: Answer) -> dict[str, Any]:
    """The fields beside OpenAI's that a `ChatResponse` and a `FinalChunk` share."""
    return {
        "sources": sources(answer),
        "degraded": answer.degraded,
        "found": answer.found,
        "generator": answer.generator,
        "support": [
            SupportBody(one.start, one.end, one.supported, one.score, one.chunk, one.reason)
            for one in answer.support
        ],
        "answerable": answer.answerable,
        "cached": answer.cached,
        "cached_question": answer.cached_question,
    }


def sources(answer: Answer) -> list[Source]:
    """The hits the answer was written from, each with the citations that rest on it."""
    cited: dict[int, list[Quote]] = {}
    for citation in answer.citations:
        cited.setdefault(citation.chunk.id, []).append(
            Quote(citation.number, citation.start, citation.end, citation.text)
        )
    read = answer.hits[: answer.read]
    return [Source(**_hit_fields(hit), citations=cited.get(hit.chunk.id, [])) for hit in read]


def url_annotations(answer: Answer) -> list[Annotation]:
    """One annotation for each span of the answer that rests on a citation."""
    chunks = {citation.number: citation.chunk for citation in answer.citations}
    return [
        Annotation(UrlCitation(_url(chunk), _title(chunk), span.start, span.end))
        for span in answer.spans
        if (chunk := chunks.get(span.citation)) is not None
    ]


def _url(chunk: Chunk) -> str:
    """The URL of the chunk's document: its own, its file's, or a URN made of its id."""
    source = chunk.source
    if source.startswith(("http://", "https://")):
        return source
    if source.startswith("/"):
        page = f"#page={chunk.page}" if chunk.page is not None else ""
        return PurePosixPath(source).as_uri() + page
    return f"urn:vivace:{quote(chunk.document_id, safe='')}"


def _title(chunk: Chunk) -> str:
    return chunk.title or PurePosixPath(chunk.source).name or chunk.document_id
