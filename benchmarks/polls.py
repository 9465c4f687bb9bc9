"""One poll that finds nothing, by table size and by transactions in progress.

The relay's own cursor on the relay's own connection settings, while somebody's transactions end
between two polls, and while none does. Its limit is an empty round trip.
"""

from __future__ import annotations

import asyncio
import time

import asyncpg
import uvloop

from benchmarks.drain import retained
from benchmarks.measure import percentiles
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from relay.publish.reading.cursor import OutboxCursor
from relay.publish.reading.outbox_sql import READER_SETTINGS
from relay.publish.reading.window import LOWEST_ID, Position, Snapshot

_IN_PROGRESS = (0, 16, 200)
_POLLS = 1000
_WARM = 50
_TRANSACTION = "SELECT pg_current_xact_id()"


def run(servers: Servers, settings: Settings) -> None:
    """A poll's time with 0, 16 and 200 transactions in progress; empty and large tables."""
    report = Report(
        "polls",
        f"{_POLLS:,} polls that find nothing, 31 partitions; another transaction ends before each"
        " of them, or (still) none does.",
    )
    tables = {
        "empty": servers.database("bench_polls"),
        f"{settings.retained:,} rows": retained(servers, settings),
    }
    for _ in range(settings.runs):
        for size, url in tables.items():
            for count in _IN_PROGRESS:
                for still in (False, True):
                    took = uvloop.run(_measure(url, count, still=still))
                    what = f"{size}, {count} in progress{', still' if still else ''}"
                    report.add(what, **percentiles(took))
        report.add("limit: SELECT 1", **percentiles(uvloop.run(_round_trips(tables["empty"]))))
    report.show()


async def _measure(url: str, in_progress: int, *, still: bool) -> list[float]:
    others = [await asyncpg.connect(url) for _ in range(in_progress)]
    try:
        for one in others:
            await one.execute(f"BEGIN; {_TRANSACTION}")
        return await _polls(url, still=still)
    finally:
        await asyncio.gather(*(one.close() for one in others))


async def _polls(url: str, *, still: bool) -> list[float]:
    other = await asyncpg.connect(url)
    connection = await asyncpg.connect(url, server_settings=READER_SETTINGS)
    now = Snapshot.parse(await connection.fetchval("SELECT pg_current_snapshot()::text"))
    cursor = OutboxCursor(
        connection,
        Position(now),
        page_rows=1600,
        page_bytes=4_000_000,
        largest_bytes=32_000_000,
        hint_id=LOWEST_ID,
    )
    took = []
    for _ in range(_WARM + _POLLS):
        if not still:
            await other.execute(_TRANSACTION)
        started = time.perf_counter()
        page = await cursor.next_page()
        took.append((time.perf_counter() - started) * 1000)
        assert not page.ids
    await connection.close()
    await other.close()
    return took[_WARM:]


async def _round_trips(url: str) -> list[float]:
    connection = await asyncpg.connect(url)
    statement = await connection.prepare("SELECT 1")
    took = []
    for _ in range(_POLLS):
        started = time.perf_counter()
        await statement.fetchval()
        took.append((time.perf_counter() - started) * 1000)
    await connection.close()
    return took
