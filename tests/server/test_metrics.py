"""Model servers and recall on the page of metrics."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.live import serving
from tests.support.model_server import DIM, ModelServerDouble
from vivace import settings
from vivace.engine import Engine
from vivace.run.balance import Endpoint
from vivace.run.breaker import Tolerance
from vivace.run.endpoints import Endpoints
from vivace.server.metrics import endpoint_rows, recall_rows
from vivace.types import Document


async def test_rows_of_model_servers() -> None:
    servers = [Endpoint("http://a/v1", 2.5, 7), Endpoint('http://b/"v1')]
    models = Endpoints("m", servers, tolerance=Tolerance(in_row=1))
    with await models.lease(avoid=["http://a/v1"]) as lease:
        lease.failed("it broke")
    with await models.lease() as lease:
        lease.alive()
        lines = list(endpoint_rows({"generate": models.statistics()}))
    assert 'vivace_endpoint_in_use{for="generate",server="http://a/v1"} 1' in lines
    assert 'vivace_endpoint_weight{for="generate",server="http://a/v1"} 2.5' in lines
    assert 'vivace_endpoint_failed_total{for="generate",server="http://b/\\"v1"} 1' in lines
    assert 'vivace_endpoint_closed{for="generate",server="http://b/\\"v1"} 0' in lines
    assert 'vivace_endpoints_waiting{for="generate"} 0' in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) == 14
    row = re.compile(r'\w+\{for="generate"(,server="(\\.|[^"\\])*")?\} [0-9.e+-]+')
    assert all(line.startswith("# ") or row.fullmatch(line) for line in lines)
    assert list(endpoint_rows({})) == []


@pytest.fixture
def servers() -> Iterator[dict[str, ModelServerDouble]]:
    with ModelServerDouble() as generate, ModelServerDouble() as embed, ModelServerDouble() as rank:
        yield {"generate": generate, "embed": embed, "rerank": rank}


def test_a_request_to_metrics_shows_every_model_server(
    servers: dict[str, ModelServerDouble], tmp_path: Path
) -> None:
    config = settings.load(
        home=str(tmp_path),
        embed__model=f"openai:e5@{servers['embed'].url}#{DIM}",
        search__rerank=f"bge@{servers['rerank'].url}",
        generate__model=f"openai:m@{servers['generate'].url}",
    )

    async def fill() -> None:
        async with Engine(config) as engine:
            docs = await engine.open("docs")
            await docs.add([Document("a", "Green grass."), Document("b", "Grass on a stone.")])

    asyncio.run(fill())
    question = {"model": "vivace", "messages": [{"role": "user", "content": "green grass"}]}
    with serving(config, ["docs"]) as live, httpx.Client(base_url=live.address) as http:
        assert http.post("/v1/chat/completions", json=question).status_code == 200
        lines = http.get("/metrics").text.splitlines()
    for purpose, server in servers.items():
        labels = f'{{for="{purpose}",server="{server.url}"}}'
        assert f"vivace_endpoint_in_use{labels} 0" in lines
        assert f"vivace_endpoint_closed{labels} 1" in lines
        assert f"vivace_endpoint_idle_connections{labels} 1" in lines
        assert f"vivace_endpoint_failed_total{labels} 0" in lines
        (started,) = (
            line for line in lines if line.startswith(f"vivace_endpoint_started_total{labels}")
        )
        assert int(started.split()[-1]) >= 1
        assert f'vivace_endpoints_waiting{{for="{purpose}"}} 0' in lines
    assert not any("grass" in line for line in lines)


def gauges(mean: float, queries: int) -> dict[str, float]:
    names = {"low": mean - 0.1, "mean": mean, "high": mean + 0.1, "queries": queries}
    return {f"recall.{name}": value for name, value in names.items()}


def test_recall_is_that_of_the_worst_collection() -> None:
    lines = list(recall_rows([gauges(0.9, 40), {}, gauges(0.8, 25), gauges(0.0, 0)]))
    assert lines == [
        "# HELP vivace_recall Recall@10 of live questions (lowest collection), 95 % interval",
        "# TYPE vivace_recall gauge",
        'vivace_recall{bound="low"} 0.7000',
        'vivace_recall{bound="mean"} 0.8000',
        'vivace_recall{bound="high"} 0.9000',
        "# HELP vivace_recall_samples Live questions that it rests on",
        "# TYPE vivace_recall_samples gauge",
        "vivace_recall_samples 25",
    ]


def test_no_recall_rows_without_samples() -> None:
    assert list(recall_rows([{}, gauges(0.0, 0)])) == []
