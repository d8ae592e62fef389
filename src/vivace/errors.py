"""The error tree. Every error says what happened, where, and how to fix it.

    VivaceError
    ├── BadInput                what the caller passed cannot be used (exit status 2)
    │   ├── BadSettings         a setting is unknown or of the wrong type; names the key
    │   ├── BadQuery            an empty or oversized question, k < 1
    │   ├── BadFilter           an unknown key or operator
    │   └── BadVectors          wrong dimension, NaN, wrong count
    ├── IngestError             one source could not be read: source, reason, fix
    ├── StoreError              the collection's truth cannot be read or written
    │   ├── CollectionNotFound
    │   ├── CollectionLocked    another process is writing
    │   ├── CollectionTooNew    written by a later version of Vivace
    │   ├── EmbedderMismatch    the collection was made with another embedder
    │   └── StoreUnwritable     read-only or full disk
    ├── InfeasibleObjective     no plan meets the objective; carries the nearest one
    ├── CorruptIndex            a derived file is damaged; it is rebuilt from the store
    ├── EmbeddingError          the embedder could not embed
    ├── RerankError             the reranker could not score
    ├── GenerationError         the model server could not answer
    │   ├── ModelUnreachable    no connection, or none in time
    │   ├── ModelRefused        an HTTP error; carries status and retry_after
    │   ├── ModelTimeout        no first token, or no whole answer, in time
    │   ├── StreamStalled       tokens stopped coming
    │   ├── StreamCut           the connection ended before the answer did
    │   ├── StreamMalformed     the server sent something outside the protocol
    │   ├── StreamEmpty         the answer ended without a token
    │   └── StreamTooLong       more text than requested, or an oversized event
    ├── Overloaded              no capacity for the work now; carries retry_after
    │   └── ShareExceeded       one user holds more than their share of the capacity
    ├── DeadlineExceeded        there was no time left for the work
    ├── Closed                  a part was closed before the work could run
    └── MissingExtra            an optional dependency is not installed; names the extra

Foreign exceptions are translated once, by the adapter that meets them.
"""

from __future__ import annotations

from typing import TypeVar


class VivaceError(Exception):
    """Base of all errors raised on purpose. `what` happened and where; `fix` says what to do."""

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(f"{what}. {fix}" if fix else what)
        self.what = what
        self.fix = fix


def what_of(error: BaseException) -> str:
    """What happened, without the fix, for a message that states its own."""
    return error.what if isinstance(error, VivaceError) else str(error)


E = TypeVar("E", bound=BaseException)


def copied(error: E) -> E:
    """A copy of an error for another waiter: raising writes a traceback into the exception."""
    own = type(error).__new__(type(error))
    own.args = error.args
    own.__dict__.update(error.__dict__)
    own.__cause__ = error.__cause__
    own.__traceback__ = error.__traceback__
    return own


class BadInput(VivaceError):
    """What the caller passed cannot be used."""


class BadSettings(BadInput):
    """A setting is unknown or of the wrong type."""


class BadQuery(BadInput):
    """A question that cannot be searched."""


class BadFilter(BadInput):
    """A filter with an unknown key or operator."""


class BadVectors(BadInput):
    """Vectors of the wrong dimension or count, or with NaN or infinity."""


class IngestError(VivaceError):
    """One source could not be read; the others go on."""

    def __init__(self, source: str, reason: str, *, fix: str) -> None:
        super().__init__(f"{source}: {reason}", fix=fix)
        self.source = source
        self.reason = reason


class StoreError(VivaceError):
    """The collection's truth cannot be read or written."""


class CollectionNotFound(StoreError):
    """There is no collection at this path."""


class CollectionLocked(StoreError):
    """Another process is writing to the collection."""


class CollectionTooNew(StoreError):
    """The collection was written by a later version of Vivace."""


class EmbedderMismatch(StoreError):
    """The collection was made with another embedder."""


class StoreUnwritable(StoreError):
    """The disk is read-only or full."""


class InfeasibleObjective(VivaceError):
    """No plan meets the objective. `nearest` is the tuning whose choice comes closest."""

    def __init__(self, what: str, *, nearest: object, fix: str = "") -> None:
        super().__init__(what, fix=fix)
        self.nearest = nearest


class CorruptIndex(VivaceError):
    """A derived file is damaged; the store rebuilds it."""


class EmbeddingError(VivaceError):
    """The embedder could not embed."""


class RerankError(VivaceError):
    """The reranker could not score."""


class Overloaded(VivaceError):
    """There is no capacity for the work now; none of it was started."""

    def __init__(self, what: str, *, retry_after: float, fix: str = "") -> None:
        super().__init__(what, fix=fix or f"Try again in {retry_after:.1f} s")
        self.retry_after = retry_after
        """Seconds."""


class ShareExceeded(Overloaded):
    """One user holds more than their share of the capacity."""


class DeadlineExceeded(VivaceError):
    """There was no time left for the work; it was not started, or not finished."""


class Closed(VivaceError):
    """A part was closed before the work could run."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is closed",
            fix="Close the engine only after the work on it has finished, or open a new one",
        )


class MissingExtra(VivaceError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", fix=f"pip install 'vivace[{extra}]'")


class GenerationError(VivaceError):
    """The model server could not answer. `text` is what had arrived before."""

    def __init__(self, what: str, *, fix: str = "", text: str = "") -> None:
        super().__init__(what, fix=fix)
        self.text = text


class ModelUnreachable(GenerationError):
    """No connection to the model server, or none in time."""


class ModelRefused(GenerationError):
    """The model server answered with an HTTP error."""

    def __init__(
        self, what: str, *, status: int, retry_after: float | None = None, fix: str = ""
    ) -> None:
        super().__init__(what, fix=fix)
        self.status = status
        self.retry_after = retry_after
        """Seconds, where the server sent them."""


class ModelTimeout(GenerationError):
    """No first token, or no whole answer, in time."""


class StreamStalled(GenerationError):
    """Tokens stopped coming."""


class StreamCut(GenerationError):
    """The connection ended before the answer did."""


class StreamMalformed(GenerationError):
    """The model server sent something outside the protocol."""


class StreamEmpty(GenerationError):
    """The answer ended without a token."""


class StreamTooLong(GenerationError):
    """More text than requested, or an oversized event."""
