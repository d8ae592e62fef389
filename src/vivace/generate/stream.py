"""From the bytes of a chat stream to its deltas: server-sent events, then their text, piece by
piece."""

from __future__ import annotations

from typing import Any, Final

from vivace.errors import StreamCut, StreamEmpty, StreamTooLong
from vivace.generate import wire
from vivace.types import Delta

MAX_EVENT: Final = 1 << 20
"""Bytes of one event, or of one line of it; a token's event has about 200."""
MAX_CHARS_A_TOKEN: Final = 32
"""An answer with more text than this per requested token is refused. (A long run of spaces is one
token of 80 characters, but an answer does not consist of those.)"""
_DONE: Final = b"[DONE]"


class EventDecoder:
    """Decodes server-sent events (WHATWG HTML, section 9.2) from bytes that are cut anywhere.

    Comments, ids and retry times are skipped; so is an event with a name of its own whose data is
    not a completion (`event: ping`). Lines may end in LF, CRLF or CR.
    """

    __slots__ = ("_held", "_lines", "_named", "_parts", "_size", "_started")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        """Of a line that has not ended."""
        self._size = 0
        self._lines: list[bytes] = []
        """Data of an event that has not ended."""
        self._held = 0
        self._named = False
        self._started = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that these bytes complete.

        Raises:
            StreamTooLong: an event has more than `MAX_EVENT` bytes.
        """
        if b"\n" not in data and b"\r" not in data:
            self._keep(data)
            return []
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
        if not self._started:
            self._started = True
            data = data.removeprefix(b"\xef\xbb\xbf")
        last = b""
        if b"\r" in data:
            if data.endswith(b"\r"):  # perhaps one half of a CRLF
                data, last = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        rest = lines.pop() + last
        if rest:
            self._keep(rest)
        return self._events(lines)

    def end(self) -> list[bytes]:
        """What the last event holds where the stream ended without the empty line behind it."""
        line = b"".join(self._parts).rstrip(b"\r")
        self._parts.clear()
        return self._events([line, b""])

    def _keep(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_EVENT:
            raise _too_long()

    def _events(self, lines: list[bytes]) -> list[bytes]:
        found: list[bytes] = []
        held, named = self._lines, self._named
        for line in lines:
            if not line:
                if held:
                    data = held[0] if len(held) == 1 else b"\n".join(held)
                    if not named or data.startswith((b"{", b"[DONE]")):
                        found.append(data)
                    held.clear()
                self._held, named = 0, False
            elif line.startswith(b"data:"):
                held.append(line[6:] if line.startswith(b"data: ") else line[5:])
                self._held += len(line)
                if self._held > MAX_EVENT:
                    raise _too_long()
            elif line.startswith(b"event:"):
                named = line[6:].strip() not in (b"", b"message", b"error")
        self._named = named
        return found


def _too_long() -> StreamTooLong:
    return StreamTooLong(
        f"the model server sent an event of more than {MAX_EVENT >> 20} MiB",
        fix="Check that generate.model names a chat model's server",
    )


class StreamAccumulator:
    """Collects one answer from the data of its events."""

    __slots__ = (
        "_chars",
        "_degraded",
        "_finish",
        "_most",
        "_parts",
        "_secret",
        "_usage",
        "done",
        "moved",
        "running",
    )

    def __init__(
        self, max_tokens: int, *, secret: str = "", degraded: tuple[str, ...] = ()
    ) -> None:
        self._secret = secret
        self._degraded = degraded
        self._most = max_tokens * MAX_CHARS_A_TOKEN + 1024
        self._chars = 0
        self._parts: list[str] = []
        self._usage: Any = None
        self._finish = ""
        self.done = False
        self.running = False
        """The first token has come."""
        self.moved = False
        """The last event showed progress: text, reasoning, or anything after the first token."""

    def event(self, data: bytes) -> Delta | None:
        """The delta of one event's data; None where it carries no text.

        Raises:
            StreamMalformed, ModelRefused: see `wire.decode`.
            StreamTooLong: more text came than `max_tokens` allow.
        """
        if data == _DONE:
            self.done = True
            self.moved = False
            return None
        found = wire.decode(data, self._secret)
        if found.usage is not None:
            self._usage = found.usage
        if not found.choices:
            self.moved = self.running
            return None
        choice = found.choices[0]
        if choice.finish_reason:
            self._finish = choice.finish_reason
        piece = choice.delta or choice.message
        if piece is None:
            self.moved = self.running
            return None
        text = wire.text(piece)
        if not text:
            self.moved = self.running or bool(piece.reasoning_content or piece.reasoning)
            return None
        self.moved = True
        self._parts.append(text)
        self._chars += len(text)
        if self._chars > self._most:
            raise self.too_long(f"{self._chars:,} characters")
        return Delta(text)

    def whole(self, data: bytes) -> list[Delta]:
        """The deltas of an answer in one piece."""
        delta = self.event(data)
        self._finish = self._finish or "stop"
        last = self.last()
        return [last] if delta is None else [delta, last]

    def last(self) -> Delta:
        """The delta after the text, with the finish reason and the usage.

        Raises:
            StreamCut: the stream ended without a finish reason or `[DONE]`.
            StreamEmpty: it ended properly, without a token.
        """
        if not self._finish and not self.done:
            raise StreamCut(
                "the model server's stream ended in the middle of the answer",
                fix="Ask again; see the model server's log",
                text=self.text(),
            )
        if not self._parts:
            raise StreamEmpty(
                f"the model answered nothing (finish reason: {self._finish or 'none'})",
                fix="Raise generate.max_tokens where it is `length`; else ask again",
            )
        usage = wire.usage(self._usage)
        return Delta(finish_reason=self._finish or "stop", usage=usage, degraded=self._degraded)

    def text(self) -> str:
        """All of it so far."""
        return "".join(self._parts)

    def too_long(self, size: str) -> StreamTooLong:
        """The error of an answer that is longer than was requested."""
        return StreamTooLong(
            f"the model server sent {size}, more than was requested",
            fix="Raise generate.max_tokens, or repair the server",
            text=self.text(),
        )
