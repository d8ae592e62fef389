"""The cold routes: is it alive, is it ready, what does it serve, how is it doing?"""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.responses import JSONResponse, PlainTextResponse

from vivace.server import metrics
from vivace.server.served import Served
from vivace.server.wire import DEFAULT_MODEL


def router(served: Served) -> APIRouter:
    routes = APIRouter()
    started = int(time.time())

    def model(name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": started, "owned_by": "vivace"}

    @routes.get("/v1/models", tags=["openai"])
    async def models() -> dict[str, object]:
        """`vivace` (the default collection) and every collection by name."""
        names = [DEFAULT_MODEL, *served.names]
        return {"object": "list", "data": [model(name) for name in names]}

    @routes.get("/v1/models/{name}", tags=["openai"])
    async def one_model(name: str) -> dict[str, object]:
        served.collection(name)
        return model(name)

    @routes.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @routes.get("/readyz", tags=["operation"])
    async def readyz() -> JSONResponse:
        """The collections are open, the model is loaded and there is room.

        503 before and after, and while most requests of a kind are turned away.
        """
        ready = served.accepting
        value = {"status": "ready" if ready else "not ready", "collections": served.names}
        return JSONResponse(value, 200 if ready else 503)

    @routes.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        """Prometheus text."""
        return PlainTextResponse(metrics.render(served), media_type=metrics.CONTENT_TYPE)

    return routes
