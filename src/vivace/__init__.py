"""Vivace: a RAG engine that tunes itself and shows its evidence.

    import vivace

    with vivace.open("handbook") as docs:
        docs.ingest("docs/")
        print(docs.ask("How long is the notice period?").text)

Asynchronous use starts at `vivace.Engine`. Errors are in `vivace.errors`, the protocols of parts in
`vivace.protocols`, all other types in `vivace.types`. Names are imported when first used, so that
`import vivace` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vivace.engine import Collection as Collection
    from vivace.engine import Engine as Engine
    from vivace.errors import VivaceError as VivaceError
    from vivace.settings import Settings as Settings
    from vivace.sync import BlockingCollection as BlockingCollection
    from vivace.sync import open as open  # noqa: A004 (public)
    from vivace.sync import reembed as reembed
    from vivace.tune.tuning import Tuning as Tuning
    from vivace.types import Answer as Answer
    from vivace.types import AnswerOptions as AnswerOptions
    from vivace.types import Chunk as Chunk
    from vivace.types import Citation as Citation
    from vivace.types import Decision as Decision
    from vivace.types import Delta as Delta
    from vivace.types import Document as Document
    from vivace.types import Hit as Hit
    from vivace.types import IngestReport as IngestReport
    from vivace.types import Message as Message
    from vivace.types import Objective as Objective
    from vivace.types import Passage as Passage
    from vivace.types import Plan as Plan
    from vivace.types import Query as Query
    from vivace.types import SearchResult as SearchResult
    from vivace.types import Section as Section
    from vivace.types import Usage as Usage

_HOMES = {
    "engine": "Collection Engine",
    "errors": "VivaceError",
    "settings": "Settings",
    "sync": "BlockingCollection open reembed",
    "tune.tuning": "Tuning",
    "types": "Answer AnswerOptions Chunk Citation Decision Delta Document Hit IngestReport"
    " Message Objective Passage Plan Query SearchResult Section Usage",
}
_MODULES = frozenset({"errors", "protocols", "types"})
"""Reached as attributes without an import of their own."""
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME_OF, "__version__"])
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"vivace.{name}")
    if (module := _HOME_OF.get(name)) is None:
        raise AttributeError(f"module 'vivace' has no attribute {name!r}")
    return getattr(import_module(f"vivace.{module}"), name)


def __dir__() -> list[str]:
    return list(__all__)
