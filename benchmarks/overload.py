"""What is left of the server when more is asked than it can answer?

    python -m benchmarks.overload [--documents N] [--seconds S] [--modes learned,none,...] [--json]

One server process on one core, searches with real embedding, a deadline of 250 ms in the header;
an open-loop generator (Poisson arrivals) on the other core. Goodput counts the answers that arrive
within the deadline by the client's clock, as a share of the capacity: what eight clients get that
ask one question after another. Clients leave after a second. `rejected` is the share that was
answered with an error, `gone` the share that had no answer. p99 is of the admitted.

`recovery_s`: seconds from the end of the tenfold load to the last request of a light load after it
that fails or is late. `refusal_us` is the server's CPU for a request whose deadline has passed.

Modes: the learned limit; no admission (a fixed limit that is never reached); a fixed limit of 16.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.http import UNCACHED, prepare, questions
from benchmarks.openloop import GONE, Asked, Load, post
from benchmarks.report import show
from benchmarks.wire import Process, last_core, leave, quantile, vivace

DEADLINE = 0.25
LOADS = (0.7, 1.0, 1.5, 3.0, 10.0)
MODES = {
    "learned": ("admission.search=0",),
    "none": ("admission.search=100000",),
    "fixed_16": ("admission.search=16",),
}
CLIENTS = 8
PATIENCE = 1.0
LIGHT = 0.3
_RECOVERY = 4.0


def search_requests(n: int, deadline: float = DEADLINE) -> list[bytes]:
    header = b"x-request-timeout-ms: %g" % (deadline * 1e3)
    return [
        post("/v1/search", json.dumps({"query": text, "k": 10}).encode(), header)
        for text in islice(questions(), n)
    ]


async def closed(server: Process, requests: list[bytes], seconds: float) -> float:
    """Answers a second for clients that wait for each; errors count as well."""
    load = Load(server.first_line["address"], patience=60)
    end = time.perf_counter() + seconds
    done = 0

    async def client(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            one = await load.one(requests[(number * 997 + done) % len(requests)])
            assert one.status != GONE
            done += 1

    start = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    elapsed = time.perf_counter() - start
    await load.close()
    return done / elapsed


async def refusal_us(server: Process) -> float:
    """CPU microseconds of a request that is refused at once."""
    requests = search_requests(500, 1e-9)
    await closed(server, requests, 0.5)
    cpu = server.cpu_seconds()
    answered = await closed(server, requests, 2.0)
    return (server.cpu_seconds() - cpu) / (answered * 2.0) * 1e6


def figures(asked: list[Asked], seconds: float, capacity: float) -> dict[str, float]:
    served = [one.ended - one.due for one in asked if one.status == 200]
    lags = [one.sent - one.due for one in asked if one.sent]
    count = len(asked)
    return {
        "goodput_ratio": round(sum(one.good(DEADLINE) for one in asked) / seconds / capacity, 3),
        "p50_ms": round(quantile(served, 0.5) * 1e3, 1) if served else 0.0,
        "p99_ms": round(quantile(served, 0.99) * 1e3, 1) if served else 0.0,
        "rejected": round(sum(one.status not in (200, GONE) for one in asked) / count, 4),
        "gone": round(sum(one.status == GONE for one in asked) / count, 4),
        "offered_per_s": round(count / seconds, 1),
        "generator_lag_p99_ms": round(quantile(lags, 0.99) * 1e3, 1),
    }


async def overload(
    server: Process, requests: list[bytes], capacity: float, options: argparse.Namespace
) -> dict[str, Any]:
    draw = random.Random(1)
    rows: dict[str, dict[str, float]] = {}
    load = Load(server.first_line["address"], patience=PATIENCE)
    await load.offer(requests, LIGHT * capacity, 1.0, draw)
    for times in LOADS:
        asked = await load.offer(requests, times * capacity, options.seconds, draw)
        rows[f"{times:g}"] = figures(asked, options.seconds, capacity)
        if times != LOADS[-1]:
            await load.offer(requests, LIGHT * capacity, 1.0, draw)
    end = asked[-1].due
    light = await load.offer(requests, LIGHT * capacity, _RECOVERY, draw)
    await load.close()
    bad = [one.due - end for one in light if not one.good(DEADLINE)]
    names = rows["1"].keys()
    return {
        **{name: {times: row[name] for times, row in rows.items()} for name in names},
        "recovery_s": round(max(bad, default=0.0), 2),
    }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    core = last_core()
    requests = search_requests(8_000)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vivace-bench-") as temporary:
        where = await prepare(Path(temporary), options.documents)
        leave(core)
        for mode in options.modes.split(","):
            settings = [word for setting in MODES[mode] for word in ("--set", setting)]
            arguments = ("serve", "--collection", where, "--port", "0", *UNCACHED, *settings)
            with vivace(*arguments, core=core) as server:
                await closed(server, search_requests(500, 60), 1.0)
                # of this server and of this minute: the machine is not always as fast
                capacity = await closed(server, search_requests(4000, 60), 4.0)
                found[mode] = {
                    "capacity_rps": round(capacity, 1),
                    **await overload(server, requests, capacity, options),
                }
                if mode == "learned":
                    found["refusal_us"] = round(await refusal_us(server), 1)
    return {
        "deadline_ms": DEADLINE * 1e3,
        "documents": options.documents,
        "seconds": options.seconds,
        **found.pop("learned", {}),
        **found,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        show(runner.run(measure(options)), as_json=options.json)
