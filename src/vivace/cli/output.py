"""What commands share: settings from options, JSON lines, progress, tables."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from vivace import settings as settings_module
from vivace.errors import BadInput, BadSettings
from vivace.settings import Settings
from vivace.types import Chunk, IngestProgress, UpkeepProgress


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


def json_line(value: object) -> None:
    """One JSON value as one line of stdout."""
    sys.stdout.flush()
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def place(chunk: Chunk) -> str:
    """Where a chunk stands, for a person: title or source, page, headings."""
    name = chunk.source or chunk.title or chunk.document_id
    if name.startswith("/"):
        with_cwd = Path(name)
        name = (
            str(with_cwd.relative_to(Path.cwd())) if with_cwd.is_relative_to(Path.cwd()) else name
        )
    page = f", page {chunk.page}" if chunk.page is not None else ""
    section = f" › {' › '.join(chunk.section)}" if chunk.section else ""
    return f"{name}{page}{section}"


@contextmanager
def ingest_progress(label: str) -> Iterator[Callable[[IngestProgress], None]]:
    """A live line on stderr where it is a terminal; silent otherwise."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label)

        def show(now: IngestProgress) -> None:
            name = Path(now.source).name
            bar.update(
                task,
                description=f"{label}: {now.documents} documents, {now.chunks} chunks,"
                f" {now.unchanged} unchanged, {now.failed} failed  [dim]{escape(name)}[/dim]",
            )

        yield show


@contextmanager
def upkeep_progress(label: str) -> Iterator[Callable[[UpkeepProgress], None]]:
    """A bar on stderr where it is a terminal; silent otherwise."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)

        def show(now: UpkeepProgress) -> None:
            bar.update(
                task,
                description=f"{label}: {now.step}",
                completed=now.done,
                total=now.total or None,
            )

        yield show


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    view = Table(title=escape(title) or None, title_justify="left")
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*map(escape, row))
    Console().print(view)


def figures(columns: list[str], rows: list[list[str]]) -> None:
    """A table of numbers without a frame: the first and the last column are words."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for number, column in enumerate(columns):
        words = number in (0, len(columns) - 1)
        view.add_column(
            column, justify="left" if words else "right", no_wrap=not words, overflow="fold"
        )
    for row in rows:
        view.add_row(*map(escape, row))
    Console().print(view)
