"""Names of models on servers, and when to ask again."""

from __future__ import annotations

import random
import time
from email.utils import formatdate

import pytest

from vivace.run.endpoint import Endpoint, endpoint
from vivace.run.retry import FIRST, LONGEST, backoff, retry_after


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("openai:m@http://h/v1", Endpoint("m", "http://h/v1")),
        ("openai:a/b:7b@https://h:8/v1/", Endpoint("a/b:7b", "https://h:8/v1")),
        ("openai:@cf/m@http://[::1]:8/v1#384", Endpoint("@cf/m", "http://[::1]:8/v1", "384")),
        ("builtin", None),
    ],
)
def test_endpoints(text: str, expected: Endpoint | None) -> None:
    assert endpoint("embed.model", text) == expected


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
