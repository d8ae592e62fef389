"""EventDecoder from bytes cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.errors import StreamTooLong
from vivace.generate.stream import MAX_EVENT, EventDecoder


def read(*parts: bytes) -> list[bytes]:
    events = EventDecoder()
    return [data for part in parts for data in events.feed(part)] + events.end()


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: {\ndata: }\n\n", [b"{\n}"]),
        (b": ping\n\ndata: a\n: more\n\n", [b"a"]),
        (b"id: 7\nretry: 10\nevent: message\ndata: a\n\n", [b"a"]),
        (b"event: ping\ndata: hello\n\ndata: a\n\n", [b"a"]),
        (b'event: odd\ndata: {"a":1}\n\n', [b'{"a":1}']),
        (b"event: error\ndata: oh no\n\n", [b"oh no"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a", [b"a"]),
        (b"data: a\n", [b"a"]),
        (b"data\ndatum: b\n\n", []),
        (b"\n\n\n", []),
        (b"", []),
    ],
)
def test_events(stream: bytes, expected: list[bytes]) -> None:
    assert read(stream) == expected
    assert read(*(stream[at : at + 1] for at in range(len(stream)))) == expected


@given(st.data())
def test_cuts_make_no_difference(data: st.DataObject) -> None:
    newline = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    wanted = data.draw(st.lists(st.text("ab {}é试", min_size=1).map(str.encode), max_size=5))
    stream = b"".join(b"data: " + one + newline + b": c" + newline * 2 for one in wanted)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*parts) == wanted


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: xxxxxxxxxxxxxxxx\n" * 4096])
def test_an_event_without_an_end_is_refused(piece: bytes) -> None:
    events = EventDecoder()
    events.feed(b"data: ")
    with pytest.raises(StreamTooLong, match="more than 1 MiB"):
        feed(events, [piece] * (2 + MAX_EVENT // 65_536))


def feed(events: EventDecoder, pieces: list[bytes]) -> None:
    for piece in pieces:
        events.feed(piece)
