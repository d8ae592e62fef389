"""POST /v1/search: passages."""

from __future__ import annotations

import msgspec
from starlette.types import Receive, Scope, Send

from vivace.server.asgi import read, send_json
from vivace.server.disconnect import Attended
from vivace.server.passages import passage
from vivace.server.served import Served
from vivace.server.wire import SearchRequest, SearchResponse
from vivace.types import Query

_DECODER = msgspec.json.Decoder(SearchRequest)


class Search:
    """An ASGI application."""

    path = "/v1/search"

    def __init__(self, served: Served) -> None:
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await read(receive, _DECODER)
        collection = self._served.collection(request.model)
        query = Query(request.query, request.k, request.filters, request.min_score)
        async with Attended(receive):
            result = await collection.search(query)
        hits = [passage(hit) for hit in result.hits]
        body = msgspec.json.encode(SearchResponse(hits, result.epoch, result.degraded))
        await send_json(send, body)
