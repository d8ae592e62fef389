"""No secret is shown: by the settings themselves, and in text that holds an address."""

from __future__ import annotations

import json
import re
import time
from typing import get_type_hints

import msgspec
import pytest

from vivace.errors import BadSettings
from vivace.settings import Settings, describe, is_secret, load, masked
from vivace.settings.masking import secret_names, shown_value

CANARY = "c4n4ry"
SECRETS = {
    "remote.api_key",
    "parse.password",
    "generate.api_key",
    "cache.redis",
    "cache.sql",
    "cache.secret",
}


def sections(section: msgspec.Struct, prefix: str = "") -> dict[str, msgspec.Struct]:
    """Every section of the tree by its prefix of keys."""
    found = {prefix: section}
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if isinstance(value, msgspec.Struct):
            found |= sections(value, f"{prefix}{name}.")
    return found


def texts() -> list[str]:
    """Every setting that takes free text."""
    return [
        prefix + name
        for prefix, section in sections(Settings()).items()
        for name, kind in get_type_hints(type(section)).items()
        if kind is str
    ]


def test_the_secrets_of_the_tree() -> None:
    found = {
        prefix + name
        for prefix, section in sections(Settings()).items()
        for name in secret_names(type(section))
    }
    assert found == SECRETS
    for key in texts():
        if re.search(r"key|password|secret|redis|sql|credential|token$", key):
            assert is_secret(key), f"{key} sounds like a secret: declare it by `hidden(...)`"


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("generate.api_key", True),
        (" Generate.API_KEY ", True),
        ("generate__api_key", True),
        ("cache.redis", True),
        ("cache.policy", False),
        ("api_key", False),
        ("nothing.of.the_kind", False),
        ("home.api_key", False),
        ("", False),
    ],
)
def test_whether_a_key_is_secret(key: str, secret: bool) -> None:
    assert is_secret(key) == secret


@pytest.mark.parametrize("key", sorted(SECRETS))
def test_a_secret_shows_only_that_it_is_set(key: str) -> None:
    section, _, name = key.partition(".")
    settings = load(None, **{key.replace(".", "__"): CANARY})
    assert describe(settings)[section][name] == "***"
    assert describe(load())[section][name] == ""
    assert CANARY not in repr(settings) + str(settings) + f"{getattr(settings, section)!r}"


ADDRESSES = [
    "openai:m@https://user:{}@host/v1",
    "openai:m@https://user:{}/with@slash@host/v1,https://other/v1",
    "openai:m@https://a/v1,https://user:x{}@b/v1*2",
    "openai:m@https://{}@host/v1",
    "m@https://host/rerank?api-key={}",
    "m@https://host/rerank?v=1&access_token={}#frag",
    "redis://:{}@host",
]


@pytest.mark.parametrize("key", [key for key in texts() if key != "home"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_setting_shows_the_user_or_key_of_an_address(key: str, address: str) -> None:
    settings = load(None, **{key.replace(".", "__"): address.format(CANARY)})
    shown = json.dumps(describe(settings)) + repr(settings)
    assert CANARY not in shown
    assert is_secret(key) or "***" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no address: a@b.com", "no address: a@b.com"),
        ("to https://u:p@host/v1 now", "to https://***@host/v1 now"),
        ("https://host/v1/@scope", "https://host/v1/@scope"),
        (
            "'redis://:p@h:1/0' and postgresql://u@h/d",
            "'redis://***@h:1/0' and postgresql://***@h/d",
        ),
        ("postgresql://h/d?password=p&user=u", "postgresql://h/d?password=***&user=u"),
        ("https://h/v1?api_key=abc", "https://h/v1?api_key=***"),
        ("https://h/v1?X-Amz-Signature=abc&a=b", "https://h/v1?X-Amz-Signature=***&a=b"),
        ("https://u:p\nq@h", "https://u:p\nq@h"),
    ],
)
def test_text_that_holds_an_address(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(masked(text)) == shown


def test_masking_a_long_text_is_linear() -> None:
    began = time.process_time()
    for part in ("://", "://a", "?key", "?key=", "://?key=", "@", "://@"):
        for text in (part * 20_000, f"://{part * 20_000}"):
            masked(text)
            shown_value(text)
    assert time.process_time() - began < 2


def test_a_mistaken_value_is_not_quoted_with_its_password() -> None:
    with pytest.raises(BadSettings) as refused:
        load(cache__policy=f"redis://:{CANARY}@host")
    assert CANARY not in str(refused.value)
