"""vivace settings."""

from __future__ import annotations

import argparse

from vivace import settings as settings_module
from vivace.cli.output import json_line, settings_of, table


def run(options: argparse.Namespace) -> int:
    if options.markdown:
        print(settings_module.markdown(), end="")
        return 0
    values = settings_module.describe(settings_of(options))
    if options.json:
        json_line(values)
        return 0
    rows = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += [[f"{key}.{name}", str(inner)] for name, inner in value.items()]
        else:
            rows.append([key, str(value)])
    table("", ["setting", "value"], rows)
    return 0
