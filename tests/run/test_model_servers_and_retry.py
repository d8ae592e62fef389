"""Names of models on servers, and when to ask again."""

from __future__ import annotations

import random
import time
from email.utils import formatdate

import pytest

from vivace.errors import BadSettings
from vivace.run.model_servers import ModelServer, parse_model_servers
from vivace.run.retry import FIRST, LONGEST, backoff, retry_after


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("openai:m@http://h/v1", [ModelServer("m", "http://h/v1")]),
        ("openai:a/b:7b@https://h:8/v1/", [ModelServer("a/b:7b", "https://h:8/v1")]),
        ("openai:@cf/m@http://[::1]:8/v1#384", [ModelServer("@cf/m", "http://[::1]:8/v1", "384")]),
        (
            "openai:m@http://a/v1*3, https://b:8/v1/*0.5",
            [ModelServer("m", "http://a/v1", "", 3.0), ModelServer("m", "https://b:8/v1", "", 0.5)],
        ),
        (
            "openai:m@http://a/v1,http://b/v1*2#384",
            [ModelServer("m", "http://a/v1", "384"), ModelServer("m", "http://b/v1", "384", 2.0)],
        ),
        ("openai:m@http://h:8*2", [ModelServer("m", "http://h:8", "", 2.0)]),
        ("builtin", []),
    ],
)
def test_endpoints(text: str, expected: list[ModelServer]) -> None:
    assert list(parse_model_servers("embed.model", text)) == expected


@pytest.mark.parametrize(
    "urls",
    [
        "http://a/v1,http://a/v1/",
        "http://a/v1,b/v1",
        "http://a/v1 http://b/v1",
        "http://a/v1,",
        "http://a/v1*0",
        "http://a/v1*1001",
        "http://a/v1*x",
        "http://a/v1*2*2",
        "http://a/v1*-1",
        "http://a/v1#1,http://b/v1#2",
        "http://a/v1,https://u:hush@b/v1",
        "http://a/v1,https://b/v1?k=hush",
        "http://a/v1,http://b:99999999/v1",
    ],
)
def test_what_names_no_servers(urls: str) -> None:
    with pytest.raises(BadSettings, match=r"^embed\.model: ") as raised:
        parse_model_servers("embed.model", f"openai:m@{urls}")
    assert "hush" not in str(raised.value)


def test_full_jitter_within_its_bounds() -> None:
    draw = random.Random(0)
    for tries in range(1, 12):
        most = min(LONGEST, FIRST * 2 ** (tries - 1))
        drawn = [backoff(tries, None, draw) for _ in range(200)]
        assert 0 <= min(drawn) < 0.1 * most
        assert 0.9 * most < max(drawn) <= most
    assert all(2 <= backoff(1, 2.0, draw) <= 2.2 for _ in range(50))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "7", "retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "-7"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0),
    ],
)
def test_what_the_server_says(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after(headers) == expected


def test_a_date_to_come() -> None:
    told = retry_after({"Retry-After": formatdate(time.time() + 100, usegmt=True)})
    assert told is not None
    assert 90 < told <= 100
