"""What may be shown of settings, and of text that may hold an address: never a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

MASK: Final = "***"
_USER: Final = re.compile(r"(://)[^\s/?#'\"]*@")
_WORD: Final = re.compile(r"\S+")
_PARAMETER: Final = re.compile(
    r"([?&;][\w.-]{0,64}(?:key|token|secret|password|passwd|pwd|signature|credential)[\w.-]{0,64}=)"
    r"[^&;#\s'\"]+",
    re.IGNORECASE,
)


class SettingsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the tree of settings. Its `repr` is safe to log."""

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in shown(self).items())
        return f"{type(self).__name__}({values})"


def hidden(description: str) -> Meta:
    """What a setting means whose value is never shown."""
    return Meta(description=f"{description}. Never shown", extra={"secret": True})


@cache
def secret_names(section: type[msgspec.Struct]) -> frozenset[str]:
    """The fields of one section, not of those in it, whose values are never shown."""
    hints = get_type_hints(section, include_extras=True)
    metas = {name: get_args(hint)[1] for name, hint in hints.items() if _annotated(hint)}
    return frozenset(name for name, meta in metas.items() if (meta.extra or {}).get("secret"))


def _annotated(hint: Any) -> bool:
    return get_origin(hint) is Annotated


def is_secret(tree: type[msgspec.Struct], key: str) -> bool:
    """Whether the value of a setting, as `generate.api_key` or `generate__api_key`, is secret."""
    section: Any = tree
    *parents, name = key.replace("__", ".").strip().lower().split(".")
    for parent in parents:
        section = get_type_hints(section).get(parent)
        if not (isinstance(section, type) and issubclass(section, msgspec.Struct)):
            return False
    return name in secret_names(section)


def shown(section: msgspec.Struct) -> dict[str, Any]:
    """A section's values as plain JSON values: secrets that are set and users of URLs as `***`."""
    secrets = secret_names(type(section))
    values: dict[str, Any] = {}
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if isinstance(value, msgspec.Struct):
            values[name] = shown(value)
        elif name in secrets:
            values[name] = MASK if value else value
        else:
            values[name] = shown_value(value)
    return values


def shown_value(value: Any) -> Any:
    """The value of a setting that is no secret: without the user and password of a URL."""
    if isinstance(value, str):
        return masked(_WORD.sub(_without_user, value))
    if isinstance(value, Mapping):
        return {name: shown_value(inner) for name, inner in value.items()}
    return msgspec.to_builtins(value)


def _without_user(word: re.Match[str]) -> str:
    """As `masked`, also of a password that a URL should have escaped. Hides more of the address."""
    text = word[0]
    start, end = text.find("://"), text.rfind("@")
    return f"{text[: start + 3]}{MASK}{text[end:]}" if 0 <= start < end else text


def masked(text: str) -> str:
    """Text without the user, the password and the keys of the URLs in it."""
    if "://" not in text:
        return text
    return _PARAMETER.sub(rf"\1{MASK}", _USER.sub(rf"\1{MASK}@", text))
