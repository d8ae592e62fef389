"""The command line, as argparse sees it. Imports nothing of ours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TypeAlias

_STATUS = "exit status: 0 done, 1 error, 2 bad input, 3 some sources failed, 130 interrupted"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="vivace",
        description="Ask your documents, and get cited answers.",
        epilog=f'example: vivace ask --docs docs "How long is the notice period?"\n{_STATUS}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vivace {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _ingest(commands)
    _search(commands)
    _ask(commands)
    _ls(commands)
    _rm(commands)
    _eval(commands)
    _settings(commands)
    return parser.parse_args(arguments)


def _version() -> str:
    from vivace import __version__

    return __version__


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(
    commands: _Commands, name: str, module: str, help: str, example: str, *, collection: bool = True
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=help,
        description=help,
        epilog=f"example: {example}\n{_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if collection:
        command.add_argument(
            "--collection",
            metavar="PATH-or-name",
            help="a folder (anything with a slash) or a name; default: default",
        )
    command.add_argument("--config", metavar="FILE", help="settings file; default: ./vivace.toml")
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set one setting, e.g. chunk.tokens=128; `vivace settings` lists them",
    )
    command.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line of stdout"
    )
    command.set_defaults(module=module, command=name)
    return command


def _ingest(commands: _Commands) -> None:
    command = _command(
        commands, "ingest", "documents", "Read files and folders.", "vivace ingest docs/ --prune"
    )
    command.add_argument("paths", nargs="+", metavar="PATH", help="files or folders")
    command.add_argument(
        "--prune", action="store_true", help="remove documents whose file is gone from the folders"
    )
    command.add_argument(
        "--password",
        metavar="WORD",
        help="tried on files that ask for one; VIVACE_PARSE__PASSWORD keeps it out of `ps`",
    )


def _search(commands: _Commands) -> None:
    command = _command(
        commands, "search", "questions", "Find passages.", 'vivace search "notice period" -k 3'
    )
    _question(command)
    command.add_argument("--min-score", type=float, metavar="S", help="drop hits that score less")


def _ask(commands: _Commands) -> None:
    command = _command(
        commands,
        "ask",
        "questions",
        "Answer from the documents, with citations.",
        'vivace ask --docs docs "How long is the notice period?"',
    )
    _question(command)
    command.add_argument(
        "--docs",
        metavar="DIR",
        help="ingest what is new in DIR first, into a collection of its own",
    )


def _question(command: argparse.ArgumentParser) -> None:
    command.add_argument("question", help="what you want to know")
    command.add_argument("-k", type=int, default=10, metavar="N", help="hits; default: 10")
    command.add_argument(
        "--filter",
        metavar="JSON",
        help='metadata filter, e.g. \'{"year": {"$gte": 2020}, "lang": {"$in": ["en", "zh"]}}\'',
    )


def _ls(commands: _Commands) -> None:
    command = _command(commands, "ls", "documents", "List the documents.", "vivace ls --limit 20")
    command.add_argument("--limit", type=int, default=-1, metavar="N")


def _rm(commands: _Commands) -> None:
    command = _command(commands, "rm", "documents", "Remove documents.", "vivace rm docs/old.md")
    command.add_argument("ids", nargs="+", metavar="ID", help="document ids, or paths of files")


def _eval(commands: _Commands) -> None:
    command = _command(
        commands,
        "eval",
        "evaluation",
        "Measure retrieval on DIR/corpus.jsonl, queries.jsonl and qrels.tsv.",
        "vivace eval qa/squad2dev_en --json",
    )
    command.add_argument("dir", metavar="DIR")
    command.add_argument("-k", "--k", type=int, default=10, metavar="N", help="hits a search")
    command.add_argument("--limit", type=int, metavar="N", help="use the first N questions")


def _settings(commands: _Commands) -> None:
    command = _command(
        commands,
        "settings",
        "preferences",
        "Show every setting with its value.",
        "vivace settings --json",
        collection=False,
    )
    command.add_argument("--markdown", action="store_true", help="print the reference page")
