"""Hops 2 and 5: the database connections of a consumer's lanes, opened and ended together.

Invariant: a database that is frozen holds no process that was asked to stop. What is not committed
when the connections are cut is handled again, by whoever gets its partitions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import asyncpg

from relay.runtime.database import DATABASE_FAILURES
from relay.runtime.tasks import background

_CLOSE_SECONDS: Final = 2.0


@asynccontextmanager
async def lane_connections(
    open_one: Callable[[], Awaitable[asyncpg.Connection]],
    count: int,
    stop: asyncio.Event,
    drain_seconds: float,
) -> AsyncIterator[Sequence[asyncpg.Connection]]:
    """Keep so many connections open while the block runs, `drain_seconds` after `stop` at most."""
    async with AsyncExitStack() as opened:
        connections = []
        for _ in range(count):
            connections.append(await open_one())
            opened.push_async_callback(_close, connections[-1])
        cutting = background(_cut(connections, stop, drain_seconds), "cut when stopped")
        opened.callback(cutting.cancel)
        yield connections


async def _cut(
    connections: Sequence[asyncpg.Connection], stop: asyncio.Event, drain_seconds: float
) -> None:
    await stop.wait()
    await asyncio.sleep(drain_seconds)
    for one in connections:
        one.terminate()


async def _close(connection: asyncpg.Connection) -> None:
    try:
        await connection.close(timeout=_CLOSE_SECONDS)
    except DATABASE_FAILURES:
        connection.terminate()
