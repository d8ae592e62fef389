"""Identical requests at the same time share one stream of the model server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from vivace.errors import StreamCut, copied
from vivace.protocols import Generator
from vivace.run import work
from vivace.run.streams import LazyStream
from vivace.types import Delta, Message

AHEAD: Final = 256
"""Deltas that are read ahead of the fastest reader; then the model server has to wait."""
MOST_CHARS: Final = 1 << 20
"""Of an answer that are kept for who comes late. A longer one is shared no further, and of its
readers none may be more than so many characters behind the fastest."""
_Key: TypeAlias = tuple[tuple[Message, ...], int, float]


@dataclass(frozen=True, slots=True)
class CoalescingStatistics:
    """Since the start. `shared` requests joined a stream that another one had begun; `running`
    streams may be joined now."""

    asked: int
    shared: int
    running: int


class Coalesced:
    """A `Generator` that asks the one behind it once for requests with the same messages, most
    tokens and temperature, while the answer is being written.

    Each reader reads at its own pace, from the start; the stream ends when the last of them leaves.
    A failure reaches each of them as an error of its own. Requests with a temperature above zero
    are not shared unless `sampled`: who asks twice may want two answers. An urgent request does not
    join one that still waits with less urgent work.

    Once the first token is there, a single reader takes the deltas from the stream itself. With
    more of them a task does, so that any may leave. The generator behind has to stand being read by
    one task after another.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        sampled: bool = False,
        ahead: int = AHEAD,
        most_chars: int = MOST_CHARS,
    ) -> None:
        self.name = generator.name
        self._generator = generator
        self._sampled = sampled
        self._ahead = ahead
        self._most_chars = most_chars
        self._calls: dict[_Key, _SharedStream] = {}
        self._asked = self._shared = 0

    def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        """As `Generator.stream`. Closing it stops the work upstream, if nobody else reads it.

        Raises:
            GenerationError: see its subclasses; `StreamCut` also for a reader that is too slow for
                an answer that is too long to be kept.
            DeadlineExceeded: the reader's own deadline passed before the first token.
        """
        if temperature > 0 and not self._sampled:
            return self._generator.stream(messages, max_tokens=max_tokens, temperature=temperature)
        return self._read((tuple(messages), max_tokens, temperature))

    def statistics(self) -> CoalescingStatistics:
        return CoalescingStatistics(self._asked, self._shared, len(self._calls))

    async def close(self) -> None:
        """Close the generator behind. Idempotent."""
        await self._generator.close()

    async def _read(self, key: _Key) -> AsyncIterator[Delta]:
        while True:
            call, reader = self._join(key), _StreamReader()
            call.readers.append(reader)
            try:
                await call.enter()
                while not call.lost:
                    if reader.cut:
                        raise _too_slow(self._most_chars)
                    if reader.at < call.start + len(call.said):
                        delta = call.said[reader.at - call.start]
                        reader.at += 1
                        if reader.at > call.read:
                            call.advance(reader.at)
                        yield delta
                    elif call.error is not None:
                        raise copied(call.error)
                    elif call.ended:
                        return
                    elif call.task is None and len(call.readers) == 1:
                        taken = await call.step(reader)
                        if taken is not None:
                            yield taken
                    else:
                        await call.moved()
            finally:
                call.readers.remove(reader)
                if not call.readers:
                    self._forget(call)
                    await call.leave()

    def _join(self, key: _Key) -> _SharedStream:
        urgency = work.current().priority
        call = self._calls.get(key)
        if call is not None and (call.begun or call.priority <= urgency):
            self._shared += 1
            call.joined()
            return call
        messages, max_tokens, temperature = key
        deltas = self._generator.stream(messages, max_tokens=max_tokens, temperature=temperature)
        self._asked += 1
        call = self._calls[key] = _SharedStream(self, key, deltas, urgency)
        return call

    def _forget(self, call: _SharedStream) -> None:
        """Nobody joins it any more: it has ended, failed, grown too long, or is left."""
        if self._calls.get(call.key) is call:
            del self._calls[call.key]


@dataclass(slots=True, eq=False)
class _StreamReader:
    at: int = 0
    """Deltas it has read."""
    cut: bool = False
    """What it should read next is not kept any more."""


class _SharedStream:
    """One stream, what has come of it, and who reads it.

    Either a task takes the deltas, or the only reader does (`step`). Who joins while that one waits
    for a delta reads nothing before the task has taken over: leaves the reader in that moment, the
    stream is lost with it, and who joined begins anew.
    """

    def __init__(
        self, owner: Coalesced, key: _Key, deltas: AsyncIterator[Delta], priority: work.Priority
    ) -> None:
        self.key = key
        self.priority = priority
        self.readers: list[_StreamReader] = []
        self.said: list[Delta] = []
        self.start = 0
        """Deltas that were dropped before those of `said`."""
        self.read = 0
        """Deltas that the fastest has read."""
        self.begun = self.ended = self.lost = False
        self.error: Exception | None = None
        self._owner = owner
        self._deltas = deltas
        self._chars = 0
        self._stepping = False
        self._waiting: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._start_task()

    # -- readers --------------------------------------------------------------------------------

    async def enter(self) -> None:
        """Wait until there is something to read, and nobody who may take the stream with him.

        Raises:
            DeadlineExceeded: the reader's deadline passed before the first token.
        """
        deadline = None if self.begun else work.current().deadline
        try:
            async with asyncio.timeout_at(deadline):
                while not self.begun or (self._stepping and not self.lost):
                    await self.moved()
        except TimeoutError as error:
            raise work.too_late(self._owner.name) from error

    def joined(self) -> None:
        """A further reader is about to come."""
        if self.begun and not self.ended and self.task is None and not self._stepping:
            self._start_task()

    async def moved(self) -> None:
        """Wait for the next delta, the end, or a change of who reads."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future in self._waiting:
                self._waiting.remove(future)
            raise

    async def step(self, reader: _StreamReader) -> Delta | None:
        """The next delta, which the only reader takes himself; None at the end."""
        self._stepping = True
        try:
            delta = await self._deltas.__anext__()
        except StopAsyncIteration:
            self._end(None)
            return None
        except Exception as error:
            self._end(error)
            return None
        except BaseException:  # cancelled, and the stream with it
            self.lost = True
            self._owner._forget(self)
            raise
        else:
            self.said.append(delta)
            reader.at += 1
            self.read += 1
            self._chars += len(delta.text)
            if self._chars > self._owner._most_chars:
                self._drop()
            return delta
        finally:
            self._stepping = False
            if len(self.readers) > 1:
                if not (self.ended or self.lost):
                    self._start_task()
                self._wake()

    def advance(self, read: int) -> None:
        """The fastest reader has read so many."""
        self.read = read
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def leave(self) -> None:
        """The last reader has left: end the stream."""
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if isinstance(self._deltas, AsyncGenerator | LazyStream):
            await self._deltas.aclose()

    # -- the stream -----------------------------------------------------------------------------

    def _start_task(self) -> None:
        with work.shared():
            self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while not (self.ended or (self.begun and len(self.readers) == 1)):
                if self.start + len(self.said) - self.read >= self._owner._ahead:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
                    continue
                self._take(await self._deltas.__anext__())
        except StopAsyncIteration:
            self._end(None)
        except Exception as error:
            self._end(error)
        except asyncio.CancelledError:
            # by the last reader; else the event loop is closed, and nobody shall wait for ever
            self._end(StreamCut(f"{self._owner.name}: its event loop was closed"))
            raise
        finally:
            self.task = None
            self._wake()

    def _take(self, delta: Delta) -> None:
        self.said.append(delta)
        self.begun = True
        self._chars += len(delta.text)
        if self._chars > self._owner._most_chars:
            self._drop()
        if self._waiting:
            self._wake()

    def _end(self, error: Exception | None) -> None:
        self.begun = self.ended = True
        self.error = error
        self._owner._forget(self)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _drop(self) -> None:
        """Keep no more than may be kept: what all have read is dropped, then the slowest are."""
        self._owner._forget(self)
        while self._chars > self._owner._most_chars:
            kept = [reader.at for reader in self.readers if not reader.cut]
            first = min(kept, default=self.start + len(self.said))
            if first == self.start:
                if first >= self.read:  # all that is kept is still to be read by the fastest
                    return
                for reader in self.readers:
                    reader.cut = reader.cut or reader.at == first
                continue
            gone = first - self.start
            self._chars -= sum(len(delta.text) for delta in self.said[:gone])
            del self.said[:gone]
            self.start = first


def _too_slow(most: int) -> StreamCut:
    return StreamCut(
        f"this reader of a shared answer was more than {most:,} characters behind the fastest",
        fix="Read faster, or ask for fewer tokens",
    )
