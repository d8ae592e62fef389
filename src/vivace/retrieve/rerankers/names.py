"""Rerankers by name, as `search.rerank` names them."""

from __future__ import annotations

import re
from typing import Final

from vivace.errors import BadSettings
from vivace.protocols import Reranker
from vivace.run.host import cores
from vivace.run.model_servers import ModelServer, check_key, parse_model_servers
from vivace.run.threads import Cores
from vivace.settings import Settings

WITHIN: Final = frozenset({"auto", "off", "maxsim", "fitted"})
"""What a search does itself or not at all, or what is each collection's own."""
_AT_A_SERVER: Final = re.compile(r"\S+?@https?://.*", re.DOTALL)


def load(settings: Settings, share: Cores | None = None) -> Reranker | None:
    """The reranker that `search.rerank` names, which the caller closes; None for those `WITHIN`.

    One that runs here shares the cores in `share`; a server gets the key, the timeouts and the
    tries of `remote`.

    Raises:
        BadSettings: no reranker has that name.
        RerankError: the model's files are damaged.
        MissingExtra: it needs a library that is not installed.
    """
    name = settings.search.rerank.strip()
    if name in WITHIN:
        return None
    kind, _, model = name.partition(":")
    if kind == "fastembed" and model:
        from vivace.retrieve.rerankers.cross_encoder import CrossEncoder

        workers = settings.embed.workers or cores()
        return CrossEncoder(model, workers=workers, batch=settings.embed.batch, cores=share)
    if kind != "openai" and _AT_A_SERVER.match(name):
        found = _model_servers(name)
        check_key("remote.api_key", settings.remote.api_key)
        # not before it is wanted: importing aiohttp takes 0.1 s
        from vivace.retrieve.rerankers.http import HttpReranker

        return HttpReranker(found, settings.remote)
    # what stands there is not shown: it may hold a password
    raise BadSettings(
        "search.rerank names no reranker",
        fix="Use `auto`, `off`, `maxsim`, `fitted`, `fastembed:NAME-or-folder`, or `NAME@URL` of a "
        "/rerank server, without `openai:`",
    )


def _model_servers(name: str) -> tuple[ModelServer, ...]:
    try:
        return parse_model_servers("search.rerank", f"openai:{name}")
    except BadSettings as error:  # its advice names models of the other wire
        raise BadSettings(error.what, fix=error.fix.replace("openai:", "")) from error
