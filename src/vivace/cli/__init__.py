"""The commands. Each imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from vivace.cli.parser import BAD_INPUT, FAILED, INTERRUPTED, OK, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = parse(arguments)
    from vivace.cli.terminal import logging_to_terminal

    with logging_to_terminal(times=options.module == "serve"):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from vivace.cli.terminal import warn
    from vivace.errors import BadInput, VivaceError

    try:
        status: int = import_module(f"vivace.cli.{options.module}").run(options)
        return status
    except VivaceError as error:
        _report(error, as_json=options.json)
        return BAD_INPUT if isinstance(error, BadInput) else FAILED
    except KeyboardInterrupt:
        warn("interrupted; what was acknowledged is kept")
        return INTERRUPTED
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            warn(f"vivace: {error}")
            return FAILED
        sys.stderr.close()
        return OK


def _report(error: Exception, *, as_json: bool) -> None:
    from vivace.cli.terminal import warn

    warn(f"vivace: {error}")
    if as_json:
        from vivace.cli.output import json_line
        from vivace.settings import masked

        json_line(
            {
                "error": {
                    "type": type(error).__name__,
                    "message": masked(getattr(error, "what", str(error))),
                    "fix": masked(getattr(error, "fix", "")),
                }
            }
        )
