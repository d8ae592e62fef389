"""Embedders behind the OpenAI wire: `openai:NAME@URL`, `openai:NAME@URL,URL#DIM`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np

from vivace.embed.precomputed import MAX_DIM, unit_rows
from vivace.errors import BadSettings, EmbeddingError, VivaceError
from vivace.protocols import Kind
from vivace.run import work
from vivace.run.breaker import Tolerance
from vivace.run.endpoints import EndpointsStatistics
from vivace.run.http import FAILURES, CallClient, sendable
from vivace.run.model_servers import ModelServer
from vivace.settings import Remote
from vivace.text.tokens import estimate
from vivace.types import Embedded, Vectors

MAX_BODY: Final = 256 << 20
"""Bytes of an answer."""


class _EmbeddingRow(msgspec.Struct):
    embedding: str | list[float]
    """Base64 of little-endian float32, or numbers from servers that do not know the format."""
    index: int | None = None


class _EmbeddingAnswer(msgspec.Struct):
    data: list[_EmbeddingRow]


class OpenAIEmbedder:
    """One embedding model of one or several servers. Safe from any thread and event loop.

    All servers must give a text the same vector. Unless the name says it (`#DIM`), one request
    asks a server for the dimension here.

    Raises:
        EmbeddingError: the server does not say the dimension.
        BadSettings: `#DIM` is no dimension.
    """

    def __init__(
        self,
        servers: ModelServer | Sequence[ModelServer],
        settings: Remote,
        *,
        tolerance: Tolerance | None = None,
    ) -> None:
        servers = [servers] if isinstance(servers, ModelServer) else servers
        self._model = servers[0].model
        self.name = f"openai:{self._model}"
        """Without the URL: vectors stay valid when a server moves."""
        self._settings = settings
        self.dim = _dimension(servers[0].fragment)
        self.client = CallClient(
            self.name,
            servers,
            "embeddings",
            settings,
            setting="embed.model",
            max_body=MAX_BODY,
            tolerance=tolerance,
        )
        if not self.dim:
            try:
                body = self._body(["dimension"])
                self.dim = self.client.call_blocking(body, partial(_vectors, 1)).shape[1]
            except BaseException as error:
                self.close()
                if isinstance(error, FAILURES):
                    raise self._error(error) from error
                raise

    def reads(self, language: str) -> bool:
        """True for every language: the wire does not say which ones a model was trained on.

        Configure a model that reads the languages of your documents; for one that does not, the
        keyword side still finds them.
        """
        return True

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """About the model's tokens, estimated by script; a `TokenCounter`."""
        return [estimate(text) for text in texts]

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        """Vectors (n, dim) float32 of unit length; an empty text has a zero vector.

        Batches of `remote.batch` texts, at most `remote.concurrency` at once to a server. The first
        failure fails the call; cancelling it closes its connections. A question that somebody waits
        for has `remote.query_seconds` in all, and no longer than its own deadline.

        Raises:
            EmbeddingError: the server failed, after all tries, or answered what is no embedding, or
                nothing in time.
            Overloaded, DeadlineExceeded: too many requests waited for a server, or too long.
        """
        vectors = np.zeros((len(texts), self.dim), np.float32)
        # servers refuse empty texts, and with one of them the whole batch
        wanted = [at for at, text in enumerate(texts) if text.strip()]
        if not wanted:
            return Embedded(vectors)
        size = self._settings.batch
        rows = [wanted[at : at + size] for at in range(0, len(wanted), size)]
        requests = [
            (self._body([texts[at] for at in row]), partial(_vectors, len(row))) for row in rows
        ]
        urgent = work.current().priority is work.Priority.INTERACTIVE
        soon = kind == "query" and urgent and len(rows) == 1
        within = self._settings.query_seconds if soon else None
        try:
            found = await self.client.call(
                requests, within=within, missing="no answer to a question"
            )
        except FAILURES as error:
            raise self._error(error) from error
        for row, part in zip(rows, found, strict=True):
            if part.shape[1] != self.dim:
                raise EmbeddingError(
                    f"{self.name} answered {part.shape[1]} dimensions, not {self.dim}",
                    fix="Correct the #DIM in embed.model, or ask why the server changed its model",
                )
            vectors[row] = part
        return Embedded(vectors)

    def server_statistics(self) -> EndpointsStatistics:
        """Of the servers and the connections to them. From any thread."""
        return self.client.server_statistics()

    def close(self) -> None:
        """Close the connections and stop the thread; running calls fail. Idempotent, blocks."""
        self.client.close()

    def _body(self, texts: Sequence[str]) -> bytes:
        sent = [sendable(text) for text in texts]
        return msgspec.json.encode(
            {"model": self._model, "input": sent, "encoding_format": "base64"}
        )

    def _error(self, error: VivaceError) -> EmbeddingError:
        return EmbeddingError(self.client.of(error), fix=error.fix)


def _dimension(text: str) -> int:
    """The `DIM` of a name; 0 where it has none."""
    if not text:
        return 0
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_DIM:
        return int(text)
    raise BadSettings(
        f"embed.model: {text!r} is no dimension", fix=f"Write openai:NAME@URL#DIM, 1 to {MAX_DIM}"
    )


def _vectors(count: int, body: bytes) -> Vectors:
    """The vectors (count, dim) of an answer, of unit length, in the order of their indexes."""
    try:
        rows = msgspec.json.decode(body, type=_EmbeddingAnswer).data
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite
            decoded = [_row(row.embedding) for row in rows]
    except (ValueError, RecursionError) as error:  # of JSON, UTF-8 or base64
        raise EmbeddingError(f"the answer holds no embeddings: {error}") from error
    order = [at if row.index is None else row.index for at, row in enumerate(rows)]
    lengths = {len(row) for row in decoded}
    if sorted(order) != list(range(count)) or len(lengths) != 1 or 0 in lengths:
        raise EmbeddingError(
            f"{len(rows)} embeddings of lengths {sorted(lengths)[:4]} for {count} texts"
        )
    vectors = np.empty((count, lengths.pop()), np.float32)
    vectors[order] = decoded
    return unit_rows(vectors)


def _row(embedding: str | list[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    return np.array(embedding, np.float32)
