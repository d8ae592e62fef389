"""Print the files of `vivace` that run for one `POST /v1/search`, in order, as JSON.

    python -m tests.support.traced_search FOLDER

`handed` are the files with a function that is called with the question; `touched` are all that run.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import vivace

ROOT = f"{Path(vivace.__file__).parent}/"
QUESTION = "How long is the notice period?"
HOLDERS = frozenset(
    {"ParsedQuery", "Query", "QueuedCall", "SearchContext", "SearchRequest", "SearchResult"}
)
"""Types of ours that hold the question."""

touched: list[str] = []
handed: list[str] = []
tracing = False


def trace(frame: FrameType, event: str, argument: object) -> None:
    name = frame.f_code.co_filename
    if not tracing or event != "call" or not name.startswith(ROOT):
        return
    name = name.removeprefix(ROOT)
    if name not in touched:
        touched.append(name)
    if name not in handed and _is_handed(frame):
        handed.append(name)


def _is_handed(frame: FrameType) -> bool:
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return any(_holds(frame.f_locals.get(name)) for name in names)


def _holds(value: object, depth: int = 0) -> bool:
    if isinstance(value, str):
        return QUESTION in value
    if isinstance(value, bytes):
        return QUESTION.encode() in value
    if isinstance(value, list | tuple) and depth < 2 and len(value) < 20:
        return any(_holds(item, depth + 1) for item in value)
    return type(value).__name__ in HOLDERS or _is_request(value)


def _is_request(value: object) -> bool:
    """Whether it is the ASGI scope of the search."""
    return isinstance(value, dict) and value.get("path") == "/v1/search"


async def search(folder: Path) -> int:
    global tracing
    import httpx

    from vivace import settings
    from vivace.engine import Engine
    from vivace.server.app import create
    from vivace.server.state import AppState

    config = settings.load(home=str(folder / "home"))
    (folder / "leave.md").write_text("# Leave\n\nThe notice period is six weeks.\n", "utf-8")
    async with Engine(config) as engine:
        await (await engine.open("handbook")).ingest(folder / "leave.md")
    app: Any = create(AppState(config, ["handbook"]))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await client.post("/v1/search", json={"query": "When is lunch?"})
            tracing = True
            found = await client.post("/v1/search", json={"query": QUESTION})
            tracing = False
    return found.status_code


if __name__ == "__main__":
    threading.setprofile(trace)
    sys.setprofile(trace)
    status = asyncio.run(search(Path(sys.argv[1])))
    print(json.dumps({"status": status, "handed": handed, "touched": touched}))
