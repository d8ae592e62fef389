"""The commands. Each imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from vivace.cli.parser import BAD_INPUT, FAILED, INTERRUPTED, OK, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = parse(arguments)
    from vivace.errors import BadInput, VivaceError

    try:
        status: int = import_module(f"vivace.cli.{options.module}").run(options)
        return status
    except VivaceError as error:
        _report(error, as_json=options.json)
        return BAD_INPUT if isinstance(error, BadInput) else FAILED
    except KeyboardInterrupt:
        print("interrupted; what was acknowledged is kept", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            print(f"vivace: {error}", file=sys.stderr)
            return FAILED
        sys.stderr.close()
        return OK


def _report(error: Exception, *, as_json: bool) -> None:
    print(f"vivace: {error}", file=sys.stderr)
    if as_json:
        from vivace.cli.output import json_line

        json_line(
            {
                "error": {
                    "type": type(error).__name__,
                    "message": getattr(error, "what", str(error)),
                    "fix": getattr(error, "fix", ""),
                }
            }
        )
