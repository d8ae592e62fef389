"""Embedders by name, as `embed.model` names them."""

from __future__ import annotations

import re

from vivace.embed.given import Given
from vivace.embed.minilm import MiniLM
from vivace.errors import BadSettings
from vivace.run.host import cores
from vivace.settings import Embed

MAX_DIM = 65_536


def load(settings: Embed) -> MiniLM | Given:
    """The embedder that `embed.model` names; the caller closes it.

    Raises:
        BadSettings: no embedder has that name.
        EmbeddingError: the built-in model's files are damaged.
    """
    if settings.model == "builtin":
        return MiniLM(workers=settings.workers or cores(), batch=settings.batch)
    given = re.fullmatch(r"given:([1-9][0-9]{0,4})", settings.model)
    if given and int(given[1]) <= MAX_DIM:
        return Given(int(given[1]))
    raise BadSettings(
        f"embed.model: there is no embedder named {settings.model!r}",
        fix=f"Use `builtin`, or `given:DIM` with DIM from 1 to {MAX_DIM}, such as `given:128`",
    )
