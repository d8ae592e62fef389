"""An engine that remembers: what is asked twice, what it tells, and how it is switched off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import pytest

from tests.cache.changing import Salted, engine, settings_of
from tests.cache.turns import until
from vivace.cache.adaptation import POLICIES
from vivace.cli import main
from vivace.cli.cache import server_statistics
from vivace.engine import Collection, Engine
from vivace.engine.resources import TimedSearcher
from vivace.generate.coalesce import Coalesced
from vivace.server.metrics import cache_rows
from vivace.types import Document, Query

TEXTS = {"leave": "The notice period is six weeks.", "lunch": "Lunch is at noon.", "rest": "Rest."}


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Engine]:
    async with engine(settings_of(), "s", "m") as made:
        yield made


@pytest.fixture
async def docs(made: Engine, tmp_path: Path) -> Collection:
    docs = await made.open(tmp_path / "c")
    await docs.add([Document(id, text) for id, text in TEXTS.items()])
    return docs


def hits(made: Engine) -> dict[str, int]:
    found = made.resources.caching.statistics()
    assert found is not None
    return {kind: counts.hits for kind, counts in found.kinds.items()}


async def test_what_is_asked_twice_is_remembered(made: Engine, docs: Collection) -> None:
    first, again = await docs.ask("notice period"), await docs.ask("notice period")
    assert first.text == again.text
    assert hits(made) == {"embedding": 0, "search": 1, "answer": 1}
    assert first.usage is not None
    assert again.usage is not None
    assert (first.usage.free, again.usage.free) == (False, True)
    assert (first.cached, again.cached) == ("", "exact")
    tokens = first.usage.prompt_tokens + first.usage.completion_tokens
    assert made.resources.caching.tokens_saved == tokens


async def test_an_answer_outlives_the_edit_of_another_document_only(
    made: Engine, docs: Collection
) -> None:
    query = Query("notice period weeks", k=1)
    before = await docs.ask(query)
    await docs.add([Document("lunch", "Lunch is at one.")])
    assert (await docs.ask(query)).text == before.text
    assert hits(made)["answer"] == 1
    await docs.add([Document("leave", "The notice period is two weeks.")])
    after = await docs.ask(query)
    assert after.text != before.text
    assert hits(made)["answer"] == 1


async def test_a_hundred_at_once_are_one_search_and_one_embedding(
    made: Engine, docs: Collection
) -> None:
    await asyncio.gather(*(docs.search("notice period") for _ in range(100)))
    found = made.resources.caching.statistics()
    assert found is not None
    assert found.kinds["search"].shared == 99
    assert found.kinds["embedding"].sets == 1


async def test_without_memory_nothing_is_wrapped(tmp_path: Path) -> None:
    async with engine(settings_of(cache={"memory_mib": 0}), "s", "m") as made:
        docs = await made.open(tmp_path / "c")
        # requests at once are coalesced, earlier ones are not repeated
        assert isinstance(made.resources.generator, Coalesced)
        assert isinstance(made.resources.questions, Salted)
        assert isinstance(docs.searcher, TimedSearcher)
        assert made.resources.caching.statistics() is None
        assert (await made.resources.caching.clear()).values == 0
        assert list(cache_rows(made.resources.caching)) == []


@pytest.mark.parametrize("off", ["embeddings", "searches", "answers"])
async def test_a_kind_is_switched_off(tmp_path: Path, off: str) -> None:
    async with engine(settings_of(cache={off: False}), "s", "m") as made:
        docs = await made.open(tmp_path / "c")
        await docs.add([Document("leave", TEXTS["leave"])])
        await docs.ask("notice period")
        found = made.resources.caching.statistics()
        assert found is not None
        assert set(found.kinds) == {"embedding", "search", "answer"} - {
            off.removesuffix("es") if off == "searches" else off.removesuffix("s")
        }


async def test_the_log_holds_what_was_remembered_too(tmp_path: Path) -> None:
    settings = settings_of(log=True)
    async with engine(settings, "s", "m") as made:
        docs = await made.open(tmp_path / "c")
        await docs.add([Document("leave", TEXTS["leave"])])
        for _ in range(3):
            await docs.search("notice period")
        await asyncio.to_thread(docs.query_log.flush)
        assert [row[1] for row in docs.corpus.store.queries()] == ["notice period"] * 3
        asked = await docs.question_counts()
        assert (asked.questions, asked.distinct) == (3, 1)
        assert asked.repeated == pytest.approx(2 / 3)


async def test_what_was_asked_most_is_asked_again(tmp_path: Path) -> None:
    settings = settings_of(log=True)
    async with engine(settings, "s", "m") as made:
        docs = await made.open(tmp_path / "c")
        await docs.add([Document("leave", TEXTS["leave"])])
        for text in ("notice", "notice", "weeks", "period", "period", "period"):
            await docs.search(text)
        await asyncio.to_thread(docs.query_log.flush)
        await made.resources.caching.clear()
        assert (await docs.warm(2)).questions == 2
        before = hits(made)["search"]
        for text in ("notice", "period", "weeks"):
            await docs.search(text)
        assert hits(made)["search"] == before + 2
        await docs.rebuild()  # other indexes: what was found in the old ones is not found
        assert docs.warming is not None
        assert (await docs.warming).questions == 3
        before = hits(made)["search"]
        await docs.search("weeks")
        assert hits(made)["search"] == before + 1
        assert (await asyncio.to_thread(docs.corpus.store.queries))[0][1] != ""


async def test_closing_ends_the_warming(made: Engine, docs: Collection) -> None:
    await docs.rebuild()
    await docs.close()
    assert docs.warming is not None
    await until(docs.warming.done)


async def test_metrics_tell_of_every_kind(made: Engine, docs: Collection) -> None:
    for _ in range(2):
        await docs.ask("notice period")
    lines = list(cache_rows(made.resources.caching))
    assert 'vivace_cache_hits_total{kind="search"} 1' in lines
    assert 'vivace_cache_misses_total{kind="answer"} 1' in lines
    assert f"vivace_cache_saved_tokens_total {made.resources.caching.tokens_saved}" in lines
    assert any(line.startswith("vivace_cache_capacity_bytes{policy=") for line in lines)


async def test_statistics_and_metrics_show_the_live_policy_and_the_pattern_of_keys(
    tmp_path: Path,
) -> None:
    async with engine(settings_of(cache={"memory_mib": 0.05}), "s", "m") as made:
        docs = await made.open(tmp_path / "c")
        await docs.add([Document(id, text) for id, text in TEXTS.items()])
        for n in range(400):
            await docs.search(f"notice {n % 7 if n % 2 else n}")
        found = made.resources.caching.statistics()
        assert found is not None
        assert found.policy == "auto"
        assert found.live in POLICIES
        assert found.pattern is not None
        assert 0 < found.pattern.scan < 1
        scan = f'vivace_cache_pattern_scan{{policy="{found.live}"}} 0.'
        assert any(line.startswith(scan) for line in cache_rows(made.resources.caching))


async def test_whatever_a_search_depends_on_is_in_its_scope(tmp_path: Path) -> None:
    scopes = []
    with mock.patch("vivace.engine.caching.CachedSearcher") as searcher:
        for place, salt, more in (
            ("a", "s0", {}),
            ("b", "s0", {}),
            ("c", "s1", {}),
            ("a", "s0", {"search": {"keyword_weight": 0.9}}),
            ("a", "s0", {"search": {"mmr": 0.5}}),
            ("a", "s0", {"search": {"rerank": "off"}}),
            ("a", "s0", {}),
        ):
            async with engine(settings_of(**more), salt, "m") as made:
                await made.open(tmp_path / place)
            scopes.append(searcher.call_args.kwargs["scope"])
    assert scopes[0] == scopes[-1]
    assert len(set(scopes)) == len(scopes) - 1


def test_the_command_tells_clears_and_warms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "leave.md").write_text("The notice period is six weeks.")
    place = ["--collection", str(tmp_path / "c")]
    assert main(["ingest", str(tmp_path / "leave.md"), *place]) == 0
    assert main(["search", "notice period", *place]) == 0
    assert main(["cache", "stats", *place]) == 0
    assert "1 questions in the log, 1 different ones" in capsys.readouterr().out
    assert main(["cache", "stats", *place, "--json"]) == 0
    assert '"repeated":0.0' in capsys.readouterr().out.splitlines()[-1]
    place += ["--set", f"cache.sql={tmp_path / 'cache.db'}"]
    for _ in range(2):  # what the tier had already is there as well
        assert main(["cache", "warm", *place, "--json"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (told["questions"], told["stays"], told["tiers"]) == (1, True, ["sqlite"])
    assert main(["cache", "warm", *place]) == 0
    assert "other processes find them there" in capsys.readouterr().out
    assert main(["cache", "clear", *place]) == 0
    assert main(["cache", "clear", "--json"]) == 0
    capsys.readouterr()
    assert main(["cache", "clear", "--set", "cache.redis=redis://127.0.0.1:1"]) == 1
    said = capsys.readouterr().out
    assert "redis: does not answer; nothing is forgotten" in said
    assert "forgets its own when it restarts" in said  # nobody could be told
    assert main(["cache", "stats", *place, "--set", "cache.memory_mib=0"]) == 0
    assert "no cache" in capsys.readouterr().out
    assert main(["cache", "stats", "--server", "127.0.0.1:1"]) == 2
    assert main(["cache", "clear", "--server", "127.0.0.1:1"]) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "cache.redis nor cache.sql"),
        (["--set", "cache.sql=sqlite", "--set", "cache.memory_mib=0"], "cache.memory_mib is 0"),
        (["--set", "cache.sql=sqlite", "--set", "cache.embeddings=false"], "cache.embeddings"),
        (["--set", "cache.sql=sqlite", "--server", "127.0.0.1:1"], "--server"),
    ],
)
def test_warming_what_ends_with_the_process_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    (tmp_path / "leave.md").write_text("The notice period is six weeks.")
    place = ["--collection", str(tmp_path / "c")]
    assert main(["ingest", str(tmp_path / "leave.md"), *place]) == 0
    capsys.readouterr()
    assert main(["cache", "warm", *place, *options, "--json"]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert json.loads(out)["error"]["fix"]


def test_a_tier_that_is_away_keeps_nothing_of_the_warming(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "leave.md").write_text("The notice period is six weeks.")
    place = ["--collection", str(tmp_path / "c"), "--set", "cache.sql=/proc/none.db"]
    assert main(["ingest", str(tmp_path / "leave.md"), *place]) == 0
    assert main(["cache", "warm", *place]) == 0  # of no questions
    assert main(["search", "notice period", *place]) == 0
    capsys.readouterr()
    assert main(["cache", "warm", *place, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["questions"], told["stays"], told["tiers"]) == (1, False, [])
    assert main(["cache", "warm", *place]) == 1
    assert "nothing of it stays" in capsys.readouterr().out


async def test_what_a_server_remembers_is_read_from_its_metrics(
    made: Engine, docs: Collection
) -> None:
    await docs.search("notice period")
    text = "\n".join(cache_rows(made.resources.caching)).encode() + b"\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        found = await asyncio.to_thread(server_statistics, address)
    assert found["kinds"]["search"]["entries"] == 1
    assert found["capacity_bytes"] == 64 << 20
