"""What the application serves: one engine, its collections, and how many requests it admits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from vivace.engine import Collection, Engine
from vivace.engine.caching import Caching
from vivace.errors import BadInput, EmbeddingError
from vivace.run.endpoints import EndpointsStatistics
from vivace.run.host import EventLoopLag
from vivace.run.limit import START, ConcurrencyLimit
from vivace.server.body import BodyBudget
from vivace.server.connection import ConnectionLimits, most_files
from vivace.server.errors import NoSuchModel
from vivace.server.middleware import InFlight
from vivace.server.wire import DEFAULT_MODEL
from vivace.settings import Settings
from vivace.trace import Trace

_WARM_UP = "How long does it take to load the model?"
MOST_SHED = 0.5
"""The server is not ready while it refuses at least this share of a kind of requests."""
SEARCH, CHAT = "search", "chat"
"""The kinds of requests that are limited."""


def limits(settings: Settings) -> dict[str, ConcurrencyLimit]:
    """One limit for each kind of requests."""
    admission = settings.admission

    def limit(kind: str, fixed: int, patience: float, start: int = START) -> ConcurrencyLimit:
        lowest, highest = (fixed, fixed) if fixed else (1, admission.highest)
        return ConcurrencyLimit(
            kind,
            lowest=lowest,
            highest=highest,
            start=min(start, highest),
            queue=admission.queue,
            patience=patience,
        )

    # a model's answers wait for its server, not for this one: start with its connections
    answers = settings.generate.connections if settings.generate.model else START
    return {
        SEARCH: limit(SEARCH, admission.search, admission.search_seconds),
        CHAT: limit(CHAT, admission.chat, admission.chat_wait_seconds, answers),
    }


class AppState:
    """The engine, the collections by the names they are served under, the limits, the counters.

    The first collection is also served under the name `vivace`.

    Raises:
        BadInput: two collections would be served under one name.
    """

    def __init__(
        self,
        settings: Settings,
        collections: Sequence[str],
        *,
        engine: Callable[[Settings], Engine] = Engine,
    ) -> None:
        self.settings = settings
        self.trace = Trace()
        self.in_flight = InFlight()
        self.ready = False
        self.draining = False
        """The server is stopping: running requests are finished, new ones refused."""
        self.limits = limits(settings)
        self.bodies = BodyBudget(settings.server.bodies_mib << 20)
        self.connections = ConnectionLimits(settings.server, self.trace, files=most_files())
        self.lag = EventLoopLag()
        self._places = {served_name(name): name for name in collections}
        if len(self._places) < len(collections) or DEFAULT_MODEL in self._places:
            raise BadInput(
                f"the collections {', '.join(collections)} would share a name",
                fix=f"A collection is served under its folder's name; {DEFAULT_MODEL!r} is taken",
            )
        self._make_engine = engine
        self._engine: Engine | None = None
        self._collections: dict[str, Collection] = {}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open the engine and the collections and load the model; close all when idle again.

        Raises:
            CollectionNotFound: a collection does not exist.
            StoreError: a collection cannot be opened.
        """
        async with self._make_engine(self.settings) as engine:
            self._engine = engine
            for name, place in self._places.items():
                self._collections[name] = await engine.open(place, create=False)
            await self._warm_up(engine)
            self.ready = True
            try:
                with self.lag:
                    yield
            finally:
                self.ready = False
                # requests cancelled at the end of the drain still have to release what they hold
                await self.in_flight.idle()
                self._collections.clear()
                self._engine = None

    async def _warm_up(self, engine: Engine) -> None:
        """Load the model now, not at the first question; without one, keywords still search."""
        try:
            await engine.resources.embedder.embed([_WARM_UP], kind="query")
        except EmbeddingError:
            self.trace.count("warm_up.failed")

    @property
    def accepting(self) -> bool:
        """Whether to send more requests here: not while most of one kind are refused."""
        shedding = max(limit.shedding for limit in self.limits.values())
        return self.ready and not self.draining and shedding < MOST_SHED

    @property
    def engine(self) -> Engine:
        assert self._engine is not None  # requests are served only while it is open
        return self._engine

    @property
    def caching(self) -> Caching | None:
        """The engine's caches; None before it is open."""
        return None if self._engine is None else self._engine.resources.caching

    def server_statistics(self) -> dict[str, EndpointsStatistics]:
        """Of the engine's model servers, by purpose; none before it is open."""
        return {} if self._engine is None else self._engine.resources.server_statistics()

    @property
    def names(self) -> list[str]:
        return list(self._places)

    @property
    def collections(self) -> list[Collection]:
        return list(self._collections.values())

    def collection(self, model: str) -> Collection:
        """The collection that a request's `model` names.

        Raises:
            NoSuchModel: it names none.
        """
        if model == DEFAULT_MODEL:
            model = self.names[0]
        found = self._collections.get(model)
        if found is None:
            raise NoSuchModel("the model does not exist", fix="GET /v1/models lists those that do")
        return found


def served_name(place: str) -> str:
    """The name a collection is served under: its own, or its folder's."""
    return Path(place).expanduser().absolute().name if "/" in place or place == "." else place
