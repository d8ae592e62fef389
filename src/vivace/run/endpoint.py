"""Which model on which server: `openai:NAME@URL`, as the settings name both kinds of models."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from vivace.errors import BadSettings

_NAMED = re.compile(r"openai:(?P<model>\S+?)@(?P<url>https?://\S+)")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model of an OpenAI-compatible server. `url` has no trailing slash and ends in /v1 or so."""

    model: str
    url: str
    fragment: str = ""
    """What stood behind a `#` in the URL."""


def endpoint(setting: str, text: str) -> Endpoint | None:
    """The endpoint that `text` names; None where it is not of the form `openai:...`.

    Raises:
        BadSettings: it has that form without being one; names `setting`, never a password.
    """
    if not text.startswith("openai:"):
        return None
    fix = "Write openai:NAME@URL, such as openai:qwen3@http://127.0.0.1:8000/v1"
    found = _NAMED.fullmatch(text)
    if found is None:
        raise BadSettings(f"{setting}: this names no model and server", fix=fix)
    try:
        parts = urlsplit(found["url"])
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadSettings(f"{setting}: the URL cannot be read", fix=fix) from error
    if parts.username is not None or parts.password is not None or parts.query:
        raise BadSettings(
            f"{setting}: the URL carries a user, a password or a query",
            fix="Put the key into the setting api_key, which is never shown",
        )
    if not host:
        raise BadSettings(f"{setting}: the URL names no host", fix=fix)
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return Endpoint(found["model"], url, parts.fragment)


def check_key(setting: str, key: str) -> None:
    """Refuse a key that is no header's value, without showing it."""
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise BadSettings(f"{setting} has characters that no key has", fix="Copy it again")
