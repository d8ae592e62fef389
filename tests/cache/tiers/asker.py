"""A process that requests one key many times at once; see test_lease.py.

It prints `computing`, `computed`, and at the end `got VALUE` for each of its requests.
"""

from __future__ import annotations

import asyncio
import sys

from tests.cache.tiers.process import Process
from vivace.cache.tiers.redis import RedisTier


async def main(url: str, requests: int, lease: float, takes: float) -> None:
    process = Process([RedisTier(url, seconds=2.0)], lease=lease, seconds=2.0)
    await process.listening()
    await process.values.get(b"connected")
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

    async def compute() -> bytes:
        print("computing", flush=True)
        await asyncio.sleep(takes)
        print("computed", flush=True)
        return b"the value"

    values = await asyncio.gather(
        *(process.values.get_or_compute(b"the key", compute, ttl=60.0) for _ in range(requests))
    )
    for value in values:
        print("got", value.decode(), flush=True)
    await process.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
