"""Server-sent events: chat chunks as bytes, with everything but the text encoded once."""

from __future__ import annotations

import msgspec
from starlette.types import Send

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]
_WAITING = b": waiting\n\n"
DONE = b"data: [DONE]\n\n"


class TextFrame:
    """Encodes the chunks of one answer; all but the text is encoded once.

    The first chunk also carries the role, as OpenAI's does.
    """

    def __init__(self, answer_id: str, created: int, model: str, *, usage: bool) -> None:
        head = msgspec.json.encode(
            {"id": answer_id, "object": "chat.completion.chunk", "created": created, "model": model}
        )
        self._prefix = b"data: " + head[:-1] + b',"choices":[{"index":0,"delta":{"content":'
        tail = b',"usage":null' if usage else b""
        self._suffix = b'},"logprobs":null,"finish_reason":null}]' + tail + b"}\n\n"
        self._role = b',"role":"assistant"'
        self._encode = msgspec.json.Encoder().encode

    def text(self, text: str) -> bytes:
        """The event that carries a piece of text."""
        return b"%b%b%b" % (self._prefix, self._encode(text), self._suffix)

    def role(self) -> bytes:
        """The event that begins an answer."""
        return b"%b%b%b%b" % (self._prefix, b'""', self._role, self._suffix)


def event(value: object) -> bytes:
    """One value as an event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


class EventStream:
    """A response of events. Its head is sent with the first event, so that an error before it
    still gets its own status.

    Args:
        send: takes the first message.
        plain: takes the others; see `middleware.PLAIN_SEND`.
    """

    def __init__(self, send: Send, plain: Send) -> None:
        self._start = send
        self._send = plain
        self._writing = False
        self._written = 0
        self._written_at_last_beat = 0
        self.started = False

    async def write(self, events: bytes) -> None:
        """Send one or more whole events; waits while the client does not read.

        Only one task writes; `beat`, called from another task, does nothing meanwhile.
        """
        self._writing = True
        if not self.started:
            self.started = True
            await self._start({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._send({"type": "http.response.body", "body": events, "more_body": True})
        self._written += 1
        self._writing = False

    async def end(self, events: bytes) -> None:
        """Send the last events."""
        await self.write(events)
        await self._send({"type": "http.response.body", "body": b""})

    async def beat(self) -> bool:
        """Keep a silent connection open with a comment; False where the client reads nothing.

        A client that has taken no event since the last beat would hold a model server's slot for
        nothing.
        """
        moved = self._written != self._written_at_last_beat
        self._written_at_last_beat = self._written
        if self._writing:
            return moved
        if not moved:
            await self.write(_WAITING)
            self._written_at_last_beat = self._written
        return True
