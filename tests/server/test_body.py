"""Bodies are read whole, within bounds of size, time and the memory of all of them."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from vivace.server.body import Body, BodyBudget, BodyReader, PartialBody
from vivace.server.errors import BodiesTooLarge, BodyTooLarge, ClientGone, RequestTimeout
from vivace.settings import Server

MIB = 1 << 20


class Sender:
    """A client that sends pieces of a body; `receive` is the server's end."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()

    def send(self, body: bytes, *, more: bool = True) -> None:
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Message:
        return await self._messages.get()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def reader(budget: BodyBudget, *, most: int = 8, seconds: float = 10.0) -> BodyReader:
    return BodyReader(Server(max_body_mib=most, body_seconds=seconds), budget)


async def whole(reader: BodyReader, sender: Sender, announced: int = 0) -> Body:
    body, held = await reader.read(sender.receive, announced)
    if held is not None:
        held.release()
    return body


async def test_a_body_in_one_piece_is_not_counted() -> None:
    budget, sender = BodyBudget(1), Sender()
    sender.send(b"x" * 1000, more=False)
    body, held = await reader(budget).read(sender.receive, 1000)
    assert (bytes(body), held, budget.held) == (b"x" * 1000, None, 0)


async def test_a_body_in_pieces_counts_until_it_is_released() -> None:
    budget, sender = BodyBudget(MIB), Sender()
    for piece in (b"one", b"", b"two"):
        sender.send(piece)
    sender.send(b"three", more=False)
    body, held = await reader(budget).read(sender.receive, 11)
    assert bytes(body) == b"onetwothree"
    assert budget.held == 11
    assert held is not None
    held.release()
    held.release()
    assert budget.held == 0


@pytest.mark.parametrize("pieces", [1, 2, 20])
async def test_a_body_over_the_limit_is_refused(pieces: int) -> None:
    budget, sender = BodyBudget(64 * MIB), Sender()
    for _ in range(pieces):
        sender.send(b"x" * (2 * MIB // pieces))
    with pytest.raises(BodyTooLarge, match="1,048,576 bytes"):
        await whole(reader(budget, most=1), sender)
    assert budget.held == 0


async def test_an_announced_body_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(BodyTooLarge):
        await whole(reader(BodyBudget(MIB), most=1), Sender(), MIB + 1)


async def test_a_slow_body_is_refused_in_time() -> None:
    budget, sender = BodyBudget(MIB), Sender()
    sender.send(b"{")
    with pytest.raises(RequestTimeout, match=r"not complete after 0\.01 s"):
        await whole(reader(budget, seconds=0.01), sender)
    assert budget.held == 0


async def test_a_wake_up_after_the_time_ends_a_body_that_never_began() -> None:
    sender = Sender()
    reading = asyncio.create_task(whole(reader(BodyBudget(MIB), seconds=0.01), sender))
    await asyncio.sleep(0.02)
    sender.send(b"")  # as the connection's sweep wakes it
    with pytest.raises(RequestTimeout):
        await reading


async def test_a_client_that_leaves() -> None:
    budget = BodyBudget(MIB)
    for pieces in (0, 1, 3):
        sender = Sender()
        for _ in range(pieces):
            sender.send(b"x")
        sender.leave()
        with pytest.raises(ClientGone):
            await whole(reader(budget), sender)
    assert budget.held == 0


async def test_bodies_that_never_end_hold_no_more_than_the_budget() -> None:
    """The largest is refused, whoever comes; a small one always gets through."""
    most = 4 * MIB
    budget = BodyBudget(most)
    senders = [Sender() for _ in range(30)]
    reading = [asyncio.create_task(whole(reader(budget), sender)) for sender in senders]
    for turn in range(40):
        for number, sender in enumerate(senders):
            sender.send(b"x" * (10_000 + 1000 * number))
            await settle()
            assert budget.held <= most
        small = Sender()
        small.send(b"{")
        small.send(b"}", more=False)
        assert bytes(await whole(reader(budget), small)) == b"{}", turn
    refused = [task for task in reading if task.done()]
    assert len(refused) > 10
    for task in refused:
        assert isinstance(task.exception(), BodiesTooLarge)
    assert not reading[0].done()  # the smallest
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    assert budget.held == 0


async def test_whole_bodies_that_wait_are_not_given_up() -> None:
    budget = BodyBudget(MIB)
    kept: list[PartialBody] = []
    for _ in range(2):
        sender = Sender()
        sender.send(b"x" * 400_000)
        sender.send(b"", more=False)
        _, held = await reader(budget).read(sender.receive, 0)
        assert held is not None
        kept.append(held)
    late = Sender()
    late.send(b"x" * 400_000)
    with pytest.raises(BodiesTooLarge):
        await whole(reader(budget), late)
    assert budget.held == 800_000
    for held in kept:
        held.release()
    assert budget.held == 0


async def test_what_arrives_for_a_body_that_was_given_up_is_dropped() -> None:
    budget, first = BodyBudget(MIB), Sender()
    reading = asyncio.create_task(whole(reader(budget), first))
    first.send(b"x" * 600_000)
    await settle()
    second = Sender()
    other = asyncio.create_task(whole(reader(budget), second))
    second.send(b"x" * 500_000)
    first.send(b"x" * 600_000)  # at the same time
    await settle()
    assert budget.held == 500_000
    with pytest.raises(BodiesTooLarge):
        await reading
    second.send(b"", more=False)
    assert len(await other) == 500_000
