"""Server-sent events (WHATWG HTML, section 9.2) from bytes, fed as they come."""

from __future__ import annotations

from vivace.errors import StreamTooLong

MAX_EVENT = 1 << 20
"""Bytes of one event, or of one line of it; a token's event has about 200."""


class Events:
    """`feed` takes bytes cut anywhere and gives the data of the events completed by them.

    Comments, ids and retry times are passed over; so is an event with a name of its own whose data
    is not ours (`event: ping`). Lines may end in LF, CRLF or CR.
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
        """The completed events' data.

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
