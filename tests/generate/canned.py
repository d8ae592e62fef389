"""A server that says what it is told to, byte by byte, on the test's own event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from vivace.generate.openai import OpenAI
from vivace.run.model_servers import ModelServer
from vivace.settings import Generate
from vivace.types import Delta, Message

Reply: TypeAlias = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Canned:
    """Answers connection n with reply n, the last one again and again; keeps the requests."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                int(line.split(":")[1])
                for line in head.lower().splitlines()
                if line.startswith("content-length:")
            )
            self.headers.append(head)
            self.requests.append(json.loads(await reader.readexactly(length)))
            reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
            if isinstance(reply, bytes):
                writer.write(reply)
                await writer.drain()
            else:
                await reply(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def canned(*replies: Reply) -> AsyncIterator[Canned]:
    server = Canned(*replies)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    server.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield server
    finally:
        listening.close()
        await listening.wait_closed()


@asynccontextmanager
async def client(
    server: Canned, *, streaming: bool = True, **settings: Any
) -> AsyncIterator[OpenAI]:
    settings = {"retries": 0, **settings}
    model = OpenAI(ModelServer("m", server.url), Generate(**settings), streaming=streaming)
    try:
        yield model
    finally:
        await model.close()


async def deltas(model: OpenAI, *, max_tokens: int = 100) -> list[Delta]:
    asked = [Message("user", "hello \ud800")]
    return [d async for d in model.stream(asked, max_tokens=max_tokens, temperature=0.5)]


def chunk(text: object = None, **choice: Any) -> bytes:
    value = {"choices": [{"index": 0, "delta": {"content": text}, **choice}]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def refused(status: int, body: str = "", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} No", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


DONE = b"data: [DONE]\n\n"
END = chunk(None, finish_reason="stop")
