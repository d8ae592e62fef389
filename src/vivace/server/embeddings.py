"""POST /v1/embeddings: the engine's own embedder, on OpenAI's wire."""

from __future__ import annotations

import asyncio
import base64

import msgspec
import numpy as np
from starlette.types import Receive, Scope, Send

from vivace.server.asgi import read, send_json
from vivace.server.disconnect import Attended
from vivace.server.errors import BadRequest
from vivace.server.served import Served
from vivace.server.wire import Embedding, EmbeddingsRequest, EmbeddingsResponse, EmbeddingsUsage
from vivace.types import Vectors

_DECODER = msgspec.json.Decoder(EmbeddingsRequest)
MOST_TEXTS = 2048
"""As OpenAI's."""


class Embeddings:
    """An ASGI application. Every model name that is served names the one embedder."""

    path = "/v1/embeddings"

    def __init__(self, served: Served) -> None:
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await read(receive, _DECODER)
        embedder = self._served.engine.embedder
        if request.model != embedder.name:
            self._served.collection(request.model)
        wanted = texts(request)
        if request.dimensions not in (None, embedder.dim):
            raise BadRequest(
                f"dimensions: the embedder's vectors have {embedder.dim}",
                fix=f"Leave it out, or ask for {embedder.dim}",
                param="dimensions",
            )
        async with Attended(receive):
            # passages wait for questions: bulk work does not hold up a search
            embedded = await embedder.embed(wanted, kind=request.input_type or "passage")
            tokens = sum(await asyncio.to_thread(embedder.count_tokens, wanted))
        data = encoded(embedded.vectors, as_base64=request.encoding_format == "base64")
        usage = EmbeddingsUsage(tokens, tokens)
        body = msgspec.json.encode(EmbeddingsResponse(data, request.model, usage))
        await send_json(send, body)


def texts(request: EmbeddingsRequest) -> list[str]:
    """The texts of a request.

    Raises:
        BadRequest: none, too many, an empty one, or token ids.
    """
    given = [request.input] if isinstance(request.input, str) else request.input
    wanted = [text for text in given if isinstance(text, str)]
    if len(wanted) < len(given):
        raise BadRequest(
            "input: token ids cannot be read here",
            fix="Send texts; with LangChain's OpenAIEmbeddings, check_embedding_ctx_length=False",
            param="input",
        )
    if not 1 <= len(wanted) <= MOST_TEXTS:
        raise BadRequest(
            f"input: {len(wanted):,} texts", fix=f"Send 1 to {MOST_TEXTS:,}", param="input"
        )
    if not all(text.strip() for text in wanted):
        raise BadRequest("input: a text is empty", fix="Leave it out", param="input")
    return wanted


def encoded(vectors: Vectors, *, as_base64: bool) -> list[Embedding]:
    """Rows as numbers or as base64 of little-endian float32."""
    if not as_base64:
        return [Embedding(number, row) for number, row in enumerate(vectors.tolist())]
    rows = np.ascontiguousarray(vectors, "<f4")
    return [
        Embedding(number, base64.b64encode(row.data).decode("ascii"))
        for number, row in enumerate(rows)
    ]
