"""Map error classes to HTTP responses: one table, looked up along the class's bases."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
from starlette.exceptions import HTTPException
from starlette.types import Message

from vivace import errors
from vivace.server.wire import ErrorBody, ErrorResponse
from vivace.trace import Trace

log = logging.getLogger("vivace.server")
Header: TypeAlias = tuple[bytes, bytes]
CLOSE: Header = (b"connection", b"close")
RETRY_AFTER = 1.0
"""Seconds in Retry-After where a transient error does not say how long it lasts."""


class BadRequest(errors.BadInput):
    """The body is not what the route reads; `param` names the field."""

    def __init__(self, what: str, *, fix: str = "", param: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.param = param


class BodyTooLarge(errors.BadInput):
    """The body has more bytes than `server.max_body_mib` allows."""


class RequestTimeout(errors.BadInput):
    """The head or the body was not complete in time."""


class BodiesTooLarge(errors.Overloaded):
    """The bodies being received take all of `server.bodies_mib`, and this is the largest."""


class UrlTooLong(errors.BadInput):
    """The request line exceeds `server.max_url_bytes`."""


class HeadTooLarge(errors.BadInput):
    """The headers exceed `server.max_headers` or `server.max_head_kib`."""


class BadHttp(errors.BadInput):
    """What the client sent is no HTTP request, or one that no client needs."""


class TooManyConnections(errors.Overloaded):
    """`server.connections` or `server.connections_per_address` are open."""


class NoSuchModel(errors.VivaceError):
    """`model` names no served collection."""

    param = "model"


class BadHost(errors.BadInput):
    """There is not exactly one Host header, or it is no host name with a port."""


class WrongHost(errors.BadInput):
    """The Host header does not carry a name of this server."""


class CrossSite(errors.BadInput):
    """A page of another site sent the request, and its origin is not in `server.origins`."""


class NotJson(errors.BadInput):
    """The body's media type is not `application/json`."""


UNREAD = (BodyTooLarge, BodiesTooLarge)
"""Errors after which the client may still be sending the body."""
CLOSING = (errors.Closed, RequestTimeout, *UNREAD)
"""Errors after which the connection is closed."""


class ClientGone(Exception):
    """The client has closed its connection; no response can reach it."""


@dataclass(frozen=True, slots=True)
class ErrorMapping:
    """HTTP status, OpenAI's error type and code, and whether the client sees the error's message.

    `shown` is False for messages that name the server's own files; they go to its log.
    """

    status: int
    type: str
    code: str
    shown: bool = True


_SERVER = "server_error"
_REQUEST = "invalid_request_error"
_MODEL = "model_error"

TABLE: dict[type[BaseException], ErrorMapping] = {
    errors.InfeasibleObjective: ErrorMapping(422, _REQUEST, "infeasible_objective"),
    errors.BadInput: ErrorMapping(400, _REQUEST, "bad_input"),
    BadRequest: ErrorMapping(400, _REQUEST, "bad_request"),
    errors.BadQuery: ErrorMapping(400, _REQUEST, "bad_query"),
    errors.BadFilter: ErrorMapping(400, _REQUEST, "bad_filter"),
    errors.BadVectors: ErrorMapping(400, _REQUEST, "bad_vectors"),
    errors.BadSettings: ErrorMapping(500, _SERVER, "bad_settings", shown=False),
    BodyTooLarge: ErrorMapping(413, _REQUEST, "body_too_large"),
    RequestTimeout: ErrorMapping(408, _REQUEST, "request_timeout"),
    BodiesTooLarge: ErrorMapping(503, _SERVER, "bodies_too_large"),
    UrlTooLong: ErrorMapping(414, _REQUEST, "url_too_long"),
    HeadTooLarge: ErrorMapping(431, _REQUEST, "head_too_large"),
    BadHttp: ErrorMapping(400, _REQUEST, "bad_http"),
    TooManyConnections: ErrorMapping(503, _SERVER, "too_many_connections"),
    BadHost: ErrorMapping(400, _REQUEST, "bad_host"),
    WrongHost: ErrorMapping(421, _REQUEST, "wrong_host"),
    CrossSite: ErrorMapping(403, _REQUEST, "cross_site"),
    NotJson: ErrorMapping(415, _REQUEST, "not_json"),
    NoSuchModel: ErrorMapping(404, _REQUEST, "model_not_found"),
    errors.IngestError: ErrorMapping(422, _REQUEST, "unreadable_document"),
    errors.CollectionLocked: ErrorMapping(503, _SERVER, "collection_locked"),
    errors.StoreUnwritable: ErrorMapping(507, _SERVER, "store_unwritable", shown=False),
    errors.StoreError: ErrorMapping(500, _SERVER, "store_error", shown=False),
    errors.CorruptIndex: ErrorMapping(500, _SERVER, "corrupt_index", shown=False),
    errors.EmbeddingError: ErrorMapping(503, _SERVER, "embedding_failed"),
    errors.RerankError: ErrorMapping(503, _SERVER, "rerank_failed"),
    errors.MissingExtra: ErrorMapping(501, _SERVER, "missing_extra"),
    errors.ModelUnreachable: ErrorMapping(503, _MODEL, "model_unreachable"),
    errors.ModelRefused: ErrorMapping(502, _MODEL, "model_refused"),
    errors.ModelTimeout: ErrorMapping(504, _MODEL, "model_timeout"),
    errors.StreamStalled: ErrorMapping(504, _MODEL, "stream_stalled"),
    errors.StreamCut: ErrorMapping(502, _MODEL, "stream_cut"),
    errors.StreamMalformed: ErrorMapping(502, _MODEL, "stream_malformed"),
    errors.StreamEmpty: ErrorMapping(502, _MODEL, "stream_empty"),
    errors.StreamTooLong: ErrorMapping(502, _MODEL, "stream_too_long"),
    errors.GenerationError: ErrorMapping(502, _MODEL, "generation_failed"),
    errors.Closed: ErrorMapping(503, _SERVER, "shutting_down"),
    errors.ShareExceeded: ErrorMapping(429, "rate_limit_error", "share_exceeded"),
    errors.Overloaded: ErrorMapping(503, _SERVER, "overloaded"),
    errors.DeadlineExceeded: ErrorMapping(504, _SERVER, "deadline_exceeded"),
    errors.VivaceError: ErrorMapping(500, _SERVER, "error"),
    BaseException: ErrorMapping(500, _SERVER, "internal_error", shown=False),
}
_PASSED_ON = {429, 503}
"""Statuses of the model server that the client may act on as its own."""
_HIDDEN = "The server met an error of its own; its log says which"


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as an HTTP response."""

    status: int
    body: bytes
    headers: list[Header]

    def messages(self, *more: Header) -> tuple[Message, Message]:
        """The two ASGI messages of the response; `more` are further headers."""
        return (
            response_head(self.body, self.status, *self.headers, *more),
            {"type": "http.response.body", "body": self.body},
        )


def response_head(body: bytes, status: int, *headers: Header) -> Message:
    """The ASGI message that starts a response with a JSON body."""
    fixed = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return {"type": "http.response.start", "status": status, "headers": [*fixed, *headers]}


def mapping_of(error: BaseException) -> ErrorMapping:
    """The table's row for the nearest base of the error's class."""
    row = next(TABLE[base] for base in type(error).__mro__ if base in TABLE)
    if isinstance(error, errors.ModelRefused) and error.status in _PASSED_ON:
        kind = "rate_limit_error" if error.status == 429 else row.type
        return ErrorMapping(error.status, kind, row.code)
    return row


def reply(error: BaseException) -> ErrorReply:
    """The response to a request that raised `error`."""
    if isinstance(error, HTTPException):
        content = ErrorResponse(ErrorBody(str(error.detail), _REQUEST, None, None))
        names = error.headers or {}
        headers = [(name.lower().encode(), value.encode()) for name, value in names.items()]
        return ErrorReply(error.status_code, msgspec.json.encode(content), headers)
    row = mapping_of(error)
    return ErrorReply(row.status, body(error), _retry_headers(row.status, error))


def body(error: BaseException) -> bytes:
    """The error as JSON in OpenAI's shape."""
    row = mapping_of(error)
    message = str(error) if row.shown else _HIDDEN
    param = getattr(error, "param", None) if row.shown else None
    return msgspec.json.encode(ErrorResponse(ErrorBody(message, row.type, param, row.code)))


def _retry_headers(status: int, error: BaseException) -> list[Header]:
    if status in (429, 503):
        after = getattr(error, "retry_after", None)
        seconds = RETRY_AFTER if after is None else max(0.0, after)
        return [
            (b"retry-after", b"%d" % math.ceil(seconds)),
            (b"retry-after-ms", b"%d" % math.ceil(seconds * 1e3)),
        ]
    if isinstance(error, errors.GenerationError):
        # the server has retried already: the SDK's own retries would multiply with those
        return [(b"x-should-retry", b"false")]
    return []


def record(error: BaseException, trace: Trace) -> None:
    """Count the error, and log it where its message is hidden from the client."""
    row = mapping_of(error)
    trace.count(f"errors.{row.code}")
    if not row.shown:
        log.error("a request failed: %s", error, exc_info=error)
