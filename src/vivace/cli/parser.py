"""The command line: commands with their arguments, units of values, and exit statuses.

Imports only the standard library, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

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

Add: TypeAlias = Callable[..., Any]
"""A parser's `add_argument`."""
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
    for command in COMMANDS:
        command.add_to(commands)
    return parser.parse_args(arguments)


def _version() -> str:
    from vivace import __version__

    return __version__


@dataclass(frozen=True, slots=True)
class Command:
    """A command, run by `vivace.cli.MODULE.run`. `arguments` adds what is its own."""

    name: str
    module: str
    description: str
    example: str
    arguments: Callable[[Add], None] = lambda add: None
    collection: bool = True
    """Whether it has the option --collection."""
    notes: str = ""
    """Added to the end of its help."""

    def add_to(self, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        parser = commands.add_parser(
            self.name,
            help=self.description,
            description=self.description,
            epilog=f"example: {self.example}\n{_STATUS}{self.notes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add = parser.add_argument
        if self.collection:
            add(
                "--collection",
                metavar="PATH-or-name",
                help="a folder (anything with a slash) or a name; default: default",
            )
        add("--config", metavar="FILE", help="settings file; default: ./vivace.toml")
        add(
            "--set",
            metavar="KEY=VALUE",
            action="append",
            default=[],
            help="set one setting, e.g. chunk.tokens=128; `vivace settings` lists them",
        )
        add("--json", action="store_true", help="print one JSON object as the last line of stdout")
        parser.set_defaults(module=self.module, command=self.name)
        self.arguments(add)


def _ingest(add: Add) -> None:
    add("paths", nargs="+", metavar="PATH", help="files or folders")
    add("--prune", action="store_true", help="remove documents whose file is gone from the folders")
    add(
        "--password",
        metavar="WORD",
        help="tried on files that ask for one; VIVACE_PARSE__PASSWORD keeps it out of `ps`",
    )


def _search(add: Add) -> None:
    add("question", help="what you want to know")
    _retrieval(add)
    add("--min-score", type=float, metavar="S", help="drop hits that score less")


def _ask(add: Add) -> None:
    add("question", nargs="?", help="what you want to know")
    _retrieval(add)
    add(
        "--file",
        metavar="FILE",
        help="many questions: a text file with one a line, or JSON Lines with a field question"
        " (or text or query) each, whose other fields come back with the answer; - is stdin",
    )
    add(
        "--docs",
        metavar="DIR",
        help="ingest what is new in DIR first, into a collection of its own",
    )
    add(
        "--template",
        metavar="NAME",
        default="",
        help="qa (default), summary, translation, code, one of answer.templates, or auto: by the"
        " question's words",
    )
    add(
        "--to",
        metavar="LANGUAGE",
        default="",
        help="of the answer, e.g. French, fr or 法语; default: the question's",
    )


def _retrieval(add: Add) -> None:
    add("-k", type=int, default=10, metavar="N", help="hits; default: 10")
    add(
        "--filter",
        metavar="JSON",
        help='metadata filter, e.g. \'{"year": {"$gte": 2020}, "lang": {"$in": ["en", "zh"]}}\'',
    )


def _ls(add: Add) -> None:
    add("--limit", type=int, default=-1, metavar="N")


def _rm(add: Add) -> None:
    add("ids", nargs="+", metavar="ID", help="document ids, or paths of files")


def _up(add: Add) -> None:
    add("dir", metavar="DIR", help="a folder of documents")
    _listening(add)


def _serve(add: Add) -> None:
    add(
        "--collection",
        metavar="PATH-or-name",
        action="append",
        help="a folder (anything with a slash) or a name, repeatable; default: default",
    )
    _listening(add)


def _listening(add: Add) -> None:
    add("--host", help="address to listen on; default: server.host, 127.0.0.1")
    add("--port", metavar="N", help="0 is any free port; default: server.port, 8765")


def _rebuild(add: Add) -> None:
    add(
        "--reembed",
        action="store_true",
        help="embed every chunk with embed.model first; interrupted, it goes on where it was",
    )


def _tune(add: Add) -> None:
    add(
        "--recall",
        type=share,
        metavar="R",
        help="floor of recall@10 against exact search; default: tune.recall",
    )
    add(
        "--p95",
        type=milliseconds,
        metavar="TIME",
        help="most time of a dense search, e.g. 5ms; default: tune.p95_ms",
    )
    add(
        "--memory",
        type=size,
        metavar="SIZE",
        help="most memory of the index, e.g. 2GiB or 30MB; default: tune.memory_mib",
    )
    add(
        "--budget",
        type=seconds,
        metavar="TIME",
        help="most time of the tuning, e.g. 120s; default: tune.budget_seconds",
    )
    add("--apply", action="store_true", help="use what is found; else nothing changes")
    add(
        "--quality",
        action="store_true",
        help="tune what passages are found, not the index: shows nDCG@10 against milliseconds",
    )
    add(
        "--qrels",
        metavar="FILE",
        help="with --quality: labels of your own, query_id, doc_id and rel separated by tabs, with"
        " queries.jsonl beside it; default: questions made of the corpus",
    )
    add("--report", metavar="FILE.html", help="write all of it as one page")
    add("--language", choices=("en", "zh"), help="of the report; default: by LC_ALL or LANG")


def _why(add: Add) -> None:
    add("--limit", type=_positive, default=20, metavar="N", help="decisions; default: 20")


def _cache(add: Add) -> None:
    add("action", choices=("stats", "clear", "warm"))
    add(
        "--limit", type=_positive, default=100, metavar="N", help="of warm: questions; default: 100"
    )
    add("--server", metavar="ADDRESS", help="of stats: what a running server remembers")


def _eval(add: Add) -> None:
    add("dir", metavar="DIR")
    add("-k", "--k", type=int, default=10, metavar="N", help="hits a search")
    add("--limit", type=int, metavar="N", help="use the first N questions")
    add(
        "--against",
        metavar="RUN.json",
        help="an earlier run: each measure's difference with its interval (paired bootstrap)",
    )
    add("--save", metavar="RUN.json", help="write the figures with every question's, for --against")
    add("--run", dest="run_file", metavar="FILE", help="write what was found as a TREC run")
    add(
        "--failures",
        type=_positive,
        default=0,
        metavar="N",
        help="show the N worst questions: expected, found instead, and the stage that lost it",
    )


def _settings(add: Add) -> None:
    add("--markdown", action="store_true", help="print the reference page")


def _trust(add: Add) -> None:
    add("file", nargs="?", default="vivace.toml", metavar="FILE", help="default: ./vivace.toml")
    add("--forget", action="store_true", help="trust it no longer")


def _fake_llm(add: Add) -> None:
    add("--host", default="127.0.0.1", help="default: 127.0.0.1")
    add("--port", type=int, default=0, metavar="N", help="default: any free one")
    add(
        "--mode",
        choices=("grounded", "scripted"),
        default="grounded",
        help="answer from the prompt's passages (default), or say --text",
    )
    add("--text", default="The fake model has nothing to say.")
    add("--tokens", type=int, default=0, metavar="N", help="instead of --text, N times a word")
    add("--ttft-ms", type=float, default=0, metavar="MS", help="to first token")
    add("--delay-ms", type=float, default=0, metavar="MS", help="between tokens")
    add("--slots", type=_positive, default=8, metavar="N", help="requests served at full speed")
    add("--slowdown", type=float, default=1, metavar="P", help="power of the load past the slots")
    add("--context", type=int, default=0, metavar="N", help="read only N tokens of a prompt")
    add("--dim", type=_positive, default=64, metavar="N", help="of embeddings")
    add("--seed", type=int, default=0, metavar="N")
    add(
        "--fault",
        action="append",
        default=[],
        metavar="FAULT",
        help="KIND[:after][@first=N|@every=N|@p=P]; KIND: 429, 500, cut, slow, malformed, "
        "truncated, empty, oversized, error",
    )


_LISTENING_NOTES = (
    "\nWith --json the address is in the first line of stdout. SIGINT and SIGTERM\nstop the server"
    " with exit status 0 when running answers are done."
)
COMMANDS = (
    Command(
        "ingest", "documents", "Read files and folders.", "vivace ingest docs/ --prune", _ingest
    ),
    Command("search", "questions", "Find passages.", 'vivace search "notice period" -k 3', _search),
    Command(
        "ask",
        "questions",
        "Answer from the documents, with citations.",
        'vivace ask --docs docs "How long is the notice period?"',
        _ask,
    ),
    Command("ls", "documents", "List the documents.", "vivace ls --limit 20", _ls),
    Command("rm", "documents", "Remove documents.", "vivace rm docs/old.md", _rm),
    Command(
        "up",
        "serve",
        "Ingest what is new in DIR into a collection of its own, and serve it.",
        "vivace up docs/",
        _up,
        collection=False,
        notes=_LISTENING_NOTES,
    ),
    Command(
        "serve",
        "serve",
        "Serve collections that exist.",
        "vivace serve --collection handbook --collection laws",
        _serve,
        collection=False,
        notes=_LISTENING_NOTES,
    ),
    Command(
        "verify",
        "upkeep",
        "Check every file of a collection; exit status 1 where something is wrong.",
        "vivace verify --collection handbook",
    ),
    Command(
        "rebuild",
        "upkeep",
        "Rebuild the indexes from the store.",
        "vivace rebuild --reembed --set embed.model=fastembed:BAAI/bge-small-en-v1.5",
        _rebuild,
    ),
    Command(
        "compact",
        "upkeep",
        "Merge the indexes into one piece, without what was removed.",
        "vivace compact --collection handbook",
    ),
    Command(
        "tune",
        "tuning",
        "Find the index that keeps to an objective at the least CPU a query, or with --quality"
        " the fusion, widths and rerank of the best passages, and say why.",
        "vivace tune --recall 0.95 --p95 5ms --memory 2GiB --apply --report tuning.html",
        _tune,
        notes="\n4: nothing keeps to the objective; the nearest is shown, nothing is applied.\n"
        "Ctrl-C ends the tuning with the best so far (0), or without any (130).",
    ),
    Command(
        "why",
        "why",
        "Show what was decided for a collection, newest first, with the evidence.",
        "vivace why --limit 3",
        _why,
    ),
    Command(
        "cache",
        "cache",
        "Show what is remembered (stats), forget it (clear), or ask the most frequent questions"
        " of the log again (warm).",
        "vivace cache stats --server http://127.0.0.1:8765",
        _cache,
    ),
    Command(
        "eval",
        "evaluation",
        "Measure retrieval on DIR/corpus.jsonl, queries.jsonl and qrels.tsv.",
        "vivace eval qa/squad2dev_en --json",
        _eval,
    ),
    Command(
        "settings",
        "preferences",
        "Show every setting with its value.",
        "vivace settings --json",
        _settings,
        collection=False,
    ),
    Command(
        "trust",
        "preferences",
        "Trust a settings file with its present content, and show what in it needs trust.",
        "vivace trust ./vivace.toml",
        _trust,
        collection=False,
        notes="\nOf a file that is not trusted, a command that finds it as ./vivace.toml takes only"
        " settings that\nname no address, file, model, prompt or secret, and else ends with status"
        " 2. A changed file has to\nbe trusted again.",
    ),
    Command(
        "fake-llm",
        "fake_llm",
        "Serve a model that needs no model, for tests; prints its address first.",
        "vivace fake-llm --port 9000 --ttft-ms 200 --delay-ms 20 --fault 429@every=5",
        _fake_llm,
        collection=False,
    ),
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
