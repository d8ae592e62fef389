"""Any bytes of a model server become deltas or a `GenerationError`, wherever they are cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.profiles import FUZZ, FUZZ_SECONDS, SLOWEST_INPUT, InputTime
from vivace.errors import GenerationError
from vivace.generate.stream import MAX_CHARS_A_TOKEN, EventDecoder, StreamAccumulator
from vivace.types import Delta

TOKENS = 16

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
    st.sampled_from(["stop", "length", "\x00", 10**30, -1]),
)  # fmt: skip
names = st.sampled_from(
    ["choices", "delta", "message", "content", "finish_reason", "usage", "error", "index", "text",
     "prompt_tokens", "completion_tokens", "reasoning_content", "code", "type", "cost", "x"]
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=5)),
    max_leaves=10,
)
completions = st.builds(
    lambda text, finish: {"choices": [{"delta": {"content": text}, "finish_reason": finish}]},
    st.text(max_size=20),
    st.sampled_from([None, "stop", "length"]),
)
lines = st.one_of(
    st.one_of(values, completions).map(lambda value: b"data: " + json.dumps(value).encode()),
    st.integers(1, 3000).map(lambda n: b"data: " + b"[" * n),
    st.integers(1, 3000).map(lambda n: b'data: {"choices":' + b'{"a":' * n),
    st.sampled_from([b"data: [DONE]", b": ping", b"event: error", b"event: ping", b"data", b""]),
    st.binary(max_size=40),
)
streams = st.lists(st.tuples(lines, st.sampled_from([b"\n\n", b"\n", b"\r\n\r\n", b"\r"])))


def deltas_of(parts: list[bytes]) -> tuple[list[Delta], str]:
    """What a stream says, and the error that ends it, if one does."""
    events, answer = EventDecoder(), StreamAccumulator(TOKENS, secret="canary")
    found: list[Delta] = []
    try:
        for part in [*parts, None]:
            for data in events.end() if part is None else events.feed(part):
                delta = answer.event(data)
                if delta is not None:
                    found.append(delta)
        found.append(answer.last())
    except GenerationError as error:
        return found, type(error).__name__
    return found, ""


@pytest.mark.timeout(FUZZ_SECONDS)
@settings(max_examples=FUZZ)
@given(pieces=streams, cuts=st.lists(st.integers(0, 2000), max_size=5))
def test_any_stream_is_an_answer_or_a_generation_error(
    pieces: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(line + end for line, end in pieces)
    with InputTime() as took:
        deltas, error = deltas_of([stream])
    assert took.seconds < SLOWEST_INPUT
    assert all(isinstance(delta.text, str) for delta in deltas)
    # the one event that exceeds the bound is not a delta any more
    assert sum(len(delta.text) for delta in deltas) <= TOKENS * MAX_CHARS_A_TOKEN + 1024
    at = sorted({min(cut, len(stream)) for cut in cuts})
    parts = [stream[a:b] for a, b in zip([0, *at], [*at, len(stream)], strict=True)]
    again: tuple[list[Delta], Any] = deltas_of(parts)
    assert ([d.text for d in again[0]], again[1]) == ([d.text for d in deltas], error)
