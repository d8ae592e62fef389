"""vivace up, serve."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

from vivace.cli.documents import folder_collection, ingest_folder, report_value, show_report
from vivace.cli.output import json_line, settings_of
from vivace.cli.terminal import say, say_text, warn
from vivace.engine import Engine
from vivace.server.run import address_of, is_loopback, listen, serve
from vivace.server.state import AppState
from vivace.settings import Settings
from vivace.types import IngestReport

_NO_KEYS = (
    "warning: {address} can be reached from other machines, and this version has no keys: anyone"
    " who reaches it can read every document. Listen on 127.0.0.1, or let a proxy ask for a"
    " password."
)


def run(options: argparse.Namespace) -> int:
    """Serve; returns when a signal has stopped the server and running answers are done."""
    settings = _settings(options)
    if options.command == "up":
        collections = [folder_collection(Path(options.dir))]
    else:
        collections = options.collection or ["default"]
    state = AppState(settings, collections)
    # before the ingest: an address in use is reported at once, not after the work
    bound = listen(settings.server.host, settings.server.port)
    try:
        if not is_loopback(bound):
            warn(_NO_KEYS.format(address=address_of(bound)))
        report = None
        if options.command == "up":
            report = asyncio.run(_ingest(collections[0], options.dir, settings))
            if report.errors and not options.json:
                show_report(report)
        serve(
            state,
            bound,
            lambda: _announce(address_of(bound), state, report, as_json=options.json),
        )
    finally:
        bound.close()
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    for name in ("host", "port"):
        value = getattr(options, name)
        if value is not None:
            options.set.append(f"server.{name}={value}")
    return settings_of(options)


async def _ingest(collection: str, folder: str, settings: Settings) -> IngestReport:
    async with Engine(settings) as engine:
        return await ingest_folder(await engine.open(collection), folder)


def _announce(address: str, state: AppState, report: IngestReport | None, *, as_json: bool) -> None:
    if as_json:
        value: dict[str, Any] = {"address": address, "collections": state.names}
        if report is not None:
            value["ingest"] = report_value(report)
        json_line(value)
        return
    say(f"Serving {', '.join(state.names)} at {address}")
    say_text(f"OpenAI's clients: base_url={address}/v1, any api_key, model=vivace")
