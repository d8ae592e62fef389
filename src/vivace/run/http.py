"""HTTP to a set of servers of one model: the lease of a server, tries, timeouts, size limits.

Importing this module imports aiohttp, which takes 0.1 s: import it where a client is made.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any, Final, TypeAlias, TypeVar

import aiohttp
from yarl import URL

from vivace.errors import (
    Closed,
    GenerationError,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
    StreamCut,
    StreamMalformed,
    StreamTooLong,
    VivaceError,
)
from vivace.run import work
from vivace.run.balance import Endpoint, Lease, LimitFactory
from vivace.run.breaker import Tolerance
from vivace.run.endpoints import AllEjected, Endpoints, EndpointsStatistics, call_limit
from vivace.run.model_servers import ModelServer
from vivace.run.retry import blame, error_body_message, pause, redacted, retry_after
from vivace.settings import Generate, Remote

T = TypeVar("T")
Requests: TypeAlias = Sequence[tuple[bytes, Callable[[bytes], T]]]
"""Bodies, each with what decodes its answer, or raises a `VivaceError` where that is impossible."""
FAILURES: Final = (GenerationError, AllEjected, Closed)
"""Errors of a request after all tries; a client that is no chat model raises one of its own."""
_MAX_ERROR: Final = 64 << 10
"""Bytes that are read of an error's body."""


class ServerSetClient:
    """Posts to one path of the servers of one model. Used on one event loop.

    It owns the set of servers (`endpoints`) and the session, which opens with the first request.

    Args:
        name: of the model, for errors.
        path: below each server's URL.
        settings: the key and the number of tries.
        setting, key_setting: that name the servers and the key, for errors.
        limit: learns, below the bound, how many requests a server takes at once.
        bound: most requests at once to a server.
        timeout: of the session.
    """

    def __init__(
        self,
        name: str,
        servers: Sequence[ModelServer],
        path: str,
        settings: Remote | Generate,
        *,
        setting: str,
        key_setting: str,
        limit: LimitFactory,
        bound: int,
        timeout: aiohttp.ClientTimeout,
        tolerance: Tolerance | None = None,
    ) -> None:
        self.name = name
        self._path = path
        self._setting = setting
        self._key_setting = key_setting
        self._retries = settings.retries
        self._api_key = settings.api_key
        self._timeout = timeout
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": "vivace",
            # a compressed answer could unpack to any size, and a stream came in blocks, not tokens
            "Accept-Encoding": "identity",
        }
        if self._api_key:
            self._headers["Authorization"] = f"Bearer {self._api_key}"
        self._draw = random.Random()
        members = [Endpoint(server.url, server.weight, bound) for server in servers]
        self.endpoints = Endpoints(name, members, tolerance=tolerance, learned=limit)
        self._first_seconds = self._total_seconds = self._longest_pause = inf
        """For the first byte of each try, for all tries, and between two of them."""
        self._persistent = False
        """Whether work that nobody waits for waits while every server is ejected, and a server that
        was too slow is asked again."""
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def server_statistics(self) -> EndpointsStatistics:
        """Of the servers and the connections to them. From any thread.

        aiohttp publishes no count of idle connections: this reads the connector's own table, and
        counts 0 where a later version of it has none. Two servers of one host and port share their
        connections.
        """
        idle: Counter[tuple[str | None, int | None]] = Counter()
        session = self._session
        table = getattr(session.connector, "_conns", None) if session is not None else None
        for key, kept in list((table or {}).items()):
            idle[key.host, key.port] += sum(protocol.is_connected() for protocol, _ in list(kept))
        found = self.endpoints.statistics()
        servers = []
        for server in found.servers:
            url = URL(server.name)
            servers.append(replace(server, idle=idle[url.host, url.port]))
        return replace(found, servers=tuple(servers))

    def of(self, error: VivaceError) -> str:
        """What went wrong, after the model's name."""
        what = error.what
        return what if what.startswith(self.name) else f"{self.name}: {what}"

    def session(self) -> aiohttp.ClientSession:
        """The session, with the key in its headers.

        Raises:
            Closed: the client is closed.
        """
        if self._closed:
            raise Closed(self.name)
        if self._session is None:
            # the set of servers bounds the connections
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=self._timeout,
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    async def _shut_down(self) -> None:
        """Refuse waiting and later requests and close every connection. Idempotent."""
        self._closed = True
        self.endpoints.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # -- tries ------------------------------------------------------------------------------

    async def _try_servers(
        self,
        attempt: Callable[[Lease, float, float], Awaitable[T]],
        adapt: Callable[[str, VivaceError], bool] | None = None,
    ) -> T:
        """The result of the first `attempt` that succeeds, each at the best server that is left.

        Args:
            attempt: gets a lease, which it ends or keeps where it succeeds, and the times of the
                event loop by which its first byte and its end have to come. For work that nobody
                waits for, these clocks begin when a server has a place for it.
            adapt: whether the server will take the request after this error; asking it again does
                not count as a further try.

        Raises:
            VivaceError: of the last try, see `FAILURES`.
            Overloaded, DeadlineExceeded: too many requests wait for a server, or too long.
        """
        loop = asyncio.get_running_loop()
        patient = work.current().priority > work.Priority.INTERACTIVE
        total = loop.time() + self._total_seconds
        tries = 0
        tried: set[str] = set()
        last: VivaceError | None = None
        while True:
            lease: Lease | None = None
            began = loop.time()
            first = began + self._first_seconds
            try:
                lease = await self._lease(tried, inf if patient else first, total)
                if patient:
                    waited = loop.time() - began
                    first, total = first + waited, total + waited
                return await attempt(lease, first, total)
            except VivaceError as error:
                if lease is None:
                    if not isinstance(error, AllEjected):
                        raise
                    if not (patient and self._persistent):
                        raise last or error  # noqa: B904 - the last try's error has its cause
                elif self._failed(lease, error, tried, adapt):
                    continue
                last, tries = error, tries + 1
                elsewhere = lease is not None and self.endpoints.balance.another(tried)
                late, draw = self._persistent, self._draw
                wait = pause(error, tries, elsewhere=elsewhere, late_again=late, draw=draw)
                if wait is None or tries > self._retries or loop.time() + wait >= total:
                    raise
            except BaseException:
                if lease is not None:
                    lease.end()
                raise
            await asyncio.sleep(min(wait, self._longest_pause))

    def _failed(
        self,
        lease: Lease,
        error: VivaceError,
        tried: set[str],
        adapt: Callable[[str, VivaceError], bool] | None,
    ) -> bool:
        """Record the failure and end the lease; whether the request was adapted to the server."""
        blame(lease, error)
        lease.end()
        adapted = adapt is not None and adapt(lease.server, error)
        if not adapted:
            tried.add(lease.server)
        return adapted

    async def _lease(self, tried: set[str], first: float, total: float) -> Lease:
        """A place at a server, by these times."""
        return await self.endpoints.lease(avoid=tried)

    # -- what went wrong --------------------------------------------------------------------

    def _unreachable(self, server: str, why: str) -> ModelUnreachable:
        return ModelUnreachable(
            f"the model server {server} cannot be reached: {why}",
            fix=f"Start it, or correct {self._setting}",
        )

    def _broken(self, server: str, error: Exception, text: str = "") -> GenerationError:
        """The error of a connection that was not made, or ended early, after this text."""
        words = redacted(str(error), self._api_key) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorError):
            return self._unreachable(server, words)
        fix = "Ask again; see the model server's log"
        return StreamCut(f"{server} hung up: {words}", fix=fix, text=text)

    async def _check(self, server: str, response: aiohttp.ClientResponse) -> None:
        """Check that the body of a response can be read.

        Raises:
            ModelRefused: the server answered with an error.
            StreamMalformed: the body is compressed.
        """
        if response.status != 200:
            raise await self._refusal(server, response)
        if coding := _coding(response):
            raise StreamMalformed(
                f"{server} compressed its answer ({coding}), which was asked for uncompressed",
                fix="Switch compression off at the model server, or at the proxy before it",
            )

    async def _refusal(self, server: str, response: aiohttp.ClientResponse) -> ModelRefused:
        status = response.status
        words = ""  # the status says enough
        if not _coding(response):
            with suppress(aiohttp.ClientError, OSError):
                body = await response.content.read(_MAX_ERROR)
                words = error_body_message(body, self._api_key)
        fixes = {
            401: f"Set {self._key_setting}",
            403: f"Set {self._key_setting} to one that may use this model",
            404: f"Check the model's name and the URL in {self._setting}, which mostly ends in /v1",
            429: "Wait, or raise the server's limits",
        }
        return ModelRefused(
            f"{server} answered with status {status}: {words}".rstrip(": "),
            status=status,
            retry_after=retry_after(response.headers),
            fix=fixes.get(status, "See the model server's log"),
        )


def _coding(response: aiohttp.ClientResponse) -> str:
    """How the body is compressed; empty where it is not."""
    named = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if named == "identity" else named[:40]


def sendable(text: str) -> str:
    """Text that JSON can carry: a lone surrogate becomes a question mark."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


async def read_whole(
    content: aiohttp.StreamReader,
    limit: int,
    *,
    begin: bytes = b"",
    progress: Callable[[], None] | None = None,
) -> bytes:
    """A body of at most `limit` bytes.

    Args:
        begin: what was read of it before.
        progress: called with every part.

    Raises:
        StreamTooLong: it has more.
    """
    parts, size = [begin], len(begin)
    async for part in content.iter_any():
        parts.append(part)
        size += len(part)
        if size > limit:
            break
        if progress is not None:
            progress()
    if size > limit:
        raise StreamTooLong(
            f"the model server's answer has more than {limit >> 20} MiB",
            fix="Check that the URL names a model's server",
        )
    return b"".join(parts)


class CallClient(ServerSetClient):
    """Requests that are answered in one piece. Safe from any thread and event loop.

    They run on an event loop of a thread of its own: the client outlives event loops and is closed
    without one.

    Args:
        settings: the timeouts, the tries and the requests at once.
        setting: that names the servers, for errors.
        max_body: bytes of an answer.
    """

    def __init__(
        self,
        name: str,
        servers: Sequence[ModelServer],
        path: str,
        settings: Remote,
        *,
        setting: str,
        max_body: int,
        tolerance: Tolerance | None = None,
    ) -> None:
        super().__init__(
            name,
            servers,
            path,
            settings,
            setting=setting,
            key_setting="remote.api_key",
            limit=call_limit,
            bound=settings.concurrency,
            timeout=aiohttp.ClientTimeout(total=settings.seconds),
            tolerance=tolerance,
        )
        self._seconds = self._longest_pause = settings.seconds
        self._persistent = True
        self._max_body = max_body
        self._closing = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"vivace-http-{path}", daemon=True
        )
        self._thread.start()

    async def call(
        self, requests: Requests[T], *, within: float | None = None, missing: str = "no answer"
    ) -> list[T]:
        """The decoded answers, in order. The first failure cancels the other requests; cancelling
        the call closes its connections.

        Args:
            within: seconds for all of it, which the deadline of the work may shorten; None is no
                limit.
            missing: what did not come where that time is over, for the error.

        Raises:
            VivaceError: of one request, see `FAILURES`; or the time is over.
            Overloaded, DeadlineExceeded: too many requests wait for a server, or too long.
        """
        future = self._submit(self._call(requests, within, missing))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise Closed(self.name) from error  # the request was cancelled, not the caller
            raise

    def call_blocking(self, body: bytes, decode: Callable[[bytes], T]) -> T:
        """The decoded answer of one request; blocks the calling thread."""
        return self._submit(self._call([(body, decode)], None, "")).result()[0]

    def close(self) -> None:
        """Close the connections and stop the thread; running calls fail. Idempotent, blocks."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        with self._closing:
            if self._closed:
                coroutine.close()
                raise Closed(self.name)
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    # -- on its own loop --------------------------------------------------------------------

    async def _call(self, requests: Requests[T], within: float | None, missing: str) -> list[T]:
        if within is None:
            return await self._all(requests)
        if (deadline := work.current().deadline) is not None:
            within = max(0.0, min(within, deadline - time.monotonic()))
        try:
            async with asyncio.timeout(within):
                return await self._all(requests)
        except TimeoutError as error:
            raise ModelTimeout(
                f"{self.name}: {missing} in {within:.3g} s",
                fix="See the model server's log, or raise remote.query_seconds",
            ) from error

    async def _all(self, requests: Requests[T]) -> list[T]:
        if len(requests) == 1:
            return [await self._one(*requests[0])]
        first: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(*request)) for request in requests]
        except* VivaceError as failed:
            first = failed.exceptions[0]
        if first is not None:  # raised in there, Python before 3.11.4 would put it into a group
            raise first from first.__cause__
        return [task.result() for task in tasks]

    async def _one(self, body: bytes, decode: Callable[[bytes], T]) -> T:
        async def attempt(lease: Lease, _first: float, _total: float) -> T:
            found = decode(await self._post(lease.server, body))
            lease.alive()
            lease.end()
            return found

        return await self._try_servers(attempt)

    async def _post(self, server: str, body: bytes) -> bytes:
        url = f"{server}/{self._path}"
        try:
            async with self.session().post(url, data=body, allow_redirects=False) as response:
                await self._check(server, response)
                return await read_whole(response.content, self._max_body)
        except TimeoutError as error:
            raise ModelTimeout(
                f"{server}: no answer in {self._seconds:g} s",
                fix="See the model server's log, or raise remote.seconds",
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._broken(server, error) from error

    async def _end(self) -> None:
        self.endpoints.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._shut_down()
