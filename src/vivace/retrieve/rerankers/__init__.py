"""Rerankers that are models, by name as `search.rerank` has it."""

from __future__ import annotations

import re
from typing import Final

from vivace.errors import BadSettings
from vivace.protocols import Reranker
from vivace.run.host import cores
from vivace.run.model_servers import ModelServer, check_key, parse_model_servers
from vivace.run.threads import Cores
from vivace.settings import Settings

WITHOUT_MODEL: Final = frozenset({"auto", "off", "maxsim", "fitted"})
"""Names that load nothing here: the search does these itself, or each collection has its own."""
_AT_A_SERVER: Final = re.compile(r"\S+?@https?://.*", re.DOTALL)


def load(settings: Settings, share: Cores | None = None) -> Reranker | None:
    """The reranker that `search.rerank` names, for the caller to close; None if `WITHOUT_MODEL`.

    One that runs in this process shares the cores in `share`; one at a server gets the key, the
    timeouts and the retries of `remote`.

    Raises:
        BadSettings: no reranker has that name.
        RerankError: the model's files are damaged.
        MissingExtra: it needs a library that is not installed.
    """
    name = settings.search.rerank.strip()
    if name in WITHOUT_MODEL:
        return None
    kind, _, model = name.partition(":")
    if kind == "fastembed" and model:
        from vivace.retrieve.rerankers.cross_encoder import CrossEncoder

        workers = settings.embed.workers or cores()
        return CrossEncoder(model, workers=workers, batch=settings.embed.batch, cores=share)
    if kind != "openai" and _AT_A_SERVER.match(name):
        found = _servers(name)
        check_key("remote.api_key", settings.remote.api_key)
        # only where it is used: importing aiohttp takes 0.1 s
        from vivace.retrieve.rerankers.http import HttpReranker

        return HttpReranker(found, settings.remote)
    # the value is not shown: it may contain a password
    raise BadSettings(
        "search.rerank names no reranker",
        fix="Use `auto`, `off`, `maxsim`, `fitted`, `fastembed:NAME-or-folder`, or `NAME@URL` of a "
        "/rerank server, without `openai:`",
    )


def _servers(name: str) -> tuple[ModelServer, ...]:
    try:
        return parse_model_servers("search.rerank", f"openai:{name}")
    except BadSettings as error:  # its advice names models of the other wire
        raise BadSettings(error.what, fix=error.fix.replace("openai:", "")) from error
