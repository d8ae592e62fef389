"""Embedders behind the OpenAI wire: `openai:NAME@URL`, `openai:NAME@URL,URL#DIM`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import aiohttp
import msgspec
import numpy as np

from vivace.embed.precomputed import MAX_DIM
from vivace.errors import BadSettings, Closed, EmbeddingError, VivaceError
from vivace.protocols import Kind
from vivace.run import work
from vivace.run.balance import Endpoint
from vivace.run.connections import with_idle
from vivace.run.endpoints import AllEjected, Endpoints, EndpointsStatistics, Lease
from vivace.run.learned import of_calls
from vivace.run.model_servers import ModelServer
from vivace.run.retry import MISPLACED, STATUSES, backoff, refused, retry_after
from vivace.settings import Remote
from vivace.text.tokens import estimate
from vivace.types import Embedded, Vectors

T = TypeVar("T")
MAX_BODY = 256 << 20
"""Bytes of an answer."""


class _Row(msgspec.Struct):
    embedding: str | list[float]
    """Base64 of little-endian float32, or numbers from servers that do not know the format."""
    index: int | None = None


class _Answer(msgspec.Struct):
    data: list[_Row]


class _Failed(Exception):
    """One try failed; `again` says whether another may do better, `told` after how many seconds."""

    def __init__(
        self, why: str, *, again: bool, told: float | None = None, status: int = 0
    ) -> None:
        super().__init__(why)
        self.again = again
        self.told = told
        self.status = status
        """HTTP; 0 where it is not what failed."""


class OpenAIEmbedder:
    """One embedding model of one or several servers. Safe from any thread and event loop.

    All servers must give a text the same vector. Requests run on an event loop of its own thread:
    an embedder outlives event loops and is closed without one. The dimension is asked of a server
    here, by one request, unless given as `#DIM`.

    Raises:
        EmbeddingError: the server does not say the dimension.
        BadSettings: `#DIM` is no dimension.
    """

    def __init__(
        self,
        endpoint: ModelServer | Sequence[ModelServer],
        settings: Remote,
        *,
        draw: random.Random | None = None,
    ) -> None:
        several = [endpoint] if isinstance(endpoint, ModelServer) else endpoint
        self._model = several[0].model
        self.name = f"openai:{self._model}"
        """Without the URL: a server that moves does not make its vectors others."""
        self._settings = settings
        self._draw = draw or random.Random()
        self._session: aiohttp.ClientSession | None = None
        self._closing = threading.Lock()
        self._closed = False
        self.dim = _dimension(several[0].fragment)
        self._loop = asyncio.new_event_loop()
        servers = [Endpoint(one.url, one.weight, settings.concurrency) for one in several]
        self.endpoints = Endpoints(self.name, servers, learned=of_calls, draw=self._draw)
        """Used on the embedder's own loop."""
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="vivace-embed-openai", daemon=True
        )
        self._thread.start()
        if not self.dim:
            try:
                self.dim = self._submit(self._request(["dimension"])).result().shape[1]
            except BaseException:
                self.close()
                raise

    def reads(self, language: str) -> bool:
        """True of every language: the wire does not tell which ones a model was trained on.

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
        batches = [[_sendable(texts[at]) for at in row] for row in rows]
        urgent = work.current().priority is work.Priority.INTERACTIVE
        soon = kind == "query" and urgent and len(batches) == 1
        future = self._submit(self._soon(batches) if soon else self._all(batches))
        try:
            found = await asyncio.wrap_future(future)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise self._gone() from error  # not the caller was cancelled, but the request
            raise
        for row, part in zip(rows, found, strict=True):
            if part.shape[1] != self.dim:
                raise EmbeddingError(
                    f"{self.name} answered {part.shape[1]} dimensions, not {self.dim}",
                    fix="Correct the #DIM in embed.model, or ask why the server changed its model",
                )
            vectors[row] = part
        return Embedded(vectors)

    def statistics(self) -> EndpointsStatistics:
        """Of the servers and the connections to them. From any thread."""
        return with_idle(self.endpoints.statistics(), self._session)

    def close(self) -> None:
        """Close the connections and stop the thread; running calls fail. Idempotent, blocks."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- on its own loop --------------------------------------------------------------------

    def _submit(self, work: Coroutine[Any, Any, T]) -> Any:
        with self._closing:
            if self._closed:
                work.close()
                raise self._gone()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _all(self, batches: Sequence[list[str]]) -> list[Vectors]:
        """The vectors of every batch; the first failure cancels the others."""
        first: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._request(batch)) for batch in batches]
        except* VivaceError as failed:
            first = failed.exceptions[0]
        if first is not None:  # raised in there, Python before 3.11.4 would put it into a group
            raise first from first.__cause__
        return [task.result() for task in tasks]

    async def _soon(self, batches: Sequence[list[str]]) -> list[Vectors]:
        """The same within the time of a question: keywords alone are better than a long wait."""
        seconds = self._settings.query_seconds
        if (deadline := work.current().deadline) is not None:
            seconds = max(0.0, min(seconds, deadline - time.monotonic()))
        try:
            async with asyncio.timeout(seconds):
                return await self._all(batches)
        except TimeoutError as error:
            raise EmbeddingError(
                f"{self.name}: no answer to a question in {seconds:.3g} s",
                fix="See the embedding server's log, or raise remote.query_seconds",
            ) from error

    async def _request(self, texts: list[str]) -> Vectors:
        """The vectors (n, dim) of one batch, tried again as the settings allow."""
        body = msgspec.json.encode(
            {"model": self._model, "input": texts, "encoding_format": "base64"}
        )
        tries = 0
        tried: set[str] = set()
        while True:
            server = self.name
            try:
                with await self._lease(tried) as lease:
                    server = lease.server
                    tried.add(server)
                    try:
                        found = _vectors(await self._try(server, body), len(texts))
                    except _Failed as failure:
                        if not failure.status:
                            lease.failed(str(failure))
                        else:
                            refused(lease, failure.status, str(failure), failure.told)
                            elsewhere = failure.status in MISPLACED and lease.others
                            failure.again = failure.again or elsewhere
                        raise
                    lease.alive()
                    return found
            except _Failed as failure:
                tries += 1
                if not failure.again or tries > self._settings.retries:
                    raise EmbeddingError(
                        f"{self.name}: {server}: {failure}",
                        fix="See the embedding server's log; check embed.model and remote.api_key",
                    ) from failure
                wait = backoff(tries, failure.told, self._draw)
                if server in tried and self.endpoints.another(tried):
                    wait = 0.0
            await asyncio.sleep(min(wait, self._settings.seconds))

    async def _lease(self, tried: set[str]) -> Lease:
        """A place at a server. Where none can be asked, only work that nobody waits for waits."""
        try:
            return await self.endpoints.lease(avoid=tried)
        except Closed as error:
            raise self._gone() from error
        except AllEjected as error:
            patient = work.current().priority > work.Priority.INTERACTIVE
            raise _Failed(error.what, again=patient, told=error.retry_after) from error

    async def _try(self, server: str, body: bytes) -> bytes:
        url = f"{server}/embeddings"
        try:
            async with self._open().post(url, data=body, allow_redirects=False) as response:
                if response.status == 200:
                    return await _read(response)
                said = (await response.content.read(2_000)).decode("utf-8", "replace")
                if self._settings.api_key:
                    said = said.replace(self._settings.api_key, "***")
                raise _Failed(
                    f"status {response.status}: {' '.join(said.split())[:500]}",
                    again=response.status in STATUSES,
                    told=retry_after(response.headers),
                    status=response.status,
                )
        except TimeoutError as error:
            raise _Failed(f"no answer in {self._settings.seconds:g} s", again=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Failed(str(error) or type(error).__name__, again=True) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Content-Type": "application/json", "User-Agent": "vivace"}
            if self._settings.api_key:
                headers["Authorization"] = f"Bearer {self._settings.api_key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self._settings.seconds),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _shut(self) -> None:
        self.endpoints.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _gone(self) -> EmbeddingError:
        return EmbeddingError(f"{self.name} is closed", fix="Open a new engine")


def _dimension(text: str) -> int:
    """The `DIM` of a name; 0 where it has none."""
    if not text:
        return 0
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_DIM:
        return int(text)
    raise BadSettings(
        f"embed.model: {text!r} is no dimension", fix=f"Write openai:NAME@URL#DIM, 1 to {MAX_DIM}"
    )


def _sendable(text: str) -> str:
    """Text that JSON can carry: without lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MAX_BODY:
            raise _Failed(f"the answer has more than {MAX_BODY >> 20} MiB", again=False)
    return b"".join(parts)


def _vectors(body: bytes, count: int) -> Vectors:
    """The vectors (count, dim) of an answer, of unit length, in the order of their indexes."""
    try:
        rows = msgspec.json.decode(body, type=_Answer).data
        decoded = [_row(row.embedding) for row in rows]
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, ValueError) as error:
        raise _Failed(f"the answer holds no embeddings: {error}", again=False) from error
    order = [at if row.index is None else row.index for at, row in enumerate(rows)]
    lengths = {len(row) for row in decoded}
    if sorted(order) != list(range(count)) or len(lengths) != 1 or 0 in lengths:
        raise _Failed(
            f"{len(rows)} embeddings of lengths {sorted(lengths)[:4]} for {count} texts",
            again=False,
        )
    vectors = np.empty((count, lengths.pop()), np.float32)
    vectors[order] = decoded
    if not np.isfinite(vectors).all():
        raise _Failed("an embedding holds NaN or infinity", again=False)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms > 0, norms, np.float32(1))
    return vectors


def _row(embedding: str | list[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    return np.array(embedding, np.float32)
