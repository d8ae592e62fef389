"""The limit of one server of a set, for `Endpoints`: learned below its bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vivace.run.balance import Endpoint
from vivace.run.limit import ConcurrencyLimit

START: Final = 4
"""Streams at once before anything is known of a server; more are let in with its first tokens."""


def of_calls(server: Endpoint, grown: Callable[[], None]) -> ConcurrencyLimit:
    """For calls that are answered in one piece; begins at the bound, which is a small one."""
    bound = server.bound
    return ConcurrencyLimit(server.name, highest=bound, start=bound, grown=grown)


def of_streams(server: Endpoint, grown: Callable[[], None]) -> ConcurrencyLimit:
    """For streams of tokens, whose holders tell the tokens with `Lease.came`."""
    return ConcurrencyLimit(server.name, highest=server.bound, start=START, paced=True, grown=grown)
