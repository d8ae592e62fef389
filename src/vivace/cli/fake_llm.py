"""vivace fake-llm."""

from __future__ import annotations

import argparse
import signal
import threading

from vivace.cli.output import json_line
from vivace.cli.terminal import say_text
from vivace.testing.fake_llm import FakeModel
from vivace.testing.fake_wire import Behaviour
from vivace.testing.faults import parse


def run(options: argparse.Namespace) -> int:
    behaviour = Behaviour(
        mode=options.mode,
        text=" word" * options.tokens if options.tokens else options.text,
        seed=options.seed,
        ttft_ms=options.ttft_ms,
        delay_ms=options.delay_ms,
        slots=options.slots,
        slowdown=options.slowdown,
        context=options.context,
        dim=options.dim,
        faults=tuple(parse(fault) for fault in options.fault),
    )
    stopped = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stopped.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with FakeModel(behaviour, host=options.host, port=options.port) as fake:
            if options.json:
                json_line({"url": fake.url, "model": behaviour.model})
            else:
                say_text(fake.url)
            stopped.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0
