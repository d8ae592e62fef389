"""Parses which model runs on which servers, as the settings name it: `openai:NAME@URL,URL*2`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from vivace.errors import BadSettings

MOST_WEIGHT: Final = 1000.0
_NAMED = re.compile(r"openai:(?P<model>\S+?)@(?P<urls>https?://.+)")
_ONE = re.compile(
    r"(?P<url>https?://[^\s*#]+)(?:\*(?P<weight>[0-9]+(?:\.[0-9]+)?))?(?:#(?P<fragment>\S*))?"
)
_FIX: Final = (
    "Write openai:NAME@URL, such as openai:qwen3@http://127.0.0.1:8000/v1; "
    "further servers behind commas, a server's weight behind a *: URL,URL*2; "
    "a comma or a * within a URL as %2C or %2A"
)


@dataclass(frozen=True, slots=True)
class ModelServer:
    """A model of an OpenAI-compatible server. `url` has no trailing slash and ends in /v1 or so."""

    model: str
    url: str
    fragment: str = ""
    """What follows the `#` of a URL; of several URLs, of any one."""
    weight: float = 1.0
    """Twice the weight, twice the requests."""


def parse_model_servers(setting: str, text: str) -> tuple[ModelServer, ...]:
    """The servers that `text` names, all of one model; none where it does not begin `openai:`.

    Raises:
        BadSettings: it begins so but is malformed. The error names `setting`, never a password.
    """
    if not text.startswith("openai:"):
        return ()
    found = _NAMED.fullmatch(text.strip())
    if found is None:
        raise BadSettings(f"{setting}: this names no model and server", fix=_FIX)
    several = [_one(setting, found["model"], url) for url in found["urls"].split(",")]
    if len({one.url for one in several}) < len(several):
        raise BadSettings(f"{setting}: a URL is named twice", fix="Give it a weight: URL*2")
    fragments = {one.fragment for one in several if one.fragment}
    if len(fragments) > 1:
        raise BadSettings(f"{setting}: what stands behind the # differs", fix="Write it once")
    fragment = next(iter(fragments), "")
    return tuple(ModelServer(one.model, one.url, fragment, one.weight) for one in several)


def _one(setting: str, model: str, text: str) -> ModelServer:
    found = _ONE.fullmatch(text.strip())
    if found is None:
        raise BadSettings(f"{setting}: this is no URL, or no weight behind its *", fix=_FIX)
    weight = float(found["weight"] or 1)
    if not 0 < weight <= MOST_WEIGHT:
        raise BadSettings(f"{setting}: a weight is over 0 and at most {MOST_WEIGHT:g}", fix=_FIX)
    try:
        parts = urlsplit(found["url"])
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadSettings(f"{setting}: the URL cannot be read", fix=_FIX) from error
    if parts.username is not None or parts.password is not None or parts.query:
        raise BadSettings(
            f"{setting}: the URL carries a user, a password or a query",
            fix="Put the key into the setting api_key, which is never shown",
        )
    if not host:
        raise BadSettings(f"{setting}: the URL names no host", fix=_FIX)
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return ModelServer(model, url, found["fragment"] or "", weight)


def check_key(setting: str, key: str) -> None:
    """Check that a key can be sent in a header.

    Raises:
        BadSettings: it cannot. The error does not show the key.
    """
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise BadSettings(f"{setting} has characters that no key has", fix="Copy it again")
