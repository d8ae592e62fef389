"""The schema of the hot routes, which FastAPI does not see."""

from __future__ import annotations

from typing import Any

import msgspec

from vivace.server import wire

_HOT = {
    "/v1/search": ("Find passages", wire.SearchRequest, wire.SearchResponse),
    "/v1/chat/completions": (
        "Answer with citations (OpenAI's wire)",
        wire.ChatRequest,
        wire.ChatResponse,
    ),
    "/v1/embeddings": ("Embed (OpenAI's wire)", wire.EmbeddingsRequest, wire.EmbeddingsResponse),
}


def add_hot_routes(schema: dict[str, Any]) -> dict[str, Any]:
    """Add their paths and types to the schema that FastAPI made."""
    types = [t for _, request, response in _HOT.values() for t in (request, response)]
    shown, components = msgspec.json.schema_components(
        [*types, wire.ErrorResponse], ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip([*types, wire.ErrorResponse], shown, strict=True))
    schema.setdefault("components", {}).setdefault("schemas", {}).update(components)
    for path, (summary, request, response) in _HOT.items():
        schema["paths"][path] = {
            "post": {
                "summary": summary,
                "requestBody": {"required": True, "content": _json(by_type[request])},
                "responses": {
                    "200": {"description": "Done", "content": _json(by_type[response])},
                    "default": {
                        "description": "An error",
                        "content": _json(by_type[wire.ErrorResponse]),
                    },
                },
            }
        }
    return schema


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
