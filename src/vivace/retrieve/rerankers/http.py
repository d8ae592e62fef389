"""Rerankers behind the `/rerank` wire: `NAME@URL`, `NAME@URL,URL*2`, `NAME@URL#tei`.

The wire is what Jina, Cohere, vLLM, llama.cpp and others have in common: `POST URL/rerank` with
`{model, query, documents, top_n, return_documents}`, answered by `{"results": [{index,
relevance_score}]}`. Hugging Face's text-embeddings-inference calls the documents `texts` and
answers a bare list of `{index, score}`: `#tei` behind the URL says so.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
import numpy as np

from vivace.errors import BadSettings, Closed, RerankError, VivaceError
from vivace.run import work
from vivace.run.balance import Endpoint
from vivace.run.connections import with_idle
from vivace.run.endpoints import AllEjected, Endpoints, EndpointsStatistics, Lease
from vivace.run.learned import of_calls
from vivace.run.model_servers import ModelServer
from vivace.run.retry import MISPLACED, STATUSES, backoff, refused, retry_after
from vivace.settings import Remote
from vivace.types import Hit, Query, Scores

T = TypeVar("T")
MOST_AT_ONCE: Final = 16
"""Questions, however many servers there are: beyond, this side is what is slow."""
MAX_BODY: Final = 16 << 20
"""Bytes of an answer; some servers send the documents back whatever they are asked."""
QUESTION_CHARS: Final = 4_000
PASSAGE_CHARS: Final = 20_000
"""Sent of a question and of a passage: far more than such models read."""
TEI: Final = "tei"


class _Row(msgspec.Struct):
    index: int
    relevance_score: float | None = None
    score: float | None = None


class _Answer(msgspec.Struct):
    results: list[_Row]


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


class HttpReranker:
    """One reranking model of one or several servers. A `Reranker`; from any thread and event loop.

    Requests run on an event loop of its own thread: a reranker outlives event loops. Nothing is
    asked of a server before the first search.

    Raises:
        BadSettings: what stands behind the `#` of the URL is unknown.
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
        self.name = f"rerank:{self._model}"
        self._tei = _is_tei(several[0].fragment)
        self._settings = settings
        self._draw = draw or random.Random()
        self._session: aiohttp.ClientSession | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        servers = [Endpoint(one.url, one.weight, settings.concurrency) for one in several]
        self.endpoints = Endpoints(self.name, servers, learned=of_calls, draw=self._draw)
        """Used on the reranker's own loop."""
        self.at_once = min(MOST_AT_ONCE, settings.concurrency * len(servers))
        """Questions of one `search_many`: each has a request a server or more."""
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="vivace-rerank-http", daemon=True
        )
        self._thread.start()

    async def score(self, query: Query, hits: Sequence[Hit]) -> Scores:
        """One score a hit (n,) float32, on the server's scale; a blank passage has the lowest.

        Requests of `remote.batch` passages, at most `remote.concurrency` at once to a server, all
        of them with all their tries in `remote.query_seconds` and no longer than the deadline.
        The first failure fails the call; cancelling it closes its connections.

        Raises:
            RerankError: the server failed, after all tries, or answered what are no scores, or
                nothing in time; or there was no place at one.
        """
        wanted = [at for at, hit in enumerate(hits) if hit.chunk.text.strip()]
        scores = np.zeros(len(hits), np.float32)
        if not wanted or not query.text.strip():
            return scores
        size = self._settings.batch
        rows = [wanted[at : at + size] for at in range(0, len(wanted), size)]
        question = _sendable(query.text[:QUESTION_CHARS])
        bodies = [
            (self._body(question, [hits[at].chunk.text for at in row]), len(row)) for row in rows
        ]
        try:
            future = self._submit(self._soon(bodies))
            found: list[Scores] = await asyncio.wrap_future(future)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise self._gone() from error  # not the caller was cancelled, but the request
            raise
        except RerankError:
            raise
        except VivaceError as error:  # no place at a server, or none in time
            raise RerankError(f"{self.name}: {error.what}", fix=error.fix) from error
        scores[:] = min(float(part.min()) for part in found)
        for row, part in zip(rows, found, strict=True):
            scores[row] = part
        return scores

    def statistics(self) -> EndpointsStatistics:
        """Of the servers and the connections to them. From any thread."""
        return with_idle(self.endpoints.statistics(), self._session)

    async def close(self) -> None:
        """Close the connections and stop the thread; running calls fail. Idempotent."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _body(self, question: str, texts: Sequence[str]) -> bytes:
        sent = [_sendable(text[:PASSAGE_CHARS]) for text in texts]
        if self._tei:
            return msgspec.json.encode({"query": question, "texts": sent, "truncate": True})
        return msgspec.json.encode(
            {
                "model": self._model,
                "query": question,
                "documents": sent,
                "top_n": len(sent),
                "return_documents": False,
            }
        )

    # -- on its own loop --------------------------------------------------------------------

    def _submit(self, work: Coroutine[Any, Any, T]) -> Any:
        with self._closing:
            if self._closed:
                work.close()
                raise self._gone()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _soon(self, bodies: Sequence[tuple[bytes, int]]) -> list[Scores]:
        """All requests' scores, within the time of a question."""
        seconds = self._settings.query_seconds
        if (deadline := work.current().deadline) is not None:
            seconds = max(0.0, min(seconds, deadline - time.monotonic()))
        try:
            async with asyncio.timeout(seconds):
                return await self._all(bodies)
        except TimeoutError as error:
            raise RerankError(
                f"{self.name}: no scores in {seconds:.3g} s",
                fix="See the reranking server's log, or lower search.rerank_depth",
            ) from error

    async def _all(self, bodies: Sequence[tuple[bytes, int]]) -> list[Scores]:
        """The scores of every request; the first failure cancels the others."""
        first: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._request(*body)) for body in bodies]
        except* VivaceError as failed:
            first = failed.exceptions[0]
        if first is not None:  # raised in there, Python before 3.11.4 would put it into a group
            raise first from first.__cause__
        return [task.result() for task in tasks]

    async def _request(self, body: bytes, count: int) -> Scores:
        """The scores (count,) of one request, tried again as the settings allow."""
        tries = 0
        tried: set[str] = set()
        while True:
            server = self.name
            try:
                with await self._lease(tried) as lease:
                    server = lease.server
                    tried.add(server)
                    try:
                        found = _scores(await self._try(server, body), count)
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
                    raise RerankError(
                        f"{self.name}: {server}: {failure}", fix=_fix(failure, self._tei)
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
        url = f"{server}/rerank"
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

    def _gone(self) -> RerankError:
        return RerankError(f"{self.name} is closed", fix="Open a new engine")


def _is_tei(fragment: str) -> bool:
    if fragment in ("", TEI):
        return fragment == TEI
    raise BadSettings(
        "search.rerank: what stands behind the # is no kind of server",
        fix="Write NAME@URL, or NAME@URL#tei for text-embeddings-inference",
    )


def _fix(failure: _Failed, tei: bool) -> str:
    if failure.status == 422 and "texts" in str(failure) and not tei:
        return "This looks like text-embeddings-inference: write search.rerank as NAME@URL#tei"
    return "See the reranking server's log; check search.rerank and remote.api_key"


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


def _scores(body: bytes, count: int) -> Scores:
    """The scores (count,) of an answer, in the order of the documents sent."""
    try:
        answer = msgspec.json.decode(body, type=_Answer | list[_Row])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _Failed(f"the answer holds no scores: {error}", again=False) from error
    rows = answer.results if isinstance(answer, _Answer) else answer
    if sorted(row.index for row in rows) != list(range(count)):
        raise _Failed(
            f"{len(rows)} scores of {len({row.index for row in rows})} documents for {count}",
            again=False,
        )
    scores = np.empty(count, np.float32)
    for row in rows:
        value = row.score if row.relevance_score is None else row.relevance_score
        if value is None or not abs(value) <= float(np.finfo(np.float32).max):
            raise _Failed(f"the score of document {row.index} is no number", again=False)
        scores[row.index] = value
    return scores
