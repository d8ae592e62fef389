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
"""Deltas read ahead of the fastest reader; with more, the model server has to wait."""
MOST_CHARS: Final = 1 << 20
"""Of an answer, kept for readers that join late. A longer answer takes no further readers, and a
reader that is more than so many characters behind the fastest is cut off."""
_Key: TypeAlias = tuple[tuple[Message, ...], int, float]


class Coalesced:
    """A `Generator` in front of another: requests with the same messages, `max_tokens` and
    temperature share one upstream request while its answer is being written.

    Each reader reads at its own pace, from the start; the stream ends when the last reader leaves.
    A failure reaches each reader as an error object of its own. Requests with a temperature above
    zero are not shared unless `sampled`: a caller that asks twice may want two answers. An urgent
    request does not join one that still waits as less urgent work.

    Once the first token is there, a single reader takes the deltas from the stream itself. For more
    readers a task does, so that any of them may leave. The generator behind has to allow being read
    by one task after another.
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
        self.ahead = ahead
        self.most_chars = most_chars
        self._generator = generator
        self._sampled = sampled
        self._streams: dict[_Key, _SharedStream] = {}

    def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float
    ) -> AsyncIterator[Delta]:
        """As `Generator.stream`. Closing it ends the upstream request, unless others read it.

        Raises:
            GenerationError: see its subclasses; `StreamCut` also for a reader that is too slow for
                an answer that is too long to be kept.
            DeadlineExceeded: the reader's own deadline passed before the first token.
        """
        if temperature > 0 and not self._sampled:
            return self._generator.stream(messages, max_tokens=max_tokens, temperature=temperature)
        return self._read((tuple(messages), max_tokens, temperature))

    async def close(self) -> None:
        """Close the generator behind. Idempotent."""
        await self._generator.close()

    async def _read(self, key: _Key) -> AsyncIterator[Delta]:
        while True:
            stream, reader = self._join(key), _StreamReader()
            stream.readers.append(reader)
            try:
                await stream.wait_for_start()
                while not stream.lost:
                    if reader.cut:
                        raise _too_slow(self.most_chars)
                    if reader.at < stream.start + len(stream.deltas):
                        delta = stream.deltas[reader.at - stream.start]
                        reader.at += 1
                        if reader.at > stream.read:
                            stream.advance(reader.at)
                        yield delta
                    elif stream.error is not None:
                        raise copied(stream.error)
                    elif stream.ended:
                        return
                    elif stream.task is None and len(stream.readers) == 1:
                        taken = await stream.step(reader)
                        if taken is not None:
                            yield taken
                    else:
                        await stream.changed()
            finally:
                stream.readers.remove(reader)
                if not stream.readers:
                    self.forget(stream)
                    await stream.close()

    def _join(self, key: _Key) -> _SharedStream:
        priority = work.current().priority
        stream = self._streams.get(key)
        if stream is not None and (stream.begun or stream.priority <= priority):
            stream.joined()
            return stream
        messages, max_tokens, temperature = key
        deltas = self._generator.stream(messages, max_tokens=max_tokens, temperature=temperature)
        stream = self._streams[key] = _SharedStream(self, key, deltas, priority)
        return stream

    def forget(self, stream: _SharedStream) -> None:
        """Let nobody join it any more: it ended, failed, grew too long, or has no reader."""
        if self._streams.get(stream.key) is stream:
            del self._streams[stream.key]


@dataclass(slots=True, eq=False)
class _StreamReader:
    at: int = 0
    """Deltas it has read."""
    cut: bool = False
    """Its next delta is not kept any more."""


class _SharedStream:
    """One upstream stream, the deltas that came of it, and its readers.

    Either a task takes the deltas, or the only reader does (`step`). A reader that joins while that
    one waits for a delta reads nothing before the task has taken over: should the only reader leave
    at that moment, the stream is lost with it, and the reader that joined asks again.
    """

    def __init__(
        self, owner: Coalesced, key: _Key, upstream: AsyncIterator[Delta], priority: work.Priority
    ) -> None:
        self.key = key
        self.priority = priority
        self.readers: list[_StreamReader] = []
        self.deltas: list[Delta] = []
        self.start = 0
        """Number of deltas dropped from the front of `deltas`."""
        self.read = 0
        """Deltas that the fastest reader has read."""
        self.begun = self.ended = self.lost = False
        self.error: Exception | None = None
        self._owner = owner
        self._upstream = upstream
        self._chars = 0
        self._stepping = False
        self._waiting: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._start_task()

    # -- readers --------------------------------------------------------------------------------

    async def wait_for_start(self) -> None:
        """Wait until there is something to read, and no reader that may take the stream with it.

        Raises:
            DeadlineExceeded: the reader's deadline passed before the first token.
        """
        deadline = None if self.begun else work.current().deadline
        try:
            async with asyncio.timeout_at(deadline):
                while not self.begun or (self._stepping and not self.lost):
                    await self.changed()
        except TimeoutError as error:
            raise work.too_late(self._owner.name) from error

    def joined(self) -> None:
        """A further reader is about to come."""
        if self.begun and not self.ended and self.task is None and not self._stepping:
            self._start_task()

    async def changed(self) -> None:
        """Wait for the next delta, the end, or a change of who takes the deltas."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future in self._waiting:
                self._waiting.remove(future)
            raise

    async def step(self, reader: _StreamReader) -> Delta | None:
        """The next delta, taken by the only reader itself; None at the end."""
        self._stepping = True
        try:
            delta = await self._upstream.__anext__()
        except StopAsyncIteration:
            self._end(None)
            return None
        except Exception as error:
            self._end(error)
            return None
        except BaseException:  # cancelled, and the stream with it
            self.lost = True
            self._owner.forget(self)
            raise
        else:
            reader.at += 1
            self.read += 1
            self._keep(delta)
            return delta
        finally:
            self._stepping = False
            if len(self.readers) > 1:
                if not (self.ended or self.lost):
                    self._start_task()
                self._wake()

    def advance(self, read: int) -> None:
        """The fastest reader has read so many deltas."""
        self.read = read
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def close(self) -> None:
        """End the stream; its last reader has left."""
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if isinstance(self._upstream, AsyncGenerator | LazyStream):
            await self._upstream.aclose()

    # -- the stream -----------------------------------------------------------------------------

    def _start_task(self) -> None:
        with work.shared():
            self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while not (self.ended or (self.begun and len(self.readers) == 1)):
                if self.start + len(self.deltas) - self.read >= self._owner.ahead:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
                    continue
                self._keep(await self._upstream.__anext__())
                self.begun = True
                if self._waiting:
                    self._wake()
        except StopAsyncIteration:
            self._end(None)
        except Exception as error:
            self._end(error)
        except asyncio.CancelledError:
            # by the last reader; else the event loop is closed, and no reader may wait for ever
            self._end(StreamCut(f"{self._owner.name}: its event loop was closed"))
            raise
        finally:
            self.task = None
            self._wake()

    def _end(self, error: Exception | None) -> None:
        self.begun = self.ended = True
        self.error = error
        self._owner.forget(self)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _keep(self, delta: Delta) -> None:
        """Keep the delta. Of too many characters, the deltas that all have read are dropped first,
        then the slowest readers are cut off."""
        self.deltas.append(delta)
        self._chars += len(delta.text)
        if self._chars <= self._owner.most_chars:
            return
        self._owner.forget(self)
        while self._chars > self._owner.most_chars:
            kept = [reader.at for reader in self.readers if not reader.cut]
            first = min(kept, default=self.start + len(self.deltas))
            if first == self.start:
                if first >= self.read:  # the fastest has yet to read all that is kept
                    return
                for reader in self.readers:
                    reader.cut = reader.cut or reader.at == first
                continue
            gone = first - self.start
            self._chars -= sum(len(delta.text) for delta in self.deltas[:gone])
            del self.deltas[:gone]
            self.start = first


def _too_slow(most: int) -> StreamCut:
    return StreamCut(
        f"this reader of a shared answer was more than {most:,} characters behind the fastest",
        fix="Read faster, or ask for fewer tokens",
    )
