"""The command line: commands with their arguments, units of values, and exit statuses.

Imports only the standard library, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

# Exit statuses. They are part of the interface: scripts branch on them.
OK = 0
FAILED = 1
"""An error of Vivace's or of the machine's."""
BAD_INPUT = 2
"""The caller's error; argparse uses it too."""
SOME_FAILED = 3
"""Done, but some sources could not be read."""
INFEASIBLE = 4
"""No index meets the objective; the nearest is shown."""
INTERRUPTED = 130

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
    _up(commands)
    _serve(commands)
    _upkeep(commands)
    _tune(commands)
    _why(commands)
    _cache(commands)
    _eval(commands)
    _settings(commands)
    _fake_llm(commands)
    return parser.parse_args(arguments)


def _version() -> str:
    from vivace import __version__

    return __version__


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(
    commands: _Commands,
    name: str,
    module: str,
    description: str,
    example: str,
    *,
    collection: bool = True,
) -> argparse.ArgumentParser:
    """Add a command, run by `vivace.cli.MODULE`, with the options that all commands share."""
    command = commands.add_parser(
        name,
        help=description,
        description=description,
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
    _question(command, "?")
    command.add_argument(
        "--file",
        metavar="FILE",
        help="many questions: a text file with one a line, or JSON Lines with a field question"
        " (or text or query) each, whose other fields come back with the answer; - is stdin",
    )
    command.add_argument(
        "--docs",
        metavar="DIR",
        help="ingest what is new in DIR first, into a collection of its own",
    )
    command.add_argument(
        "--template",
        metavar="NAME",
        default="",
        help="qa (default), summary, translation, code, one of answer.templates, or auto: by the"
        " question's words",
    )
    command.add_argument(
        "--to",
        metavar="LANGUAGE",
        default="",
        help="of the answer, e.g. French, fr or 法语; default: the question's",
    )


def _question(command: argparse.ArgumentParser, number: str | None = None) -> None:
    command.add_argument("question", nargs=number, help="what you want to know")
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


def _up(commands: _Commands) -> None:
    command = _command(
        commands,
        "up",
        "serve",
        "Ingest what is new in DIR into a collection of its own, and serve it.",
        "vivace up docs/",
        collection=False,
    )
    command.add_argument("dir", metavar="DIR", help="a folder of documents")
    _listening(command)


def _serve(commands: _Commands) -> None:
    command = _command(
        commands,
        "serve",
        "serve",
        "Serve collections that exist.",
        "vivace serve --collection handbook --collection laws",
        collection=False,
    )
    command.add_argument(
        "--collection",
        metavar="PATH-or-name",
        action="append",
        help="a folder (anything with a slash) or a name, repeatable; default: default",
    )
    _listening(command)


def _listening(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", help="address to listen on; default: server.host, 127.0.0.1")
    command.add_argument(
        "--port", metavar="N", help="0 is any free port; default: server.port, 8765"
    )
    command.epilog = (
        f"{command.epilog}\nWith --json the address is in the first line of stdout. SIGINT and"
        " SIGTERM\nstop the server with exit status 0 when running answers are done."
    )


def _upkeep(commands: _Commands) -> None:
    _command(
        commands,
        "verify",
        "upkeep",
        "Check every file of a collection; exit status 1 where something is wrong.",
        "vivace verify --collection handbook",
    )
    rebuild = _command(
        commands,
        "rebuild",
        "upkeep",
        "Make the indexes anew from the store.",
        "vivace rebuild --reembed --set embed.model=fastembed:BAAI/bge-small-en-v1.5",
    )
    rebuild.add_argument(
        "--reembed",
        action="store_true",
        help="embed every chunk with embed.model first; interrupted, it goes on where it was",
    )
    _command(
        commands,
        "compact",
        "upkeep",
        "Merge the indexes into one piece, without what was removed.",
        "vivace compact --collection handbook",
    )


def _tune(commands: _Commands) -> None:
    command = _command(
        commands,
        "tune",
        "tuning",
        "Find the index that keeps to an objective at the least CPU a query, or with --quality the"
        " fusion, widths and rerank of the best passages, and say why.",
        "vivace tune --recall 0.95 --p95 5ms --memory 2GiB --apply --report tuning.html",
    )
    command.add_argument(
        "--recall",
        type=share,
        metavar="R",
        help="floor of recall@10 against exact search; default: tune.recall",
    )
    command.add_argument(
        "--p95",
        type=milliseconds,
        metavar="TIME",
        help="most time of a dense search, e.g. 5ms; default: tune.p95_ms",
    )
    command.add_argument(
        "--memory",
        type=size,
        metavar="SIZE",
        help="most memory of the index, e.g. 2GiB or 30MB; default: tune.memory_mib",
    )
    command.add_argument(
        "--budget",
        type=seconds,
        metavar="TIME",
        help="most time of the tuning, e.g. 120s; default: tune.budget_seconds",
    )
    command.add_argument(
        "--apply", action="store_true", help="use what is found; else nothing changes"
    )
    command.add_argument(
        "--quality",
        action="store_true",
        help="tune what passages are found, not the index: shows nDCG@10 against milliseconds",
    )
    command.add_argument(
        "--qrels",
        metavar="FILE",
        help="with --quality: labels of your own, query_id, doc_id and rel separated by tabs, with"
        " queries.jsonl beside it; default: questions made of the corpus",
    )
    command.add_argument("--report", metavar="FILE.html", help="write all of it as one page")
    command.add_argument(
        "--language", choices=("en", "zh"), help="of the report; default: by LC_ALL or LANG"
    )
    command.epilog = (
        f"{command.epilog}\n4: nothing keeps to the objective; the nearest is shown, nothing is"
        " applied.\nCtrl-C ends the tuning with the best so far (0), or without any (130)."
    )


def _why(commands: _Commands) -> None:
    command = _command(
        commands,
        "why",
        "why",
        "Show what was decided for a collection, newest first, with the evidence.",
        "vivace why --limit 3",
    )
    command.add_argument(
        "--limit", type=_positive, default=20, metavar="N", help="decisions; default: 20"
    )


def _cache(commands: _Commands) -> None:
    command = _command(
        commands,
        "cache",
        "cache",
        "Show what is remembered (stats), forget it (clear), or ask the most frequent questions of"
        " the log again (warm).",
        "vivace cache stats --server http://127.0.0.1:8765",
    )
    command.add_argument("action", choices=("stats", "clear", "warm"))
    command.add_argument(
        "--limit", type=_positive, default=100, metavar="N", help="of warm: questions; default: 100"
    )
    command.add_argument(
        "--server", metavar="ADDRESS", help="of stats: what a running server remembers"
    )


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
    command.add_argument(
        "--against",
        metavar="RUN.json",
        help="an earlier run: each measure's difference with its interval (paired bootstrap)",
    )
    command.add_argument(
        "--save", metavar="RUN.json", help="write the figures with every question's, for --against"
    )
    command.add_argument(
        "--run", dest="run_file", metavar="FILE", help="write what was found as a TREC run"
    )
    command.add_argument(
        "--failures",
        type=_positive,
        default=0,
        metavar="N",
        help="show the N worst questions: expected, found instead, and the stage that lost it",
    )


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


def _fake_llm(commands: _Commands) -> None:
    command = _command(
        commands,
        "fake-llm",
        "fake_llm",
        "Serve a model that needs no model, for tests; prints its address first.",
        "vivace fake-llm --port 9000 --ttft-ms 200 --delay-ms 20 --fault 429@every=5",
        collection=False,
    )
    command.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    command.add_argument("--port", type=int, default=0, metavar="N", help="default: any free one")
    command.add_argument(
        "--mode",
        choices=("grounded", "scripted"),
        default="grounded",
        help="answer from the prompt's passages (default), or say --text",
    )
    command.add_argument("--text", default="The fake model has nothing to say.")
    command.add_argument(
        "--tokens", type=int, default=0, metavar="N", help="instead of --text, N times a word"
    )
    command.add_argument("--ttft-ms", type=float, default=0, metavar="MS", help="to first token")
    command.add_argument("--delay-ms", type=float, default=0, metavar="MS", help="between tokens")
    command.add_argument(
        "--slots", type=_positive, default=8, metavar="N", help="requests served at full speed"
    )
    command.add_argument(
        "--slowdown", type=float, default=1, metavar="P", help="power of the load past the slots"
    )
    command.add_argument(
        "--context", type=int, default=0, metavar="N", help="read only N tokens of a prompt"
    )
    command.add_argument("--dim", type=_positive, default=64, metavar="N", help="of embeddings")
    command.add_argument("--seed", type=int, default=0, metavar="N")
    command.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="FAULT",
        help="KIND[:after][@first=N|@every=N|@p=P]; KIND: 429, 500, cut, slow, malformed, "
        "truncated, empty, oversized, error",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE)
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SIZES = {
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}


def share(text: str) -> float:
    """A number above 0 and at most 1, also as `95%`."""
    percent = text.strip().endswith("%")
    try:
        value = float(text.strip().rstrip("%")) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: give e.g. 0.95")
    return value


def milliseconds(text: str) -> float:
    """A time in milliseconds; a bare number is milliseconds."""
    return round(1e3 * _measured(text, _TIMES, "ms", "5ms"), 9)


def seconds(text: str) -> float:
    """A time in seconds; a bare number is seconds."""
    return _measured(text, _TIMES, "s", "120s")


def size(text: str) -> int:
    """A size in bytes; `MB` is 1,000,000 bytes, `MiB` 1,048,576."""
    return round(_measured(text, _SIZES, "b", "2GiB or 30MB"))


def _measured(text: str, units: Mapping[str, float], bare: str, example: str) -> float:
    found = _NUMBER.fullmatch(text)
    unit = units.get((found[2] or bare).lower()) if found else None
    value = float(found[1]) * unit if found and unit else 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: give e.g. {example}")
    return value
