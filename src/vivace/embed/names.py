"""Loads the embedder that the setting `embed.model` names."""

from __future__ import annotations

import re

from vivace.embed.minilm import MiniLM
from vivace.embed.precomputed import MAX_DIM, Precomputed
from vivace.errors import BadSettings
from vivace.protocols import Embedder
from vivace.run.host import cores
from vivace.run.model_servers import check_key, parse_model_servers
from vivace.run.threads import Cores
from vivace.settings import Settings
from vivace.settings.masking import shown_value


def load(settings: Settings, share: Cores | None = None) -> Embedder:
    """The embedder that `embed.model` names; the caller closes it.

    An embedder on this machine shares the cores in `share`.

    Raises:
        BadSettings: no embedder has that name.
        EmbeddingError: the model's files are damaged, or its server cannot be asked.
        MissingExtra: it needs a library that is not installed.
    """
    name, workers = settings.embed.model, settings.embed.workers or cores()
    if name == "builtin":
        return MiniLM(workers=workers, batch=settings.embed.batch, cores=share)
    given = re.fullmatch(r"given:([1-9][0-9]{0,4})", name)
    if given and int(given[1]) <= MAX_DIM:
        return Precomputed(int(given[1]))
    if found := parse_model_servers("embed.model", name):
        check_key("remote.api_key", settings.remote.api_key)
        # imported when needed: aiohttp takes 0.1 s
        from vivace.embed.openai import OpenAIEmbedder

        return OpenAIEmbedder(found, settings.remote)
    kind, _, model = name.partition(":")
    if kind == "fastembed" and model:
        from vivace.embed.fastembed import FastEmbed

        return FastEmbed(model, workers=workers, batch=settings.embed.batch, cores=share)
    raise BadSettings(
        f"embed.model: there is no embedder named {shown_value(name)!r}",
        fix=f"Use `builtin`, `given:DIM` with DIM from 1 to {MAX_DIM}, `openai:NAME@URL`, "
        "or `fastembed:NAME-or-folder`",
    )
