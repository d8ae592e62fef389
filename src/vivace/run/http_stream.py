"""Streamed answers over HTTP: the first-byte rule, and the clocks of an answer that has begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import aiohttp

from vivace.run.balance import Lease
from vivace.run.endpoints import stream_limit
from vivace.run.http import ServerSet, ServerSetClient, read_whole
from vivace.run.retry import Again, FailureKind, RequestFailure, blame

_LINGER: Final = 0.25
"""Seconds that a finished stream is given to end, so that its connection can be used again."""
Expired: TypeAlias = Literal["", "first", "between", "total"]


class StreamClock:
    """Watches the time of one answer, for a comparison a token in place of a timer a token.

    Calls `stop` once when a time is over and says which in `expired`. The time between tokens does
    not run while the reader is away (`reading` is False): a slow caller is not a slow server. The
    total time always runs. All times are of the event loop's clock.
    """

    __slots__ = ("_between", "_due", "_loop", "_stop", "_timer", "_total", "expired", "reading")

    def __init__(
        self, stop: Callable[[], None], *, first: float, between: float, total: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        self._between = between
        self._total = total
        self._due = first
        self.reading = True
        self.expired: Expired = ""
        self._timer = self._loop.call_at(min(first, total), self._check, "first")

    def progress(self) -> None:
        """A token came."""
        self._due = self._loop.time() + self._between

    def started(self) -> None:
        """The first token came: from now on the time between two of them counts."""
        self.progress()
        self._timer.cancel()
        self._timer = self._loop.call_at(min(self._due, self._total), self._check, "between")

    def cancel(self) -> None:
        self._timer.cancel()

    def _check(self, which: Expired) -> None:
        now = self._loop.time()
        if now < self._total:
            if not self.reading:
                self.progress()
            if now < self._due:
                due = min(self._due, self._total)
                self._timer = self._loop.call_at(due, self._check, which)
                return
        self.expired = "total" if now >= self._total else which
        self._stop()


class OpenStream:
    """An answer that has begun, from its first bytes on. Close it.

    `read` gives the next bytes, b"" at the end; it raises `aiohttp.ClientError` or `OSError`, whose
    meaning `interrupted` knows.
    """

    __slots__ = ("_client", "_response", "clock", "content_type", "data", "lease", "read")

    def __init__(
        self,
        client: StreamClient,
        response: aiohttp.ClientResponse,
        clock: StreamClock,
        data: bytes,
        lease: Lease,
    ) -> None:
        self._client = client
        self._response = response
        self.clock = clock
        self.content_type = response.content_type
        self.data = data
        """The first bytes of the body."""
        self.lease = lease
        self.read = response.content.readany

    async def whole(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes.

        Raises:
            RequestFailure: it has more.
        """
        self.clock.started()
        content, progress = self._response.content, self.clock.progress
        return await read_whole(content, limit, begin=self.data, progress=progress)

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

    def interrupted(self, error: Exception) -> RequestFailure:
        """Why reading failed: a clock, or the connection. It is recorded against the server."""
        failure = self._client.interruption(self.clock, error)
        failure.server = self.lease.server
        blame(self.lease, failure.what)
        return failure

    def close(self) -> None:
        """Close the connection, unless the body was read to its end, and end the lease."""
        self.clock.cancel()
        self._response.close()
        self.lease.end()


class StreamClient(ServerSetClient):
    """Requests that are answered in a stream of tokens. Used on one event loop.

    Whatever fails before the first byte of an answer may be tried again, on another server where
    there is one; nothing after it is.

    Args:
        connect, first, between, total: seconds for connecting, for the first token of each try,
            between two tokens, and for the answer with all tries.
    """

    def __init__(
        self,
        server_set: ServerSet,
        *,
        connect: float,
        first: float,
        between: float,
        total: float,
    ) -> None:
        # the stream's clock keeps the other times
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect)
        # a compressed stream comes in blocks, not in tokens
        headers = {"Accept-Encoding": "identity"}
        super().__init__(server_set, stream_limit, timeout, headers)
        self._connect_seconds = connect
        self._first_seconds = first
        self._between_seconds = between
        self._total_seconds = total

    async def open(
        self,
        body: Callable[[Lease], bytes],
        adapt: Callable[[str, RequestFailure], bool],
    ) -> OpenStream:
        """An answer whose first bytes have come.

        Args:
            body: makes the request for the server of a lease.
            adapt: whether the server will take the request after this failure.

        Raises:
            RequestFailure: nothing came, after all tries.
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

    def interruption(self, clock: StreamClock, error: Exception) -> RequestFailure:
        """The failure of an answer that had begun, of this clock."""
        if clock.expired == "between":
            what = f"no token for {self._between_seconds:g} s"
            return RequestFailure(FailureKind.STALLED, what)
        if clock.expired:
            return self._late(whole=clock.expired == "total")
        return self._broken(error)

    async def _begin(self, lease: Lease, body: bytes, first: float, total: float) -> OpenStream:
        loop = asyncio.get_running_loop()
        session = self.session()
        url = f"{lease.server}/{self._path}"
        try:
            async with asyncio.timeout_at(min(first, total)):
                response = await session.post(url, data=body, allow_redirects=False)
        except aiohttp.ConnectionTimeoutError as error:
            what = f"cannot be reached: no connection within {self._connect_seconds:g} s"
            raise RequestFailure(FailureKind.UNREACHABLE, what, again=Again.YES) from error
        except TimeoutError as error:
            raise self._late(whole=loop.time() >= total) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._broken(error, before="hung up before the first byte: ") from error
        clock = StreamClock(response.close, first=first, between=self._between_seconds, total=total)
        try:
            if response.status != 200:
                raise await self._refusal(response)
            # until its first byte the server may fail, and be asked again
            data = await response.content.readany()
            if not data:
                raise RequestFailure(FailureKind.EMPTY, "answered nothing")
            return OpenStream(self, response, clock, data, lease)
        except BaseException as error:
            clock.cancel()
            response.close()
            if not isinstance(error, aiohttp.ClientError | OSError):
                raise
            if clock.expired:
                raise self._late(whole=clock.expired == "total") from error
            raise self._broken(error, before="hung up before the first byte: ") from error
