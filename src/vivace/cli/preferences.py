"""vivace settings, trust."""

from __future__ import annotations

import argparse
from pathlib import Path

from vivace import settings as settings_module
from vivace.cli.output import json_line, settings_of, table
from vivace.cli.parser import OK
from vivace.cli.terminal import say, say_text
from vivace.settings import trust


def run(options: argparse.Namespace) -> int:
    return _trust(options) if options.command == "trust" else _settings(options)


def _settings(options: argparse.Namespace) -> int:
    if options.markdown:
        say_text(settings_module.markdown(), end="")
        return OK
    values = settings_module.describe(settings_of(options))
    if options.json:
        json_line(values)
        return OK
    rows = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += [[f"{key}.{name}", str(inner)] for name, inner in value.items()]
        else:
            rows.append([key, str(value)])
    table("", ["setting", "value"], rows)
    return OK


def _trust(options: argparse.Namespace) -> int:
    path = Path(options.file).absolute()
    if options.forget:
        was = trust.forget(path)
        if options.json:
            json_line({"file": str(path), "trusted": False, "was_trusted": was})
        else:
            say(f"{path}: {'no longer trusted' if was else 'was not trusted'}")
        return OK
    values = settings_module.trust_file(path)
    if options.json:
        json_line({"file": str(path), "trusted": True, "settings": values})
    elif values:
        table("", ["setting", "value"], [[key, str(value)] for key, value in values.items()])
        say(f"{path}: trusted until it changes, with these")
    else:
        say(f"{path}: trusted until it changes; nothing in it needs trust")
    return OK
