"""From an error class to what the client is told: one table, read along the class's bases."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import msgspec
from starlette.exceptions import HTTPException

from vivace import errors
from vivace.server.wire import ErrorResponse, Trouble
from vivace.trace import Trace

log = logging.getLogger("vivace.server")
RETRY_AFTER = 1.0
"""Seconds, where an error that passes does not say how long it takes."""


class BadRequest(errors.BadInput):
    """A body that is not what the route reads; `param` names the field."""

    def __init__(self, what: str, *, fix: str = "", param: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.param = param


class BodyTooLarge(errors.BadInput):
    """More bytes than `server.max_body_mib`."""


class NoSuchModel(errors.VivaceError):
    """`model` names nothing that is served."""

    param = "model"


class WrongHost(errors.BadInput):
    """The Host header carries a name that is not this server's."""


class ClientGone(Exception):
    """The client has closed its connection: there is nobody to tell."""


@dataclass(frozen=True, slots=True)
class Told:
    """An HTTP status, OpenAI's error type and code, and whether the error's own words are shown.

    `told` is False for what names the server's own files: that goes to its log.
    """

    status: int
    type: str
    code: str
    told: bool = True


_OURS = "server_error"
_THEIRS = "invalid_request_error"
_MODEL = "model_error"

TABLE: dict[type[BaseException], Told] = {
    errors.InfeasibleObjective: Told(422, _THEIRS, "infeasible_objective"),
    errors.BadInput: Told(400, _THEIRS, "bad_input"),
    BadRequest: Told(400, _THEIRS, "bad_request"),
    errors.BadQuery: Told(400, _THEIRS, "bad_query"),
    errors.BadFilter: Told(400, _THEIRS, "bad_filter"),
    errors.BadVectors: Told(400, _THEIRS, "bad_vectors"),
    errors.BadSettings: Told(500, _OURS, "bad_settings", told=False),
    BodyTooLarge: Told(413, _THEIRS, "body_too_large"),
    WrongHost: Told(421, _THEIRS, "wrong_host"),
    NoSuchModel: Told(404, _THEIRS, "model_not_found"),
    errors.IngestError: Told(422, _THEIRS, "unreadable_document"),
    errors.CollectionLocked: Told(503, _OURS, "collection_locked"),
    errors.StoreUnwritable: Told(507, _OURS, "store_unwritable", told=False),
    errors.StoreError: Told(500, _OURS, "store_error", told=False),
    errors.CorruptIndex: Told(500, _OURS, "corrupt_index", told=False),
    errors.EmbeddingError: Told(503, _OURS, "embedding_failed"),
    errors.RerankError: Told(503, _OURS, "rerank_failed"),
    errors.MissingExtra: Told(501, _OURS, "missing_extra"),
    errors.ModelUnreachable: Told(503, _MODEL, "model_unreachable"),
    errors.ModelRefused: Told(502, _MODEL, "model_refused"),
    errors.ModelTimeout: Told(504, _MODEL, "model_timeout"),
    errors.StreamStalled: Told(504, _MODEL, "stream_stalled"),
    errors.StreamCut: Told(502, _MODEL, "stream_cut"),
    errors.StreamMalformed: Told(502, _MODEL, "stream_malformed"),
    errors.StreamEmpty: Told(502, _MODEL, "stream_empty"),
    errors.StreamTooLong: Told(502, _MODEL, "stream_too_long"),
    errors.GenerationError: Told(502, _MODEL, "generation_failed"),
    errors.Closed: Told(503, _OURS, "shutting_down"),
    errors.ShareExceeded: Told(429, "rate_limit_error", "share_exceeded"),
    errors.Overloaded: Told(503, _OURS, "overloaded"),
    errors.DeadlineExceeded: Told(504, _OURS, "deadline_exceeded"),
    errors.VivaceError: Told(500, _OURS, "error"),
    BaseException: Told(500, _OURS, "internal_error", told=False),
}
_PASSED_ON = {429, 503}
"""Statuses of the model server that the client may act on as its own."""
_UNTOLD = "The server met an error of its own; its log says which"


@dataclass(frozen=True, slots=True)
class Reply:
    """An error as it is sent."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


def told(error: BaseException) -> Told:
    """The row of the nearest base of the error's class."""
    row = next(TABLE[base] for base in type(error).__mro__ if base in TABLE)
    if isinstance(error, errors.ModelRefused) and error.status in _PASSED_ON:
        kind = "rate_limit_error" if error.status == 429 else row.type
        return Told(error.status, kind, row.code)
    return row


def reply(error: BaseException) -> Reply:
    """What the client of a request that raised `error` is sent."""
    if isinstance(error, HTTPException):
        trouble = Trouble(str(error.detail), _THEIRS, None, None)
        names = error.headers or {}
        headers = [(name.lower().encode(), value.encode()) for name, value in names.items()]
        return Reply(error.status_code, msgspec.json.encode(ErrorResponse(trouble)), headers)
    row = told(error)
    return Reply(row.status, body(error), _retry_headers(row.status, error))


def body(error: BaseException) -> bytes:
    """The error in OpenAI's shape."""
    row = told(error)
    message = str(error) if row.told else _UNTOLD
    param = getattr(error, "param", None) if row.told else None
    return msgspec.json.encode(ErrorResponse(Trouble(message, row.type, param, row.code)))


def _retry_headers(status: int, error: BaseException) -> list[tuple[bytes, bytes]]:
    if status in (429, 503):
        after = getattr(error, "retry_after", None)
        seconds = RETRY_AFTER if after is None else max(0.0, after)
        return [
            (b"retry-after", b"%d" % math.ceil(seconds)),
            (b"retry-after-ms", b"%d" % math.ceil(seconds * 1e3)),
        ]
    if isinstance(error, errors.GenerationError):
        # we have retried already: the SDK's own retries would multiply with ours
        return [(b"x-should-retry", b"false")]
    return []


def note(error: BaseException, trace: Trace) -> None:
    """Count the error, and log what its client is not told."""
    row = told(error)
    trace.count(f"errors.{row.code}")
    if not row.told:
        log.error("a request failed: %s", error, exc_info=error)
