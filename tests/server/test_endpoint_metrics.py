"""Sets of servers on the page of metrics."""

from __future__ import annotations

import re

from vivace.run.balance import Endpoint
from vivace.run.breaker import Tolerance
from vivace.run.endpoints import Endpoints
from vivace.server.metrics import endpoint_rows


async def test_rows() -> None:
    servers = [Endpoint("http://a/v1", 2.5, 7), Endpoint('http://b/"v1')]
    models = Endpoints("m", servers, tolerance=Tolerance(in_row=1))
    with await models.lease(avoid=["http://a/v1"]) as lease:
        lease.failed("it broke")
    with await models.lease() as lease:
        lease.alive()
        lines = list(endpoint_rows([("generate", models.statistics())]))
    assert 'vivace_endpoint_in_use{for="generate",server="http://a/v1"} 1' in lines
    assert 'vivace_endpoint_weight{for="generate",server="http://a/v1"} 2.5' in lines
    assert 'vivace_endpoint_failed_total{for="generate",server="http://b/\\"v1"} 1' in lines
    assert 'vivace_endpoint_closed{for="generate",server="http://b/\\"v1"} 0' in lines
    assert 'vivace_endpoints_waiting{for="generate"} 0' in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) == 14
    row = re.compile(r'\w+\{for="generate"(,server="(\\.|[^"\\])*")?\} [0-9.e+-]+')
    assert all(line.startswith("# ") or row.fullmatch(line) for line in lines)
    assert list(endpoint_rows([])) == []
