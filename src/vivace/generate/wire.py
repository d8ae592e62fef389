"""The OpenAI chat wire: the request body, and the part of an answer that we read."""

from __future__ import annotations

import re
from math import isfinite
from typing import Any, Final

import msgspec

from vivace.errors import ModelRefused, StreamMalformed
from vivace.run.http import sendable
from vivace.run.retry import RequestFailure, error_message
from vivace.types import Usage

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
            f"the model server broke off with an error: {error_message(found.error, secret)}",
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
        omitted: by server, the parameters of `ADAPTABLE` that it has refused; kept up to date here.
    """

    def __init__(self, body: dict[str, Any], omitted: dict[str, set[str]]) -> None:
        self._body = body
        self._omitted = omitted
        self._adapted: set[tuple[str, str]] = set()
        """(server, parameter) that were left out because of this request."""

    def encoded(self, server: str) -> bytes:
        """The body for this server."""
        body = self._for(server)
        try:
            return msgspec.json.encode(body)
        except UnicodeEncodeError:
            for message in body["messages"]:
                message["content"] = sendable(message["content"])
            return msgspec.json.encode(body)

    def adapt(self, server: str, failure: RequestFailure) -> bool:
        """Whether the server refused a parameter that it can do without: from now on it is omitted.

        Where that did not help, the request was wrong, not the parameter: it is sent again.
        """
        if not failure.status:
            return False
        omitted = self._omitted.setdefault(server, set())
        name = self._not_known(server, failure)
        if name is None:
            omitted -= {name for at, name in self._adapted if at == server}
            return False
        omitted.add(name)
        self._adapted.add((server, name))
        return True

    def _for(self, server: str) -> dict[str, Any]:
        if not (omitted := self._omitted.get(server)):
            return self._body
        body = self._body.copy()
        for name in omitted:
            value = body.pop(name, None)
            if name == "max_tokens" and value is not None:
                body["max_completion_tokens"] = value
        return body

    def _not_known(self, server: str, failure: RequestFailure) -> str | None:
        """The parameter that the server refused because it does not take it at all."""
        if failure.status not in (400, 422) or not _NOT_KNOWN.search(failure.what):
            return None
        sent = self._for(server)
        names = (name for name, said in ADAPTABLE.items() if name in sent and said in failure.what)
        return next(names, None)
