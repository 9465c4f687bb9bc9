"""Connections that are kept: lent again as they were left, and never one that no server answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from relay.runtime import kept_connections
from relay.runtime.database import connect
from relay.runtime.kept_connections import KEPT_AT_MOST, KeptConnections
from tests.faults.proxy import Proxy

_PID = "SELECT pg_backend_pid()"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def kept(database: str, clock: Clock) -> AsyncIterator[KeptConnections]:
    made = KeptConnections(lambda: connect(database, "relay-test"), clock)
    yield made
    made.end()


async def pid(kept: KeptConnections) -> int:
    async with kept.borrow() as connection:
        return await connection.fetchval(_PID)


async def test_one_is_lent_again_to_one_at_a_time(kept: KeptConnections) -> None:
    first = await pid(kept)
    assert await pid(kept) == first
    async with kept.borrow() as one, kept.borrow() as other:
        assert await one.fetchval(_PID) == first
        assert await other.fetchval(_PID) != first


async def test_what_was_left_in_the_middle_is_not_lent_again(kept: KeptConnections) -> None:
    first = await pid(kept)
    async with kept.borrow() as connection:
        await connection.execute("BEGIN")
    second = await pid(kept)
    assert second != first

    async def fails() -> None:
        async with kept.borrow():
            raise KeyError

    with pytest.raises(KeyError):
        await fails()
    assert await pid(kept) not in (first, second)


async def test_one_that_the_server_ended_is_replaced(
    kept: KeptConnections, pg: asyncpg.Connection
) -> None:
    first = await pid(kept)
    await pg.execute("SELECT pg_terminate_backend($1, 5000)", first)
    assert await pid(kept) != first


async def test_one_whose_server_says_nothing_more_is_replaced(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_connections, "ANSWER_SECONDS", 0.2)
    parts = urlsplit(database)
    async with Proxy(parts.port or 5432) as way:
        login = parts.netloc.rpartition("@")[0]
        silent = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{way.port}"))
        urls = [silent, database]
        kept = KeptConnections(lambda: connect(urls.pop(0), "relay-test"))
        first = await pid(kept)
        way.stall()
        assert await pid(kept) != first
        kept.end()


async def test_idle_ones_are_closed_and_few_are_kept(
    kept: KeptConnections, clock: Clock, pg: asyncpg.Connection, eventually
) -> None:
    async def open_ones() -> int:
        return await pg.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'relay-test' AND datname = current_database()"
        )

    ready = asyncio.Barrier(KEPT_AT_MOST + 2)

    async def hold() -> None:
        async with kept.borrow():
            await ready.wait()

    await asyncio.gather(*(hold() for _ in range(KEPT_AT_MOST + 2)))
    await eventually(lambda: _is(open_ones(), KEPT_AT_MOST))
    clock.now += kept_connections.IDLE_SECONDS + 1
    kept.close_idle()
    await eventually(lambda: _is(open_ones(), 0))


async def _is(count: Awaitable[int], expected: int) -> bool:
    return await count == expected
