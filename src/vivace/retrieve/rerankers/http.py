"""Rerankers behind the `/rerank` wire: `NAME@URL`, `NAME@URL,URL*2`, `NAME@URL#tei`.

The wire is what Jina, Cohere, vLLM, llama.cpp and others have in common: `POST URL/rerank` with
`{model, query, documents, top_n, return_documents}`, answered by `{"results": [{index,
relevance_score}]}`. Hugging Face's text-embeddings-inference calls the documents `texts` and
answers a bare list of `{index, score}`: `#tei` behind the URL says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
import numpy as np

from vivace.errors import BadSettings, ModelRefused, ModelTimeout, RerankError, VivaceError
from vivace.run.breaker import Tolerance
from vivace.run.endpoints import EndpointsStatistics
from vivace.run.http import CallClient, sendable
from vivace.run.model_servers import ModelServer
from vivace.settings import Remote
from vivace.types import Hit, Query, Scores

MOST_AT_ONCE: Final = 16
"""Questions at once, however many servers there are: with more, this side is what is slow."""
MAX_BODY: Final = 16 << 20
"""Bytes of an answer; some servers return the documents whatever they are asked."""
QUESTION_CHARS: Final = 4_000
PASSAGE_CHARS: Final = 20_000
"""Sent of a question and of a passage: far more than such models read."""
TEI: Final = "tei"


class _ScoreRow(msgspec.Struct):
    index: int
    relevance_score: float | None = None
    score: float | None = None


class _RerankAnswer(msgspec.Struct):
    results: list[_ScoreRow]


class HttpReranker:
    """One reranking model of one or several servers. A `Reranker`; from any thread and event loop.

    Nothing is sent to a server before the first search.

    Raises:
        BadSettings: what stands behind the `#` of the URL is unknown.
    """

    def __init__(
        self,
        servers: ModelServer | Sequence[ModelServer],
        settings: Remote,
        *,
        tolerance: Tolerance | None = None,
    ) -> None:
        servers = [servers] if isinstance(servers, ModelServer) else servers
        self._model = servers[0].model
        self.name = f"rerank:{self._model}"
        self._tei = _is_tei(servers[0].fragment)
        self._settings = settings
        self.at_once = min(MOST_AT_ONCE, settings.concurrency * len(servers))
        """Questions of one `search_many`: each has a request a server or more."""
        self.client = CallClient(
            self.name,
            servers,
            "rerank",
            settings,
            setting="search.rerank",
            max_body=MAX_BODY,
            tolerance=tolerance,
        )

    async def score(self, query: Query, hits: Sequence[Hit]) -> Scores:
        """One score a hit (n,) float32, on the server's scale; a blank passage has the lowest.

        Requests of `remote.batch` passages, at most `remote.concurrency` at once to a server, all
        of them with all their tries in `remote.query_seconds` and no longer than the deadline.
        The first failure fails the call; cancelling it closes its connections.

        Raises:
            RerankError: the server failed, after all tries, or answered what are no scores, or
                nothing in time; or there was no place at one.
        """
        wanted = [at for at, hit in enumerate(hits) if hit.chunk.text.strip()]
        scores = np.zeros(len(hits), np.float32)
        if not wanted or not query.text.strip():
            return scores
        size = self._settings.batch
        rows = [wanted[at : at + size] for at in range(0, len(wanted), size)]
        question = sendable(query.text[:QUESTION_CHARS])
        requests = [
            (self._body(question, [hits[at].chunk.text for at in row]), partial(_scores, len(row)))
            for row in rows
        ]
        try:
            found = await self.client.call(
                requests, within=self._settings.query_seconds, missing="no scores"
            )
        except VivaceError as error:
            raise self._error(error) from error
        scores[:] = min(float(part.min()) for part in found)
        for row, part in zip(rows, found, strict=True):
            scores[row] = part
        return scores

    def server_statistics(self) -> EndpointsStatistics:
        """Of the servers and the connections to them. From any thread."""
        return self.client.server_statistics()

    async def close(self) -> None:
        """Close the connections and stop the thread; running calls fail. Idempotent."""
        await asyncio.to_thread(self.client.close)

    def _body(self, question: str, texts: Sequence[str]) -> bytes:
        sent = [sendable(text[:PASSAGE_CHARS]) for text in texts]
        if self._tei:
            return msgspec.json.encode({"query": question, "texts": sent, "truncate": True})
        return msgspec.json.encode(
            {
                "model": self._model,
                "query": question,
                "documents": sent,
                "top_n": len(sent),
                "return_documents": False,
            }
        )

    def _error(self, error: VivaceError) -> RerankError:
        fix = error.fix
        if isinstance(error, ModelTimeout):
            fix = "See the reranking server's log, or lower search.rerank_depth"
        elif isinstance(error, ModelRefused) and self._wants_tei(error):
            fix = "This looks like text-embeddings-inference: write search.rerank as NAME@URL#tei"
        return RerankError(self.client.of(error), fix=fix)

    def _wants_tei(self, error: ModelRefused) -> bool:
        return error.status == 422 and "texts" in error.what and not self._tei


def _is_tei(fragment: str) -> bool:
    if fragment in ("", TEI):
        return fragment == TEI
    raise BadSettings(
        "search.rerank: what stands behind the # is no kind of server",
        fix="Write NAME@URL, or NAME@URL#tei for text-embeddings-inference",
    )


def _scores(count: int, body: bytes) -> Scores:
    """The scores (count,) of an answer, in the order of the documents sent."""
    try:
        answer = msgspec.json.decode(body, type=_RerankAnswer | list[_ScoreRow])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RerankError(f"the answer holds no scores: {error}") from error
    rows = answer.results if isinstance(answer, _RerankAnswer) else answer
    if sorted(row.index for row in rows) != list(range(count)):
        raise RerankError(
            f"{len(rows)} scores of {len({row.index for row in rows})} documents for {count}"
        )
    scores = np.empty(count, np.float32)
    for row in rows:
        value = row.score if row.relevance_score is None else row.relevance_score
        if value is None or not abs(value) <= float(np.finfo(np.float32).max):
            raise RerankError(f"the score of document {row.index} is no number")
        scores[row.index] = value
    return scores
