"""The OpenAI chat wire: the request body, and the part of an answer that we read."""

from __future__ import annotations

import re
from math import isfinite
from typing import Any, Final

import msgspec

from vivace.errors import ModelRefused, StreamMalformed, VivaceError
from vivace.run.http import sendable
from vivace.run.retry import error_message
from vivace.types import Usage

ADAPTABLE: Final = {
    "stream_options": "stream_options",
    "temperature": "temperature",
    "max_tokens": "max_completion_tokens",
}
"""Parameters that some servers refuse, and the word by which a refusal names them."""
_NOT_KNOWN: Final = re.compile(
    r"unsupported|not? support(?:ed)?\b|unknown|unrecogni[sz]ed|unexpected|extra (?:input|field)"
    r"|not (?:permitted|allowed)|only (?:the default|1(?:\.0)? is)",
    re.IGNORECASE,
)
"""How servers say that they do not take a parameter at all, as opposed to its value."""


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
    """Of any shape: a wrong count must not fail an answer."""
    error: Any = None


_decoder = msgspec.json.Decoder(ChatCompletion)


def decode(data: bytes, secret: str = "") -> ChatCompletion:
    """Decode one event's data, or a whole body. `secret` is shown in no error.

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
            f"the model server broke off with an error: {error_message(found.error, secret)}",
            status=_status(found.error),
            fix="See the model server's log",
        )
    return found


def text(piece: ChatPiece) -> str:
    """The text of the piece that the reader sees."""
    content = piece.content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        content = "".join(part for part in parts if isinstance(part, str))
    return content or piece.refusal or ""


def usage(counts: Any) -> Usage | None:
    """The server's counts; None where it sent none, or none that is a number."""
    if not isinstance(counts, dict) or (prompt := _count(counts.get("prompt_tokens"))) is None:
        return None
    details = counts.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if cached is None:
        cached = _count(counts.get("prompt_cache_hit_tokens")) or 0  # DeepSeek's name
    return Usage(prompt, _count(counts.get("completion_tokens")) or 0, min(cached, prompt))


def _count(value: Any) -> int | None:
    """A number of tokens; some servers count in floats."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return max(0, int(value))


def _status(error: Any) -> int:
    """The HTTP status an error inside a stream names; 502 where it names none."""
    code = error.get("code") if isinstance(error, dict) else None
    try:
        status = int(str(code))
    except ValueError:
        return 502
    return status if 400 <= status <= 599 else 502


class AdaptedRequest:
    """The body of one request, without the parameters that its server does not take.

    Args:
        omitted: by server, the parameters of `ADAPTABLE` that it has refused; updated here.
    """

    def __init__(self, body: dict[str, Any], omitted: dict[str, set[str]]) -> None:
        self._body = self._sent = body
        self._omitted = omitted
        self._adapted: set[tuple[str, str]] = set()
        """(server, parameter) omitted because of this request."""

    def encoded(self, server: str) -> bytes:
        """The body for this server."""
        body = self._body
        if omitted := self._omitted.get(server):
            body = body.copy()
            for name in omitted:
                value = body.pop(name, None)
                if name == "max_tokens" and value is not None:
                    body["max_completion_tokens"] = value
        self._sent = body
        try:
            return msgspec.json.encode(body)
        except UnicodeEncodeError:
            for message in body["messages"]:
                message["content"] = sendable(message["content"])
            return msgspec.json.encode(body)

    def adapt(self, server: str, error: VivaceError) -> bool:
        """Whether the server refused a parameter that can be omitted: from now on it is.

        Where omitting did not help, the request was wrong, not the parameter: later requests have
        it again.
        """
        if not isinstance(error, ModelRefused):
            return False
        omitted = self._omitted.setdefault(server, set())
        name = self._not_known(error)
        if name is None:
            omitted -= {name for at, name in self._adapted if at == server}
            return False
        omitted.add(name)
        self._adapted.add((server, name))
        return True

    def _not_known(self, error: ModelRefused) -> str | None:
        """The sent parameter that the server refused because it does not take it at all."""
        if error.status not in (400, 422) or not _NOT_KNOWN.search(error.what):
            return None
        sent, what = self._sent, error.what
        return next(
            (name for name, word in ADAPTABLE.items() if name in sent and word in what), None
        )
