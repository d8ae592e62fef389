"""One answer of a model server as it comes, event by event."""

from __future__ import annotations

from typing import Any, Final

from vivace.errors import StreamCut, StreamEmpty, StreamTooLong
from vivace.generate import wire
from vivace.types import Delta

MAX_CHARS_A_TOKEN: Final = 32
"""More text than this for each token that was asked for is no answer (a long run of spaces is one
token of 80 characters, but not all of them are)."""
_DONE: Final = b"[DONE]"


class Arriving:
    """What has come of one answer."""

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
        """The last event was a sign of work."""

    def event(self, data: bytes) -> Delta | None:
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
        """The delta behind the text.

        Raises:
            StreamCut: the stream ended without saying that it has.
            StreamEmpty: it has, without a token.
        """
        if not self._finish and not self.done:
            raise cut("the model server's stream ended in the middle of the answer", self.text())
        if not self._parts:
            raise StreamEmpty(
                f"the model answered nothing (finish reason: {self._finish or 'none'})",
                fix="Raise generate.max_tokens where it is `length`; else ask again",
            )
        usage = wire.usage(self._usage)
        return Delta(finish_reason=self._finish or "stop", usage=usage, degraded=self._degraded)

    def text(self) -> str:
        return "".join(self._parts)

    def too_long(self, size: str) -> StreamTooLong:
        return StreamTooLong(
            f"the model server sent {size}, more than was asked for",
            fix="Raise generate.max_tokens, or mend the server",
            text=self.text(),
        )


def cut(what: str, text: str) -> StreamCut:
    """The error of a connection that ended early, with the text that had come."""
    return StreamCut(what, fix="Ask again; see the model server's log", text=text)
