"""Faults of a model server, and when they strike."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from vivace.errors import BadInput

Kind: TypeAlias = Literal[
    "429", "500", "cut", "slow", "malformed", "truncated", "empty", "oversized", "error"
]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
_SPEC: Final = re.compile(
    r"(?P<kind>\w+)(?P<after>:after)?(?:@(?P<when>first|every|p)=(?P<value>[0-9.]+))?"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and its schedule: every request, unless one of `first`, `every`, `chance` is set.

    `429`        refused with Retry-After and retry-after-ms
    `500`        an HTTP error; after the first byte there is none, so the connection is cut
    `cut`        the connection is closed without a response
    `slow`       nothing more is sent, and the connection stays open
    `malformed`  the body is not JSON
    `truncated`  the prompt's beginning is dropped silently, as Ollama does
    `empty`      the answer ends without a token
    `oversized`  the answer does not end
    `error`      an error object instead of an answer
    """

    kind: str
    after: bool = False
    """After the first token (of a whole answer: in the middle of its body), not instead of it."""
    first: int = 0
    """Only the first n requests."""
    every: int = 0
    """Every nth request."""
    chance: float = 0.0
    """Each request with this probability, drawn from the server's seed."""

    def strikes(self, number: int, draw: random.Random) -> bool:
        """Whether it strikes request `number` (from 1)."""
        if self.first:
            return number <= self.first
        if self.every:
            return number % self.every == 0
        if self.chance:
            return draw.random() < self.chance
        return True


def parse(text: str) -> Fault:
    """A fault as the command line names it: KIND[:after][@first=N|@every=N|@p=P].

    Raises:
        BadInput: the text is not a fault.
    """
    found = _SPEC.fullmatch(text)
    if found is None or found["kind"] not in KINDS:
        raise BadInput(
            f"{text!r} is no fault",
            fix=f"Write KIND[:after][@first=N|@every=N|@p=P], KIND one of {', '.join(KINDS)}",
        )
    when, value = found["when"], found["value"]
    try:
        fault = Fault(
            found["kind"],
            after=found["after"] is not None,
            first=int(value) if when == "first" else 0,
            every=int(value) if when == "every" else 0,
            chance=float(value) if when == "p" else 0.0,
        )
    except ValueError as error:
        raise BadInput(f"{text!r}: {value} is no number for {when}", fix="E.g. 2") from error
    # with none set, the fault would strike every request
    if when is not None and not (fault.first or fault.every or 0 < fault.chance <= 1):
        raise BadInput(
            f"{text!r}: {value} is out of range for {when}",
            fix="first and every from 1, p above 0 and at most 1",
        )
    return fault
