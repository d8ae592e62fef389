"""The shapes of requests and responses: OpenAI's wire, and our own search.

Requests of OpenAI's wire ignore fields they do not know, as every server of that wire does; those
of our own refuse them, because there an unknown field is a typing error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Hits: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
DEFAULT_MODEL = "vivace"
DEFAULT_HITS = 10


class Part(msgspec.Struct, frozen=True):
    """A piece of a message's content; only text can be read."""

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
    """Ours: the passages to look up."""
    filters: dict[str, Any] | None = None
    """Ours: a metadata filter."""
    template: str = "qa"
    """Ours: the kind of answer, see `AnswerOptions.template`."""
    target_language: str = ""
    """Ours: of the answer."""


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    input: str | list[str | int | list[int]]
    model: str = DEFAULT_MODEL
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    input_type: Literal["query", "passage"] | None = None
    """Ours (and of other servers): what the text is; `passage` where it is not said."""


class SearchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: str
    k: Hits = DEFAULT_HITS
    filters: dict[str, Any] | None = None
    min_score: float | None = None
    model: str = DEFAULT_MODEL


class Passage(msgspec.Struct, frozen=True):
    """A hit. `start` and `end` are characters in the document's text."""

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
    hits: list[Passage]
    epoch: int
    degraded: tuple[str, ...]


class Quote(msgspec.Struct, frozen=True):
    """What citation `number` rests on: `document.text[start:end] == text`."""

    number: int
    start: int
    end: int
    text: str


class Source(Passage, frozen=True):
    """A passage the answer was written from; `citations` are empty where none cites it."""

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


class Supported(msgspec.Struct, frozen=True):
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


class Choice(msgspec.Struct, frozen=True):
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
    choices: list[Choice]
    usage: ChatUsage
    sources: list[Source]
    degraded: tuple[str, ...]
    found: bool
    generator: str
    support: list[Supported]
    answerable: float | None
    object: Literal["chat.completion"] = "chat.completion"


class FinalDelta(msgspec.Struct, frozen=True):
    annotations: list[Annotation]


class FinalChoice(msgspec.Struct, frozen=True):
    finish_reason: str
    delta: FinalDelta
    index: int = 0
    logprobs: None = None


class FinalChunk(msgspec.Struct, frozen=True):
    """The last chunk with a choice: all that is known only when the answer is whole."""

    id: str
    created: int
    model: str
    choices: list[FinalChoice]
    sources: list[Source]
    degraded: tuple[str, ...]
    found: bool
    generator: str
    support: list[Supported]
    answerable: float | None
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


class Trouble(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(msgspec.Struct, frozen=True):
    error: Trouble
