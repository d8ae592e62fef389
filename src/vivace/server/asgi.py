"""Reading and answering a request without a framework's objects."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.types import Receive, Send

from vivace.server.errors import BadRequest, ClientGone

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]


async def read(receive: Receive, decoder: msgspec.json.Decoder[T]) -> T:
    """The request's body as the decoder's type. `body.BodyLimit` has bounded its size.

    Raises:
        BadRequest: it is no JSON, or not of that type; names the field.
        ClientGone: the client left before it had sent everything.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or None
        what = f"{param}: {text}" if param else text
        raise BadRequest(what, fix="See the server's /openapi.json", param=param) from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply", fix="Flatten it") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is no JSON: {error}", fix="Send one JSON object") from error


async def send_json(
    send: Send, body: bytes, status: int = 200, headers: Headers | None = None
) -> None:
    """A whole response. `headers` are added."""
    await send_whole(send, body, b"application/json", status, headers)


async def send_whole(
    send: Send, body: bytes, kind: bytes, status: int = 200, headers: Headers | None = None
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", kind),
                (b"content-length", b"%d" % len(body)),
                *(headers or ()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
