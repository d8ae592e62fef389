"""Which settings a `vivace.toml` may change that just lies in the working folder, and trusting one.

A folder may come from a stranger. Its file may tune what is found and how an answer looks. What
names an address, a file, a model, a prompt, a secret or a command, lifts a limit that protects this
machine, or spends more money, needs a file that the user has named or trusted: otherwise a folder
could have the user's keys sent to a server of its choice.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import msgspec

from vivace.errors import BadSettings

FOLDER_KEYS: Final = frozenset(
    """
    embed.tokens embed.batch
    chunk.tokens chunk.overlap
    ingest.index_title ingest.commit_chunks ingest.commit_seconds
    index.family index.metric index.seal_chunks index.merge_factor
    index.terms_chunks index.terms_seconds
    search.candidates search.fusion search.keyword_weight search.rerank_depth search.rerank_weight
    search.mmr search.rerank_seconds search.distinct
    answer.passages answer.sentences answer.documents answer.summary answer.deduplicate
    answer.compress answer.order answer.structure answer.refuse_below answer.ground
    generate.temperature generate.standalone generate.coalesce
    server.port
    tune.recall tune.p95_ms tune.memory_mib
    cache.policy cache.embeddings cache.searches cache.answers
    """.split()  # noqa: SIM905
)
"""What a file that nobody trusts may set: numbers, switches and choices, never free text."""
TRUSTED_KEYS: Final = frozenset(
    """
    home
    embed.model embed.workers
    remote.api_key remote.batch remote.concurrency remote.seconds remote.query_seconds
    remote.retries
    ingest.max_file_mib ingest.links
    parse.seconds parse.memory_mib parse.pages parse.chars parse.zip_entries parse.zip_mib
    parse.zip_ratio parse.workers parse.password
    search.rerank search.max_question_chars search.threads
    answer.templates answer.parallel
    generate.model generate.api_key generate.max_tokens generate.context_tokens generate.tokenizer
    generate.system generate.connect_seconds generate.first_token_seconds generate.between_seconds
    generate.total_seconds generate.retries generate.connections generate.coalesce_sampled
    generate.price_prompt generate.price_cached generate.price_completion
    server.host server.hosts server.origins server.max_body_mib server.body_seconds
    server.bodies_mib server.max_url_bytes server.max_headers server.max_head_kib
    server.head_seconds server.idle_seconds server.connections server.connections_per_address
    server.drain_seconds
    admission.search admission.chat admission.highest admission.queue admission.search_seconds
    admission.chat_wait_seconds
    queries.log queries.keep
    tune.budget_seconds tune.guard tune.guard_share tune.retune tune.retune_seconds
    cache.memory_mib cache.sampled cache.seconds cache.stale_seconds cache.negative_seconds
    cache.redis cache.sql cache.secret cache.sql_mib cache.tier_ms cache.semantic
    cache.semantic_bound
    """.split()  # noqa: SIM905
)
"""Every other key. A new one is listed here or above; in neither, it needs trust."""

_STORE: Final = "trusted.json"
_PERSON: Final = b"vivace trust 1"


def data_home() -> Path:
    """Vivace's folder below `$XDG_DATA_HOME`."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "vivace"


def keys(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The keys that a table of settings sets, as `generate.model`."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def needing_trust(table: Mapping[str, Any]) -> list[str]:
    return sorted(set(keys(table)) - FOLDER_KEYS)


def check(path: Path, data: bytes, table: Mapping[str, Any]) -> None:
    """Check that the file, which holds `data`, may set what `table` sets.

    Raises:
        BadSettings: it may not; names the keys, the file and both ways to use it.
    """
    refused = needing_trust(table)
    if not refused or is_trusted(path, data):
        return
    named = shlex.quote(str(path.absolute()))
    raise BadSettings(
        f"{path.absolute()} sets {_listed(refused)}, and only a file you trust may set that",
        fix=f"Read the file first. Then run `vivace trust {named}`, again after every change of it,"
        f" or name it each time: --config {named}",
    )


def is_trusted(path: Path, data: bytes) -> bool:
    """Whether the user has trusted this file with this content."""
    return _read().get(_name(path)) == _digest(data)


def remember(path: Path, data: bytes) -> None:
    """Trust this file as long as it holds this content.

    Raises:
        OSError: the list of trusted files cannot be written.
    """
    _write({**_read(), _name(path): _digest(data)})


def forget(path: Path) -> bool:
    """Trust this file no longer; whether it was trusted with any content.

    Raises:
        OSError: the list of trusted files cannot be written.
    """
    trusted = _read()
    found = trusted.pop(_name(path), None) is not None
    if found:
        _write(trusted)
    return found


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _name(path: Path) -> str:
    """The real path, with bytes that are no text escaped, as JSON can carry it."""
    return str(path.resolve()).encode("utf-8", "backslashreplace").decode()


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=32, person=_PERSON).hexdigest()


def _read() -> dict[str, str]:
    """Digests by path. What cannot be read trusts nothing."""
    try:
        return msgspec.json.decode((data_home() / _STORE).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}


def _write(trusted: Mapping[str, str]) -> None:
    folder = data_home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file, new = tempfile.mkstemp(prefix=f".{_STORE}.", dir=folder)  # mode 0600
    try:
        with os.fdopen(file, "wb") as out:
            out.write(msgspec.json.format(msgspec.json.encode(trusted)))
        os.replace(new, folder / _STORE)
    except BaseException:
        os.unlink(new)
        raise
