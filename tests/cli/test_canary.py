"""Nothing that a command or a server says holds a secret of the settings or of an address."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.cli.conftest import Shell
from tests.server.live import serving
from tests.support.model_server import ModelServerDouble, Reply
from vivace import settings
from vivace.engine import Engine

CANARY = "c4n4ry"
NOWHERE = "127.0.0.1:9"
"""A port that nobody listens on."""
VALUES = [
    ("generate.api_key", CANARY),
    ("generate.api_key", f"{CANARY}\n"),
    ("remote.api_key", f"{CANARY} ü"),
    ("parse.password", CANARY),
    *(
        (key, form.format(address))
        for key, form in (
            ("generate.model", "openai:m@{}"),
            ("embed.model", "openai:m@{}"),
            ("embed.model", "{}"),
            ("embed.model", "fastembed:{}"),
            ("generate.model", "{}"),
            ("search.rerank", "m@{}"),
            ("search.rerank", "{}"),
        )
        for address in (
            f"http://u:{CANARY}@{NOWHERE}/v1",
            f"http://{CANARY}@{NOWHERE}/v1",
            f"http://u:{CANARY}/x@{NOWHERE}/v1",
            f"http://{NOWHERE}/v1?api-key={CANARY}",
            f"http://u:{CANARY}@{NOWHERE}x/v1,http://{NOWHERE}/v1*0",
        )
    ),
    *(
        ("cache.redis", address)
        for address in (
            f"redis://:{CANARY}@{NOWHERE}/0",
            f"rediss://u:{CANARY}@{NOWHERE}x/0",
            f"redis+cluster://:{CANARY}@{NOWHERE}",
            f"http://:{CANARY}@{NOWHERE}",
            f"redis://{NOWHERE}/0?password={CANARY}&nonsense={CANARY}",
            f"unix:///tmp/{CANARY}?db={CANARY}",
        )
    ),
    *(
        ("cache.sql", address)
        for address in (
            f"postgresql://u:{CANARY}@{NOWHERE}/d",
            f"postgresql://u:{CANARY}@{NOWHERE}x/d",
            f"postgresql://{NOWHERE}/d?password={CANARY}",
            f"postgres://u:{CANARY}@/d",
            f"mysql://u:{CANARY}@{NOWHERE}/d",
        )
    ),
    ("cache.policy", f"redis://:{CANARY}@host"),
]
COMMANDS = (
    ["settings"],
    ["settings", "--json"],
    ["ask", "How long is the notice period?"],
    ["cache", "clear", "--json"],
)


@pytest.fixture(scope="module")
def embedder() -> Iterator[str]:
    """The name of an embedder that is fast: no model is loaded."""
    with ModelServerDouble() as server:
        yield f"openai:m@{server.url}#4"


@pytest.fixture(scope="module")
def home(embedder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a collection of one document."""
    home = tmp_path_factory.mktemp("home")
    document = home / "leave.md"
    document.write_text("# Leave\n\nThe notice period is six weeks.\n")

    async def ingest() -> None:
        async with Engine(settings.load(home=str(home), embed__model=embedder)) as engine:
            docs = await engine.open()
            assert not (await docs.ingest(document)).errors

    asyncio.run(ingest())
    return home


@pytest.fixture
def made(
    home: Path,
    embedder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The collection of `home` is what commands find, and every log line is kept."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("HOME", str(home)),
        ("EMBED__MODEL", embedder),
        ("GENERATE__RETRIES", "0"),
        ("REMOTE__RETRIES", "0"),
    ):
        monkeypatch.setenv(f"VIVACE_{name}", value)


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(("key", "value"), VALUES)
def test_no_command_says_a_secret(
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    key: str,
    value: str,
) -> None:
    monkeypatch.setenv(f"VIVACE_{key.replace('.', '__').upper()}", value)
    for command in COMMANDS:
        shell.run(*command)
        assert CANARY not in shell.out + shell.err + caplog.text, command


@pytest.fixture
def secretive(made: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServerDouble]:
    """Every secret is set, and every server says the secret it was sent back in its errors."""
    with ModelServerDouble(always=Reply(500, f"the key {CANARY} is wrong")) as server:
        for name, value in (
            ("GENERATE__MODEL", f"openai:m@{server.url}"),
            ("GENERATE__API_KEY", CANARY),
            ("REMOTE__API_KEY", CANARY),
            ("SEARCH__RERANK", f"m@{server.url}"),
            ("PARSE__PASSWORD", CANARY),
            ("CACHE__REDIS", f"redis://:{CANARY}@{NOWHERE}/0"),
            ("CACHE__SQL", f"postgresql://u:{CANARY}@{NOWHERE}/d"),
        ):
            monkeypatch.setenv(f"VIVACE_{name}", value)
        yield server


@pytest.mark.usefixtures("secretive")
def test_no_command_says_any_of_the_secrets(
    shell: Shell, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 nothing")
    said = []
    for command in (
        ["ls"],
        ["search", "notice period"],
        ["ask", "How long is the notice period?"],
        ["ask", "How long is the notice period?", "--json"],
        ["ingest", broken, "--json"],
        ["cache", "stats"],
        ["cache", "clear"],
        ["cache", "warm"],
        ["verify"],
        ["why"],
        [
            "tune",
            "--set",
            f"generate.api_key={CANARY}",
            "--set",
            f"generate.model=m@http://u:{CANARY}@h",
        ],
    ):
        shell.run(*command)
        said.append(shell.out + shell.err)
        assert CANARY not in said[-1] + caplog.text, command
    assert "the key *** is wrong" in "".join(said)


def test_no_answer_metric_trace_or_log_line_of_a_server_says_a_secret(
    secretive: ModelServerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    said = []
    with serving(settings.load(), ["default"]) as live:
        for path, body in (
            ("/v1/search", {"query": "notice period"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "notice period?"}]}),
            ("/v1/embeddings", {"input": "notice period"}),
            ("/v1/models", None),
            ("/healthz", None),
            ("/readyz", None),
            ("/metrics", None),
            ("/nowhere", None),
        ):
            data = None if body is None else json.dumps(body).encode()
            request = Request(live.address + path, data, {"content-type": "application/json"})
            try:
                with urlopen(request, timeout=30) as response:
                    said.append(response.read().decode())
            except HTTPError as error:
                said.append(error.read().decode())
        for trace in (live.state.trace, *(docs.trace for docs in live.state.collections)):
            said += [*trace.counters(), *trace.histograms()]
    assert secretive.requests
    assert CANARY not in "\n".join(said) + caplog.text
