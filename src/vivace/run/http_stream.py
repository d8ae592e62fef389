"""Streamed answers over HTTP: the first-byte rule, and the clocks of an answer that has begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import Final, Literal, TypeAlias

import aiohttp

from vivace.errors import GenerationError, ModelTimeout, StreamEmpty, StreamStalled, VivaceError
from vivace.run.balance import Lease
from vivace.run.breaker import Tolerance
from vivace.run.endpoints import stream_limit
from vivace.run.http import ServerSetClient, read_whole
from vivace.run.model_servers import ModelServer
from vivace.settings import Generate

Expired: TypeAlias = Literal["", "first", "between", "total"]
_LINGER: Final = 0.25
"""Seconds that a finished stream is given to end, so that its connection can be used again."""


class OpenStream:
    """One answer: its bytes, its clocks, its lease. Close it.

    `read` gives the next bytes, b"" at the end. It raises `aiohttp.ClientError` or `OSError`, which
    `interrupted` explains: the connection ended, or a clock closed it.

    The clocks cost a comparison a token in place of a timer a token. The time between tokens does
    not run while `reading` is False: a slow caller is not a slow server. The total time always
    runs. Times are of the event loop's clock.
    """

    __slots__ = (
        "_client",
        "_due",
        "_loop",
        "_response",
        "_timer",
        "_total",
        "content_type",
        "data",
        "expired",
        "lease",
        "read",
        "reading",
    )

    def __init__(
        self,
        client: StreamClient,
        response: aiohttp.ClientResponse,
        lease: Lease,
        first: float,
        total: float,
    ) -> None:
        self._client = client
        self._response = response
        self.lease = lease
        self.content_type = response.content_type
        self.read = response.content.readany
        self.data = b""
        """The first bytes of the body."""
        self.reading = True
        self.expired: Expired = ""
        """The clock that closed the connection."""
        self._due = first
        self._total = total
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_at(min(first, total), self._check, "first")

    def progress(self) -> None:
        """A token came."""
        self._due = self._loop.time() + self._client.between_seconds

    def started(self) -> None:
        """The first token came: from now on the time between two of them counts."""
        self.progress()
        self._timer.cancel()
        due = min(self._due, self._total)
        self._timer = self._loop.call_at(due, self._check, "between")

    async def whole(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes.

        Raises:
            StreamTooLong: it has more.
        """
        self.started()
        content = self._response.content
        return await read_whole(content, limit, begin=self.data, progress=self.progress)

    async def drain(self) -> None:
        """Read the end of a stream that has said all, or leave its connection to be closed."""
        if self._response.content.at_eof():
            return
        try:
            async with asyncio.timeout(_LINGER):
                while await self.read():
                    pass
        except (TimeoutError, aiohttp.ClientError, OSError):
            return

    def interrupted(self, error: Exception, text: str = "") -> GenerationError:
        """Why `read` failed, after this text: a clock, or the connection."""
        return self._client.interruption(self.lease.server, self.expired, error, text)

    def disconnect(self) -> None:
        """Close the connection, unless the body was read to its end."""
        self._timer.cancel()
        self._response.close()

    def close(self) -> None:
        """Disconnect and end the lease."""
        self.disconnect()
        self.lease.end()

    def _check(self, clock: Expired) -> None:
        now = self._loop.time()
        if now < self._total:
            if not self.reading:
                self.progress()
            if now < self._due:
                self._timer = self._loop.call_at(min(self._due, self._total), self._check, clock)
                return
        self.expired = "total" if now >= self._total else clock
        self._response.close()


class StreamClient(ServerSetClient):
    """Requests that are answered in a stream of tokens. Used on one event loop.

    Whatever fails before the first byte of an answer may be tried again, on another server where
    there is one; nothing after it is.
    """

    def __init__(
        self,
        name: str,
        servers: Sequence[ModelServer],
        path: str,
        settings: Generate,
        *,
        tolerance: Tolerance | None = None,
    ) -> None:
        connect = settings.connect_seconds
        super().__init__(
            name,
            servers,
            path,
            settings,
            setting="generate.model",
            key_setting="generate.api_key",
            limit=stream_limit,
            bound=settings.connections,
            # the stream keeps the other times
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect),
            tolerance=tolerance,
        )
        self._connect_seconds = connect
        self._first_seconds = settings.first_token_seconds
        self._total_seconds = settings.total_seconds
        self.between_seconds = settings.between_seconds

    async def open(
        self,
        body: Callable[[Lease], bytes],
        adapt: Callable[[str, VivaceError], bool],
    ) -> OpenStream:
        """An answer whose first bytes have come.

        Args:
            body: makes the request for the server of a lease.
            adapt: whether the server will take the request after this error.

        Raises:
            VivaceError: nothing came, after all tries; see `FAILURES`.
            Overloaded, DeadlineExceeded: too many requests wait for a server, or too long.
        """

        async def attempt(lease: Lease, first: float, total: float) -> OpenStream:
            stream = await self._begin(lease, body(lease), first, total)
            lease.alive()
            return stream

        return await self._try_servers(attempt, adapt)

    async def close(self) -> None:
        """Refuse waiting and later requests and close every connection. Idempotent."""
        await self._shut_down()

    def interruption(
        self, server: str, expired: Expired, error: Exception, text: str = ""
    ) -> GenerationError:
        """The error of an answer whose connection broke, or was closed by this clock."""
        if expired == "between":
            return StreamStalled(
                f"{server}: no token for {self.between_seconds:g} s",
                fix="Raise generate.between_seconds, or see the model server's log",
                text=text,
            )
        if expired:
            return self._late(server, whole=expired == "total", text=text)
        return self._broken(server, error, text)

    def _late(self, server: str, *, whole: bool, text: str = "") -> ModelTimeout:
        """The error of a stream whose first token, or end, did not come in time."""
        what, name = ("whole answer", "total") if whole else ("first token", "first_token")
        seconds = self._total_seconds if whole else self._first_seconds
        return ModelTimeout(
            f"{server}: no {what} within {seconds:g} s",
            fix=f"Raise generate.{name}_seconds, or use a faster model",
            text=text,
        )

    async def _lease(self, tried: set[str], first: float, total: float) -> Lease:
        if first == inf:
            return await super()._lease(tried, first, total)
        try:
            async with asyncio.timeout_at(min(first, total)):
                return await super()._lease(tried, first, total)
        except TimeoutError as error:
            raise self._late(self.name, whole=total <= first) from error

    async def _begin(self, lease: Lease, body: bytes, first: float, total: float) -> OpenStream:
        loop = asyncio.get_running_loop()
        session, server = self.session(), lease.server
        url = f"{server}/{self._path}"
        try:
            async with asyncio.timeout_at(min(first, total)):
                response = await session.post(url, data=body, allow_redirects=False)
        except aiohttp.ConnectionTimeoutError as error:
            why = f"no connection within {self._connect_seconds:g} s"
            raise self._unreachable(server, why) from error
        except TimeoutError as error:
            raise self._late(server, whole=loop.time() >= total) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._broken(server, error) from error
        stream = OpenStream(self, response, lease, first, total)
        try:
            await self._check(server, response)
            # until its first byte the server may fail, and be asked again
            stream.data = await stream.read()
            if not stream.data:
                raise StreamEmpty(f"{url} answered nothing", fix="See the model server's log")
            return stream
        except BaseException as error:
            stream.disconnect()
            if not isinstance(error, aiohttp.ClientError | OSError):
                raise
            raise stream.interrupted(error) from error
