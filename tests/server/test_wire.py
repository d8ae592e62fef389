"""JSON bodies made from answers and hits, shared by the server and the command line."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from vivace.server.wire import (
    AnswerMessage,
    ChatResponse,
    ChatUsage,
    PromptDetails,
    answer_fields,
    answer_value,
    search_response,
    url_annotations,
)
from vivace.types import Answer, Chunk, Citation, Hit, SearchResult, Span, Support, Usage

CHUNK = Chunk(
    "doc 1",
    "Six weeks.",
    5,
    15,
    title="Leave",
    source="/docs/leave.md",
    section=("Leave",),
    page=3,
    metadata={"lang": "en"},
    id=7,
)
HIT = Hit(CHUNK, 0.5, {"bm25": 1.5})
ANSWER = Answer(
    "Six weeks. [1]",
    (HIT, Hit(Chunk("other", "x", 0, 1, id=8), 0.1)),
    (Citation(1, CHUNK, 5, 15, "Six weeks."),),
    (Span(0, 10, 1), Span(0, 10, 2)),
    generator="openai:fake",
    usage=Usage(10, 3, 2, free=True),
    cost=0.5,
    read=1,
    support=(Support(0, 10, True, 0.9, 7, ""),),
    answerable=0.75,
    cached="semantic",
    cached_question="How long is it?",
)


def value_of(body: object) -> Any:
    """The body as a client reads it."""
    return json.loads(msgspec.json.encode(body))


def test_the_server_and_the_command_line_write_the_same_hits() -> None:
    found = value_of(search_response(SearchResult((HIT,), 4, ("no vectors",))))
    assert found == {
        "hits": [
            {
                "id": 7,
                "document_id": "doc 1",
                "title": "Leave",
                "source": "/docs/leave.md",
                "section": ["Leave"],
                "page": 3,
                "start": 5,
                "end": 15,
                "text": "Six weeks.",
                "metadata": {"lang": "en"},
                "score": 0.5,
                "stages": {"bm25": 1.5},
            }
        ],
        "epoch": 4,
        "degraded": ["no vectors"],
    }
    whole = value_of(answer_value(ANSWER))
    assert whole["hits"][0] == found["hits"][0]
    (source,) = value_of(answer_fields(ANSWER)["sources"])
    assert source.pop("citations") == [{"number": 1, "start": 5, "end": 15, "text": "Six weeks."}]
    assert source == found["hits"][0]


def test_every_part_of_an_answer_is_in_the_command_lines_json() -> None:
    whole = value_of(answer_value(ANSWER))
    hits = whole.pop("hits")
    assert [hit["id"] for hit in hits] == [7, 8]
    assert whole == {
        "text": "Six weeks. [1]",
        "found": True,
        "generator": "openai:fake",
        "citations": [
            {
                "number": 1,
                "chunk": 7,
                "document_id": "doc 1",
                "source": "/docs/leave.md",
                "start": 5,
                "end": 15,
                "text": "Six weeks.",
            }
        ],
        "spans": [
            {"start": 0, "end": 10, "citation": 1},
            {"start": 0, "end": 10, "citation": 2},
        ],
        "support": [
            {"start": 0, "end": 10, "supported": True, "score": 0.9, "chunk": 7, "reason": ""}
        ],
        "answerable": 0.75,
        "degraded": [],
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "cached_tokens": 2,
            "free": True,
        },
        "cost": 0.5,
        "cached": "semantic",
        "cached_question": "How long is it?",
    }


def test_a_chat_response_says_that_the_answer_was_cached() -> None:
    usage = ChatUsage(0, 0, 0, PromptDetails())
    message = AnswerMessage(ANSWER.text, url_annotations(ANSWER))
    value = value_of(ChatResponse("id", 1, "m", [], usage, **answer_fields(ANSWER)))
    assert (value["cached"], value["cached_question"]) == ("semantic", "How long is it?")
    assert value["support"][0]["source"] == 7
    # a span whose citation is missing has no annotation
    (annotation,) = message.annotations
    assert annotation.url_citation.url == "file:///docs/leave.md#page=3"
    assert annotation.url_citation.title == "Leave"
