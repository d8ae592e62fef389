"""The OpenAI chat wire: the request body, and the part of an answer that we read."""

from __future__ import annotations

import re
from math import isfinite
from typing import Any, Final

import msgspec

from vivace.errors import ModelRefused, StreamMalformed
from vivace.types import Usage

MAX_MESSAGE = 500
"""Characters of a server's error that are shown."""

ADAPTABLE: Final = {
    "stream_options": "stream_options",
    "temperature": "temperature",
    "max_tokens": "max_completion_tokens",
}
"""Parameters that some servers refuse, and what their refusal names."""
_NOT_KNOWN: Final = re.compile(
    r"unsupported|not? support(?:ed)?\b|unknown|unrecogni[sz]ed|unexpected|extra (?:input|field)"
    r"|not (?:permitted|allowed)|only (?:the default|1(?:\.0)? is)",
    re.IGNORECASE,
)
"""How servers say that they do not take a parameter, and not that its value is a wrong one."""


class ChatPiece(msgspec.Struct):
    content: str | list[Any] | None = None
    """Text, or from some servers a list of parts, of which those with a "text" count."""
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class ChatChoice(msgspec.Struct):
    delta: ChatPiece | None = None
    message: ChatPiece | None = None
    finish_reason: str | None = None


class ChatCompletion(msgspec.Struct):
    """A chunk of a stream, or the whole answer of a request that is not streamed."""

    choices: list[ChatChoice] | None = None
    usage: Any = None
    """Of any shape: an answer is worth more than its count."""
    error: Any = None


_decoder = msgspec.json.Decoder(ChatCompletion)


def decode(data: bytes, secret: str = "") -> ChatCompletion:
    """One event's data, or a whole body. `secret` is shown in no error.

    Raises:
        StreamMalformed: it is no JSON, or not of this shape.
        ModelRefused: it is an error object.
    """
    try:
        found = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StreamMalformed(
            f"the model server sent what is no chat completion: {error}",
            fix="Check that generate.model names an OpenAI-compatible server's /v1",
        ) from error
    if found.error is not None:
        raise ModelRefused(
            f"the model server broke off with an error: {message(found.error, secret)}",
            status=_status(found.error),
            fix="See the model server's log",
        )
    return found


def text(piece: ChatPiece) -> str:
    """What the piece says to the reader."""
    content = piece.content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        content = "".join(part for part in parts if isinstance(part, str))
    return content or piece.refusal or ""


def usage(told: Any) -> Usage | None:
    """The counts as ours; None where the server told none, or none that is a number."""
    if not isinstance(told, dict) or (prompt := _count(told.get("prompt_tokens"))) is None:
        return None
    details = told.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if cached is None:
        cached = _count(told.get("prompt_cache_hit_tokens")) or 0  # DeepSeek's name
    return Usage(prompt, _count(told.get("completion_tokens")) or 0, min(cached, prompt))


def _count(value: Any) -> int | None:
    """A number of tokens; some servers count in floats."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return max(0, int(value))


def message(error: Any, secret: str = "") -> str:
    """What an error object says, in one line of bounded length, without the secret."""
    if isinstance(error, dict):
        error = error.get("error", error)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    # first of all: a part of a secret that was cut would not be known again
    return " ".join(redacted(str(error), secret).split())[:MAX_MESSAGE]


def redacted(text: str, secret: str) -> str:
    return text.replace(secret, "***") if secret else text


def message_of_body(body: bytes, secret: str = "") -> str:
    """What the body of an HTTP error says."""
    try:
        return message(msgspec.json.decode(body), secret)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return message(body.decode("utf-8", "replace"), secret)


def _status(error: Any) -> int:
    """The HTTP status an error inside a stream names; 502 where it names none."""
    code = error.get("code") if isinstance(error, dict) else None
    try:
        status = int(str(code))
    except ValueError:
        return 502
    return status if 400 <= status <= 599 else 502


def not_known(error: ModelRefused, sent: bytes) -> str | None:
    """The parameter that the server refused because it does not take it at all, if that was it."""
    if error.status not in (400, 422) or not _NOT_KNOWN.search(error.what):
        return None
    body: dict[str, Any] = msgspec.json.decode(sent)
    return next(
        (name for name, said in ADAPTABLE.items() if name in body and said in error.what), None
    )


def omit(body: dict[str, Any], name: str) -> None:
    value = body.pop(name, None)
    if name == "max_tokens" and value is not None:
        body["max_completion_tokens"] = value


def encode(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:  # a lone surrogate, which is no text that JSON can carry
        for message in body["messages"]:
            message["content"] = message["content"].encode("utf-8", "replace").decode()
        return msgspec.json.encode(body)
