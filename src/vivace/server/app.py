"""The ASGI application: FastAPI for the whole, plain ASGI for the routes that have to be fast."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from vivace.server import errors, metrics, wire
from vivace.server.admission import AdmissionControl
from vivace.server.chat import HEARTBEAT, ChatRoute
from vivace.server.middleware import FastRouter, RequestMiddleware
from vivace.server.search import EmbeddingsRoute, SearchRoute
from vivace.server.sites import HostCheck, SiteCheck, origins_of
from vivace.server.state import AppState
from vivace.trace import Trace

_HOT = {
    SearchRoute.path: ("Find passages", wire.SearchRequest, wire.SearchResponse),
    ChatRoute.path: ("Answer with citations (OpenAI's wire)", wire.ChatRequest, wire.ChatResponse),
    EmbeddingsRoute.path: (
        "Embed (OpenAI's wire)",
        wire.EmbeddingsRequest,
        wire.EmbeddingsResponse,
    ),
}
"""Summary and types of the hot routes, which FastAPI does not see."""


class Application(FastAPI):
    """FastAPI behind `FastRouter`; `hot` holds the fast routes by path."""

    def __init__(self, check: SiteCheck, trace: Trace, **options: Any) -> None:
        super().__init__(**options)
        self.check = check
        self.events = trace
        self.hot: dict[str, ASGIApp] = {}

    def build_middleware_stack(self) -> ASGIApp:
        return FastRouter(self.hot, super().build_middleware_stack(), self.check, self.events)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = _add_hot_routes(super().openapi())
        return self.openapi_schema


def create(
    state: AppState, *, heartbeat: float = HEARTBEAT, hosts: HostCheck | None = None
) -> FastAPI:
    """The ASGI application. Its lifespan opens the state, and closes it after draining.

    Args:
        heartbeat: seconds of silence after which a stream sends a comment.
        hosts: what a request's Host header may carry; None allows any name.

    Raises:
        BadSettings: `server.origins` holds something else than origins.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with state.opened():
            yield

    check = SiteCheck(hosts or HostCheck(), origins_of(state.settings.server.origins))
    app = Application(
        check,
        state.trace,
        title="Vivace",
        version=version("vivace"),
        docs_url=None,  # its page loads scripts from elsewhere; /openapi.json stays
        redoc_url=None,
        lifespan=lifespan,
        middleware=[Middleware(RequestMiddleware, state.trace, state.in_flight)],
        exception_handlers={HTTPException: _http_error, RequestValidationError: _bad_request},
    )
    hot = (SearchRoute(state), ChatRoute(state, heartbeat=heartbeat), EmbeddingsRoute(state))
    app.router.routes[:0] = [Route(route.path, route, methods=["POST"]) for route in hot]
    for route in hot:
        admitted = AdmissionControl(route, state)
        app.hot[route.path] = RequestMiddleware(admitted, state.trace, state.in_flight, route.path)
    app.include_router(_cold_routes(state))
    return app


def _cold_routes(state: AppState) -> APIRouter:
    """Health, readiness, models and metrics."""
    routes = APIRouter()
    started = int(time.time())

    def model(name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": started, "owned_by": "vivace"}

    @routes.get("/v1/models", tags=["openai"])
    async def models() -> dict[str, object]:
        """`vivace` (the default collection) and every collection by name."""
        names = [wire.DEFAULT_MODEL, *state.names]
        return {"object": "list", "data": [model(name) for name in names]}

    @routes.get("/v1/models/{name}", tags=["openai"])
    async def one_model(name: str) -> dict[str, object]:
        state.collection(name)
        return model(name)

    @routes.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @routes.get("/readyz", tags=["operation"])
    async def readyz() -> JSONResponse:
        """The collections are open, the model is loaded and there is room.

        503 before and after, and while most requests of a kind are refused.
        """
        ready = state.accepting
        value = {"status": "ready" if ready else "not ready", "collections": state.names}
        return JSONResponse(value, 200 if ready else 503)

    @routes.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        """Prometheus text."""
        return PlainTextResponse(metrics.render(state), media_type=metrics.CONTENT_TYPE)

    return routes


async def _http_error(_: Request, error: Exception) -> Response:
    return _response(error)


async def _bad_request(_: Request, error: Exception) -> Response:
    return _response(errors.BadRequest("a parameter cannot be read", fix="See /openapi.json"))


def _response(error: Exception) -> Response:
    answer = errors.reply(error)
    response = Response(answer.body, answer.status, media_type="application/json")
    response.raw_headers.extend(answer.headers)
    return response


def _add_hot_routes(schema: dict[str, Any]) -> dict[str, Any]:
    """Add the hot routes' paths and types to the schema that FastAPI made."""
    types = [t for _, request, response in _HOT.values() for t in (request, response)]
    shown, components = msgspec.json.schema_components(
        [*types, wire.ErrorResponse], ref_template="#/components/schemas/{name}"
    )
    by_type: dict[object, Any] = dict(zip([*types, wire.ErrorResponse], shown, strict=True))
    schema.setdefault("components", {}).setdefault("schemas", {}).update(components)

    def content(kind: object) -> dict[str, Any]:
        return {"application/json": {"schema": by_type[kind]}}

    for path, (summary, request, response) in _HOT.items():
        responses = {
            "200": {"description": "Done", "content": content(response)},
            "default": {"description": "An error", "content": content(wire.ErrorResponse)},
        }
        body = {"required": True, "content": content(request)}
        post = {"summary": summary, "requestBody": body, "responses": responses}
        schema["paths"][path] = {"post": post}
    return schema
