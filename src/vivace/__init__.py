"""Vivace: a RAG engine that tunes itself and shows its evidence.

    import vivace

    with vivace.open("handbook") as docs:
        docs.ingest("docs/")
        print(docs.ask("How long is the notice period?").text)

Asynchronous use starts at `vivace.Engine`. Names are imported when first used, so that
`import vivace` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vivace.engine import Collection as Collection
    from vivace.engine import Engine as Engine
    from vivace.errors import BadFilter as BadFilter
    from vivace.errors import BadInput as BadInput
    from vivace.errors import BadQuery as BadQuery
    from vivace.errors import BadSettings as BadSettings
    from vivace.errors import BadVectors as BadVectors
    from vivace.errors import Closed as Closed
    from vivace.errors import CollectionLocked as CollectionLocked
    from vivace.errors import CollectionNotFound as CollectionNotFound
    from vivace.errors import CollectionTooNew as CollectionTooNew
    from vivace.errors import CorruptIndex as CorruptIndex
    from vivace.errors import DeadlineExceeded as DeadlineExceeded
    from vivace.errors import EmbedderMismatch as EmbedderMismatch
    from vivace.errors import EmbeddingError as EmbeddingError
    from vivace.errors import GenerationError as GenerationError
    from vivace.errors import InfeasibleObjective as InfeasibleObjective
    from vivace.errors import IngestError as IngestError
    from vivace.errors import MissingExtra as MissingExtra
    from vivace.errors import ModelRefused as ModelRefused
    from vivace.errors import ModelTimeout as ModelTimeout
    from vivace.errors import ModelUnreachable as ModelUnreachable
    from vivace.errors import Overloaded as Overloaded
    from vivace.errors import RerankError as RerankError
    from vivace.errors import ShareExceeded as ShareExceeded
    from vivace.errors import StoreError as StoreError
    from vivace.errors import StoreUnwritable as StoreUnwritable
    from vivace.errors import StreamCut as StreamCut
    from vivace.errors import StreamEmpty as StreamEmpty
    from vivace.errors import StreamMalformed as StreamMalformed
    from vivace.errors import StreamStalled as StreamStalled
    from vivace.errors import StreamTooLong as StreamTooLong
    from vivace.errors import VivaceError as VivaceError
    from vivace.protocols import Answerer as Answerer
    from vivace.protocols import CacheTier as CacheTier
    from vivace.protocols import CandidateSource as CandidateSource
    from vivace.protocols import DecisionSink as DecisionSink
    from vivace.protocols import Embedder as Embedder
    from vivace.protocols import EmbedsTokens as EmbedsTokens
    from vivace.protocols import EvictionPolicy as EvictionPolicy
    from vivace.protocols import Generator as Generator
    from vivace.protocols import Reader as Reader
    from vivace.protocols import Reranker as Reranker
    from vivace.protocols import Searcher as Searcher
    from vivace.protocols import TermIndex as TermIndex
    from vivace.protocols import VectorIndex as VectorIndex
    from vivace.settings import Settings as Settings
    from vivace.sync import BlockingCollection as BlockingCollection
    from vivace.sync import open as open  # noqa: A004 (public)
    from vivace.sync import reembed as reembed
    from vivace.tune.tuning import Tuning as Tuning
    from vivace.types import Answer as Answer
    from vivace.types import AnswerOptions as AnswerOptions
    from vivace.types import BatchProgress as BatchProgress
    from vivace.types import Chunk as Chunk
    from vivace.types import Citation as Citation
    from vivace.types import CollectionInfo as CollectionInfo
    from vivace.types import Completion as Completion
    from vivace.types import Decision as Decision
    from vivace.types import Delta as Delta
    from vivace.types import Document as Document
    from vivace.types import Failure as Failure
    from vivace.types import Finding as Finding
    from vivace.types import Footprint as Footprint
    from vivace.types import Fusion as Fusion
    from vivace.types import Hit as Hit
    from vivace.types import IngestProgress as IngestProgress
    from vivace.types import IngestReport as IngestReport
    from vivace.types import Message as Message
    from vivace.types import Objective as Objective
    from vivace.types import Passage as Passage
    from vivace.types import Plan as Plan
    from vivace.types import Query as Query
    from vivace.types import Request as Request
    from vivace.types import Rerank as Rerank
    from vivace.types import SearchResult as SearchResult
    from vivace.types import Section as Section
    from vivace.types import Skipped as Skipped
    from vivace.types import Span as Span
    from vivace.types import Stage as Stage
    from vivace.types import Stages as Stages
    from vivace.types import Support as Support
    from vivace.types import Trial as Trial
    from vivace.types import UpkeepProgress as UpkeepProgress
    from vivace.types import Usage as Usage

_HOMES = {
    "engine": "Collection Engine",
    "errors": "BadFilter BadInput BadQuery BadSettings BadVectors Closed CollectionLocked"
    " CollectionNotFound CollectionTooNew CorruptIndex DeadlineExceeded EmbedderMismatch"
    " EmbeddingError GenerationError InfeasibleObjective IngestError MissingExtra"
    " ModelRefused ModelTimeout ModelUnreachable Overloaded RerankError ShareExceeded StoreError"
    " StoreUnwritable StreamCut StreamEmpty StreamMalformed StreamStalled StreamTooLong"
    " VivaceError",
    "protocols": "Answerer CacheTier CandidateSource DecisionSink Embedder EmbedsTokens"
    " EvictionPolicy Generator Reader Reranker Searcher TermIndex VectorIndex",
    "settings": "Settings",
    "sync": "BlockingCollection open reembed",
    "tune.tuning": "Tuning",
    "types": "Answer AnswerOptions BatchProgress Chunk Citation CollectionInfo Completion Decision"
    " Delta Document Failure Finding Footprint Fusion Hit IngestProgress IngestReport"
    " Message Objective Passage Plan Query Request Rerank SearchResult Section Skipped"
    " Span Stage Stages Support Trial UpkeepProgress Usage",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME_OF, "__version__"])
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if (module := _HOME_OF.get(name)) is None:
        raise AttributeError(f"module 'vivace' has no attribute {name!r}")
    return getattr(import_module(f"vivace.{module}"), name)


def __dir__() -> list[str]:
    return list(__all__)
