"""POST /v1/search and POST /v1/embeddings: passages, and vectors of the engine's embedder."""

from __future__ import annotations

import asyncio
import base64

import msgspec
import numpy as np
from starlette.types import Receive, Scope, Send

from vivace.server.asgi import CancelOnDisconnect, decode_filters, decode_json, send_json
from vivace.server.body import BODY
from vivace.server.errors import BadRequest
from vivace.server.state import AppState
from vivace.server.wire import (
    Embedding,
    EmbeddingsRequest,
    EmbeddingsResponse,
    EmbeddingsUsage,
    SearchRequest,
    search_response,
)
from vivace.types import Query, Vectors

_SEARCH = msgspec.json.Decoder(SearchRequest)
_EMBEDDINGS = msgspec.json.Decoder(EmbeddingsRequest)
MOST_TEXTS = 2048
"""Texts in one request, as at OpenAI."""


class SearchRoute:
    """ASGI application of POST /v1/search."""

    path = "/v1/search"

    def __init__(self, state: AppState) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = decode_json(scope.pop(BODY), _SEARCH)
        collection = self._state.collection(request.model)
        filters = decode_filters(request.filters)
        query = Query(request.query, request.k, filters, request.min_score)
        async with CancelOnDisconnect(receive):
            result = await collection.search(query)
        await send_json(send, msgspec.json.encode(search_response(result)))


class EmbeddingsRoute:
    """ASGI application of POST /v1/embeddings. Every served model name means the one embedder."""

    path = "/v1/embeddings"

    def __init__(self, state: AppState) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = decode_json(scope.pop(BODY), _EMBEDDINGS)
        embedder = self._state.engine.resources.embedder
        if request.model != embedder.name:
            self._state.collection(request.model)
        texts = _texts(request)
        if request.dimensions not in (None, embedder.dim):
            raise BadRequest(
                f"dimensions: the embedder's vectors have {embedder.dim}",
                fix=f"Leave it out, or ask for {embedder.dim}",
                param="dimensions",
            )
        async with CancelOnDisconnect(receive):
            # passages have a lower priority than questions: bulk work does not delay a search
            embedded = await embedder.embed(texts, kind=request.input_type or "passage")
            tokens = sum(await asyncio.to_thread(embedder.count_tokens, texts))
        data = _encoded(embedded.vectors, as_base64=request.encoding_format == "base64")
        usage = EmbeddingsUsage(tokens, tokens)
        body = msgspec.json.encode(EmbeddingsResponse(data, request.model, usage))
        await send_json(send, body)


def _texts(request: EmbeddingsRequest) -> list[str]:
    """The texts of a request.

    Raises:
        BadRequest: there are none or too many, one is empty, or they are token ids.
    """
    given = [request.input] if isinstance(request.input, str) else request.input
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        raise BadRequest(
            "input: token ids cannot be read here",
            fix="Send texts; with LangChain's OpenAIEmbeddings, check_embedding_ctx_length=False",
            param="input",
        )
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise BadRequest(
            f"input: {len(texts):,} texts", fix=f"Send 1 to {MOST_TEXTS:,}", param="input"
        )
    if not all(text.strip() for text in texts):
        raise BadRequest("input: a text is empty", fix="Leave it out", param="input")
    return texts


def _encoded(vectors: Vectors, *, as_base64: bool) -> list[Embedding]:
    """Rows as numbers or as base64 of little-endian float32."""
    if not as_base64:
        return [Embedding(number, row) for number, row in enumerate(vectors.tolist())]
    rows = np.ascontiguousarray(vectors, "<f4")
    return [
        Embedding(number, base64.b64encode(row.data).decode("ascii"))
        for number, row in enumerate(rows)
    ]
