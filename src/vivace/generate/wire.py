"""The part of the OpenAI chat wire that we read. Unknown fields are passed over."""

from __future__ import annotations

from typing import Any

import msgspec

from vivace.errors import ModelRefused, StreamMalformed
from vivace.types import Usage

MAX_MESSAGE = 500
"""Characters of a server's error that are shown."""


class Piece(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class Choice(msgspec.Struct):
    delta: Piece | None = None
    message: Piece | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class Counts(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's name for the cached ones."""


class Completion(msgspec.Struct):
    """A chunk of a stream, or the whole answer of a request that is not streamed."""

    choices: list[Choice] | None = None
    usage: Counts | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(Completion)


def decode(data: bytes) -> Completion:
    """One event's data, or a whole body.

    Raises:
        StreamMalformed: it is no JSON, or not of this shape.
        ModelRefused: it is an error object.
    """
    try:
        found = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StreamMalformed(
            f"the model server sent what is no chat completion: {error}",
            fix="Check that generate.model names an OpenAI-compatible server's /v1",
        ) from error
    if found.error is not None:
        raise ModelRefused(
            f"the model server broke off with an error: {message(found.error)}",
            status=_status(found.error),
            fix="See the model server's log",
        )
    return found


def usage(counts: Counts | None) -> Usage | None:
    """The counts as ours; None where the server told none."""
    if counts is None or counts.prompt_tokens is None:
        return None
    details = counts.prompt_tokens_details
    cached = details.cached_tokens if details is not None else None
    if cached is None:
        cached = counts.prompt_cache_hit_tokens or 0
    prompt = max(0, counts.prompt_tokens)
    return Usage(prompt, max(0, counts.completion_tokens or 0), min(max(0, cached), prompt))


def message(error: Any) -> str:
    """What an error object says, in one line of bounded length."""
    if isinstance(error, dict):
        error = error.get("error", error)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return " ".join(str(error).split())[:MAX_MESSAGE]


def message_of_body(body: bytes) -> str:
    """What the body of an HTTP error says."""
    try:
        return message(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return message(body.decode("utf-8", "replace"))


def _status(error: Any) -> int:
    """The HTTP status an error inside a stream names; 502 where it names none."""
    code = error.get("code") if isinstance(error, dict) else None
    try:
        status = int(str(code))
    except ValueError:
        return 502
    return status if 400 <= status <= 599 else 502
