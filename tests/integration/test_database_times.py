"""Times of every kind, read from PostgreSQL and written to it, by a connection of ours."""

from datetime import UTC, datetime

import pytest

from relay.runtime.database import connect
from relay.runtime.times import OddTime

TIMES = {
    "infinity": "infinity",
    "-infinity": "-infinity",
    "0001-01-01 00:00:00+00": "0001-01-01 00:00:00+00:00",
    "4714-11-24 00:00:00+00 BC": "year 4714 BC",
    "294276-12-31 23:59:59+00": "year 294276",
}


@pytest.mark.parametrize(("text", "shown"), TIMES.items())
async def test_an_odd_time_is_read_and_written_back(database: str, text: str, shown: str) -> None:
    connection = await connect(database, "test")
    try:
        found = await connection.fetchval("SELECT $1::text::timestamptz", text)
        assert isinstance(found, OddTime)
        assert str(found) == shown
        assert await connection.fetchval(
            "SELECT $1::timestamptz = $2::text::timestamptz", found, text
        )
        pair = await connection.fetchval("SELECT $1::timestamptz[]", [found, None])
        assert pair == [found, None]
    finally:
        await connection.close()


async def test_an_ordinary_time_is_a_datetime(database: str) -> None:
    at = datetime(2026, 3, 2, 10, 0, 0, 123456, UTC)
    connection = await connect(database, "test", server_settings={"timezone": "Asia/Kathmandu"})
    try:
        found = await connection.fetchval("SELECT $1::timestamptz", at)
        assert found == at
        assert type(found) is datetime
    finally:
        await connection.close()
