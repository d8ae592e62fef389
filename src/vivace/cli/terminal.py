"""What reaches the terminal: all output of the commands goes through here.

Documents, file names and servers are foreign: their text may hold control sequences that move the
cursor, change colours or the window's title, or reverse the direction of reading, so that a person
sees something else than what is there. None of those characters reaches the terminal; each shows as
a picture or an escape of itself. JSON carries them as `\\uXXXX`, its value is the same.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vivace.settings import masked

_C0: Final = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_HIDDEN: Final = (
    *range(0x80, 0xA0),  # C1: to some terminals U+009B is as good as ESC [
    0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A),  # direction
    0x2028, 0x2029,  # line and paragraph separators
)  # fmt: skip
_SURROGATES: Final = range(0xD800, 0xE000)
"""Bytes of a file name that are no text."""
_VISIBLE: Final = {
    **_C0,
    0x7F: "␡",
    **{code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _HIDDEN},
    **{code: f"\\u{code:04x}" for code in _SURROGATES},
}
_ONE_LINE: Final = {**_VISIBLE, ord("\n"): "␊", ord("\t"): " "}
_IN_JSON: Final = re.compile("[\x7f" + "".join(map(chr, _HIDDEN)) + "]")
"""Characters that a JSON encoder leaves as they are."""


def printable(text: str) -> str:
    """The text with its control characters made visible; line breaks and tabs stay."""
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def one_line(text: str) -> str:
    """As `printable`, of a name or a message, in which a line break could forge another line."""
    return text.translate(_ONE_LINE)


def say(line: str = "") -> None:
    """Print one line to stdout."""
    print(one_line(line))


def say_text(text: str, *, end: str = "\n") -> None:
    """Print text of many lines to stdout, at once."""
    print(printable(text), end=end, flush=True)


def warn(line: str) -> None:
    """Print one line to stderr, without the users and keys of the addresses in it."""
    print(one_line(masked(line)), file=sys.stderr)


def say_json(encoded: bytes) -> None:
    """Print one encoded JSON value as one line of stdout."""
    text = _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded.decode())
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.buffer.flush()


class _TerminalLog(logging.Handler):
    """Writes log lines to the present stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:  # as every handler of logging: it must not fail its caller
            self.handleError(record)


class _PrintableFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return printable(masked(super().format(record)))  # the traceback, too


@contextmanager
def logging_to_terminal(*, times: bool) -> Iterator[None]:
    """Write warnings and errors of the program's parts to stderr, with the time where asked."""
    handler = _TerminalLog(logging.WARNING)
    long = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(_PrintableFormatter(long if times else "vivace: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
