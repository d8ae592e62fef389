"""What commands share: settings and collections from options, JSON lines, tables, progress."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vivace import settings as settings_module
from vivace.cli.terminal import one_line, printable, say_json
from vivace.errors import BadInput, BadSettings
from vivace.settings import Settings
from vivace.types import (
    BatchProgress,
    Chunk,
    IngestProgress,
    OnBatch,
    OnIngest,
    OnUpkeep,
)

if TYPE_CHECKING:
    from vivace.engine import Collection


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings of a command line.

    Raises:
        BadSettings: see `settings.load`; also a --set without a value.
    """
    overrides = {}
    for item in options.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise BadSettings(f"--set {item}: no value", fix="Write --set KEY=VALUE")
        overrides[key.strip().replace(".", "__")] = value.strip()
    return settings_module.load(Path(options.config) if options.config else None, **overrides)


@asynccontextmanager
async def opened(
    options: argparse.Namespace, *, settings: Settings | None = None, create: bool = False
) -> AsyncIterator[Collection]:
    """The collection that `--collection` names, in an engine of its own."""
    from vivace.engine import Engine

    async with Engine(settings or settings_of(options)) as engine:
        yield await engine.open(options.collection or "default", create=create)


def filter_of(options: argparse.Namespace) -> dict[str, Any] | None:
    """The --filter option as a mapping.

    Raises:
        BadInput: it is no JSON object.
    """
    if not options.filter:
        return None
    try:
        value = json.loads(options.filter)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--filter is no JSON: {error}", fix='E.g. \'{"lang": "en"}\'') from error
    if not isinstance(value, dict):
        raise BadInput("--filter is no JSON object", fix='E.g. \'{"lang": "en"}\'')
    return value


def check_writable(name: str | None) -> Path | None:
    """The path of an output file, checked before the work begins; None where none is named.

    Raises:
        BadInput: it is a folder, or its folder does not exist.
    """
    path = Path(name) if name else None
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise BadInput(f"{path} cannot be written", fix="Name a file in a folder that exists")
    return path


def json_line(value: object) -> None:
    """Print one value as one line of JSON on stdout."""
    say_json(msgspec.json.encode(value))


def place(chunk: Chunk) -> str:
    """Where a chunk stands, for a person: title or source, page, headings."""
    name = chunk.source or chunk.title or chunk.document_id
    if name.startswith("/") and Path(name).is_relative_to(Path.cwd()):
        name = str(Path(name).relative_to(Path.cwd()))
    page = f", page {chunk.page}" if chunk.page is not None else ""
    section = f" › {' › '.join(chunk.section)}" if chunk.section else ""
    return f"{name}{page}{section}"


def index_name(family: str, params: Mapping[str, int]) -> str:
    """An index family with its parameters, in a few words."""
    given = ", ".join(f"{name} {value}" for name, value in sorted(params.items()))
    return f"{family} ({given})" if given else family


def number(value: float) -> str:
    """Three significant digits, without an exponent or trailing zeros."""
    shown = digits(value)
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def digits(value: float) -> str:
    """As `number`, but with trailing zeros, so that figures in a column can be compared."""
    return f"{value:.{max(0, 2 - floor(log10(abs(value))))}f}" if value else "0"


@contextmanager
def ingest_progress(label: str) -> Iterator[OnIngest]:
    """A live line on stderr where it is a terminal; silent otherwise."""
    with _progress(label, "SpinnerColumn", "TextColumn", "TimeElapsedColumn") as update:

        def show(now: IngestProgress) -> None:
            from rich.markup import escape

            update(
                description=f"{label}: {now.documents} documents, {now.chunks} chunks,"
                f" {now.unchanged} unchanged, {now.failed} failed "
                f" [dim]{escape(one_line(Path(now.source).name))}[/dim]",
            )

        yield show


@contextmanager
def upkeep_progress(label: str) -> Iterator[OnUpkeep]:
    """A bar on stderr where it is a terminal; silent otherwise."""
    with _progress(label, "TextColumn", "BarColumn", "MofNCompleteColumn") as update:
        yield lambda now: update(
            description=f"{label}: {now.step}", completed=now.done, total=now.total or None
        )


@contextmanager
def batch_progress(label: str) -> Iterator[OnBatch]:
    """A bar with the time left on stderr where it is a terminal; silent otherwise."""
    columns = ("TextColumn", "BarColumn", "MofNCompleteColumn", "TimeRemainingColumn")
    with _progress(label, *columns) as update:

        def show(now: BatchProgress) -> None:
            failed = f", {now.failed} failed" if now.failed else ""
            update(description=f"{label}{failed}", completed=now.done, total=now.total)

        yield show


@contextmanager
def _progress(label: str, *columns: str) -> Iterator[Callable[..., None]]:
    """A live line of these columns of `rich.progress`; yields what updates its task."""
    if not sys.stderr.isatty():
        yield lambda **_: None
        return
    from rich import progress
    from rich.console import Console

    text = progress.TextColumn("{task.description}")
    shown = [text if name == "TextColumn" else getattr(progress, name)() for name in columns]
    with progress.Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=100.0 if "SpinnerColumn" in columns else None)
        yield lambda **fields: bar.update(task, **fields)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    view = Table(title=escape(one_line(title)) or None, title_justify="left")
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*(escape(printable(cell)) for cell in row))
    Console().print(view)


def figures(columns: list[str], rows: list[list[str]]) -> None:
    """A table of numbers without a frame: the first and the last column are words."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for at, column in enumerate(columns):
        words = at in (0, len(columns) - 1)
        view.add_column(
            column, justify="left" if words else "right", no_wrap=not words, overflow="fold"
        )
    for row in rows:
        view.add_row(*(escape(printable(cell)) for cell in row))
    Console().print(view)
