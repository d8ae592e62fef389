"""Models by name, as `generate.model` names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vivace.errors import BadSettings
from vivace.run.model_servers import check_key, parse_model_servers
from vivace.settings import Generate

if TYPE_CHECKING:
    from vivace.generate.openai import OpenAI


def load(settings: Generate) -> OpenAI | None:
    """The model that `generate.model` names; None where it is empty. The caller closes it.

    Raises:
        BadSettings: no model has that name, or the key cannot be sent in a header.
    """
    if not settings.model:
        return None
    found = parse_model_servers("generate.model", settings.model)
    if not found or found[0].fragment:
        raise BadSettings(
            "generate.model: this names no model",
            fix="Leave it empty, or write openai:NAME@URL, the URL ending in /v1",
        )
    check_key("generate.api_key", settings.api_key)
    # not before it is wanted: importing aiohttp takes 0.1 s
    from vivace.generate.openai import OpenAI

    return OpenAI(found, settings)
