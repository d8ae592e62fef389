"""Every implementation fits its seam: mypy checks the assignments, the test that they can run."""

from __future__ import annotations

from vivace.answer.extractive import Extractive
from vivace.collection.snapshot import Snapshot
from vivace.embed.minilm import MiniLM
from vivace.embed.precomputed import Precomputed
from vivace.index.flat import FlatIndex
from vivace.index.graph import GraphIndex
from vivace.index.hnsw import HnswIndex
from vivace.index.ivf import IvfIndex
from vivace.index.pq import PqIndex
from vivace.index.terms import TantivyTerms
from vivace.ingest.decode import TextReader
from vivace.ingest.html import HtmlReader
from vivace.ingest.jsonfiles import JsonLinesReader
from vivace.ingest.markdown import MarkdownReader
from vivace.protocols import (
    Answerer,
    CandidateSource,
    ChunkReader,
    Embedder,
    Reader,
    Searcher,
    TermIndex,
    VectorIndex,
)
from vivace.retrieve.hybrid import HybridSearcher

VECTOR_INDEXES: list[type[VectorIndex]] = [FlatIndex, PqIndex, IvfIndex, HnswIndex, GraphIndex]
TERM_INDEXES: list[type[TermIndex]] = [TantivyTerms]
CANDIDATE_SOURCES: list[type[CandidateSource]] = [Snapshot]
CHUNK_READERS: list[type[ChunkReader]] = [Snapshot]
EMBEDDERS: list[type[Embedder]] = [MiniLM, Precomputed]
SEARCHERS: list[type[Searcher]] = [HybridSearcher]
ANSWERERS: list[type[Answerer]] = [Extractive]
READERS: list[type[Reader]] = [TextReader, MarkdownReader, HtmlReader, JsonLinesReader]


def test_families_are_named() -> None:
    assert [index.family for index in VECTOR_INDEXES] == [
        "flat",
        "pq",
        "ivf",
        "hnsw",
        "graph",
    ]
    assert len({name for reader in READERS for name in reader.suffixes}) >= 8
