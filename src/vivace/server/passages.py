"""Hits and citations as the wire shows them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from vivace.server.wire import Annotation, Passage, Quote, Source, Supported, UrlCitation
from vivace.types import Answer, Chunk, Citation, Hit


def passage(hit: Hit) -> Passage:
    return Passage(**_fields(hit))


def sources(answer: Answer) -> list[Source]:
    """The passages the answer was written from, each with the citations that rest on it."""
    cited: dict[int, list[Quote]] = {}
    for citation in answer.citations:
        cited.setdefault(citation.chunk.id, []).append(
            Quote(citation.number, citation.start, citation.end, citation.text)
        )
    read = answer.hits[: answer.read]
    return [Source(**_fields(hit), citations=cited.get(hit.chunk.id, [])) for hit in read]


def annotate(answer: Answer) -> list[Annotation]:
    """One for each span of the answer that rests on a citation."""
    by_number: dict[int, Citation] = {c.number: c for c in answer.citations}
    return [
        Annotation(
            UrlCitation(
                url(by_number[span.citation].chunk),
                _title(by_number[span.citation].chunk),
                span.start,
                span.end,
            )
        )
        for span in answer.spans
        if span.citation in by_number
    ]


def supported(answer: Answer) -> list[Supported]:
    return [
        Supported(one.start, one.end, one.supported, one.score, one.chunk, one.reason)
        for one in answer.support
    ]


def url(chunk: Chunk) -> str:
    """Where the chunk's document is: its own URL, its file's, or a name made of its id."""
    source = chunk.source
    if source.startswith(("http://", "https://")):
        return source
    if source.startswith("/"):
        page = f"#page={chunk.page}" if chunk.page is not None else ""
        return PurePosixPath(source).as_uri() + page
    return f"urn:vivace:{quote(chunk.document_id, safe='')}"


def _title(chunk: Chunk) -> str:
    return chunk.title or PurePosixPath(chunk.source).name or chunk.document_id


def _fields(hit: Hit) -> dict[str, Any]:
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
