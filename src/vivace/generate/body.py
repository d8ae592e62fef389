"""The body of a request, and the parameters of it that a server may not know."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from vivace.errors import ModelRefused

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
