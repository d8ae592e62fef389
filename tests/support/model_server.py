"""A model server for tests of HTTP clients: chat, embeddings and rerank, right or as scripted."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self, TypeAlias

WAIT: Final = 10.0
"""Seconds that a test waits for what should happen at once, on a busy machine."""
DIM: Final = 4


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    status: int = 200
    body: str | bytes | None = None
    """None is a right answer with status 200, else a message."""
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes = b""
    """Sent in place of a response; then the connection is closed."""
    cut: bool = False
    """The connection is closed without a word."""
    hang: bool = False
    """Nothing is sent until the client closes the connection."""


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Answer: TypeAlias = Callable[[dict[str, Any]], Any]
"""The JSON, or the bytes, that answer a request's JSON."""


class ModelServerDouble:
    """Answers request n with reply n of `replies`; right where there is none left.

    `answer`, where it is set, makes the right answers. Use it as a context manager.
    """

    def __init__(self, *replies: Reply, always: Reply | None = None) -> None:
        self.replies = list(replies)
        self.always = always
        """The reply where none of `replies` is left."""
        self.answer: Answer | None = None
        self.requests: list[Received] = []
        self.running = 0
        self.most_running = 0
        self.connections = 0
        self.opened = 0
        """Connections, since the start."""
        self.given_up = 0
        """Requests whose client closed the connection while the server hung."""
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._stopped = False
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def wait(self, until: Callable[[Self], bool]) -> None:
        """Block until the server is so.

        Raises:
            TimeoutError: it is not, in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: until(self), WAIT):
                raise TimeoutError(f"{self.running} run, {len(self.requests)} came")

    def stop(self) -> None:
        """Stop listening; requests to the URL are refused from now on. Idempotent."""
        if not self._stopped:
            self._stopped = True
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- of the handler's threads ---------------------------------------------------------------

    def changed(self, **by: int) -> None:
        """Add to counters."""
        with self._changed:
            for name, more in by.items():
                setattr(self, name, getattr(self, name) + more)
            self.most_running = max(self.most_running, self.running)
            self._changed.notify_all()

    def next_reply(self, received: Received) -> Reply:
        with self._changed:
            self.requests.append(received)
            self._changed.notify_all()
            if self.replies:
                return self.replies.pop(0)
            return self.always or Reply()

    def body_of(self, received: Received) -> bytes:
        answer = self.answer or _RIGHT[received.path.removeprefix("/v1/")]
        found = answer(received.body)
        return found if isinstance(found, bytes) else json.dumps(found).encode()


def chat(body: dict[str, Any]) -> Any:
    """One token, `yes`, and the end; in a stream or whole, as the request says."""
    if not body.get("stream"):
        return {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
    pieces = [{"delta": {"content": "yes"}}, {"delta": {}, "finish_reason": "stop"}]
    events = [f"data: {json.dumps({'choices': [piece]})}\n\n" for piece in pieces]
    return "".join([*events, "data: [DONE]\n\n"]).encode()


def embeddings(body: dict[str, Any]) -> Any:
    """(1, 1, 1, 1) for every text, as base64."""
    row = base64.b64encode(struct.pack(f"<{DIM}f", *[1.0] * DIM)).decode()
    return {"data": [{"index": at, "embedding": row} for at in range(len(body["input"]))]}


def rerank(body: dict[str, Any]) -> Any:
    """The number of words that a document shares with the question; the best first."""
    words = set(body["query"].split())
    texts = body["texts"] if "texts" in body else body["documents"]
    rows = [
        {"index": at, "relevance_score": float(len(words & set(text.split())))}
        for at, text in enumerate(texts)
    ]
    rows.sort(key=lambda row: -row["relevance_score"])
    if "texts" in body:  # text-embeddings-inference
        return [{"index": row["index"], "score": row["relevance_score"]} for row in rows]
    return {"model": body["model"], "results": rows}


_RIGHT: Final[dict[str, Answer]] = {
    "chat/completions": chat,
    "embeddings": embeddings,
    "rerank": rerank,
}


def _handler_of(server: ModelServerDouble) -> type[BaseHTTPRequestHandler]:
    class Connection(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            server.changed(connections=1, opened=1)

        def finish(self) -> None:
            server.changed(connections=-1)
            super().finish()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received = Received(self.path, dict(self.headers), body)
            server.changed(running=1)
            try:
                self._reply(server.next_reply(received), received)
            except OSError:
                self.close_connection = True  # the client closed the connection
            finally:
                server.changed(running=-1)

        def do_GET(self) -> None:
            self.send_error(404)

        def _reply(self, reply: Reply, received: Received) -> None:
            if reply.hang:
                self.connection.settimeout(WAIT)
                if self.connection.recv(1) == b"":
                    server.changed(given_up=1)
            if reply.hang or reply.cut or reply.raw:
                self.wfile.write(reply.raw)
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            body = reply.body
            if body is None:
                body = server.body_of(received) if reply.status == 200 else "scripted to refuse"
            data = body.encode() if isinstance(body, str) else body
            streamed = bool(received.body.get("stream")) and reply.status == 200
            self.send_response(reply.status)
            self.send_header(
                "Content-Type", "text/event-stream" if streamed else "application/json"
            )
            self.send_header("Content-Length", str(len(data)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    return Connection
