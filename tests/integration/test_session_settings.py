"""Every connection of ours has one set of session settings, whoever set up the server."""

from datetime import date, timedelta

import asyncpg
import pytest

from relay.publish.ownership.server_identity import refuse_two_servers, server_state
from relay.runtime.database import DatabaseRefusedError, connect, create_pool
from relay.runtime.migrations import migrate
from relay.runtime.schema_drift import schema_differences
from relay.runtime.session_settings import LIMITS, PINNED
from tests.odd_sessions import ODD, make_odd

_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1)"


@pytest.fixture
async def odd_database(empty_database: str) -> str:
    """A database whose sessions are as odd as they can be; not migrated."""
    connection = await asyncpg.connect(empty_database)
    await make_odd(connection)
    await connection.close()
    return empty_database


async def settings(connection: asyncpg.Connection, *names: str) -> dict[str, str]:
    rows = await connection.fetch(_SETTINGS, list(names))
    return {row["name"]: row["setting"] for row in rows}


async def test_what_others_set_for_the_database_is_not_ours(odd_database: str) -> None:
    connection = await connect(odd_database, "relay-test")
    assert await settings(connection, *PINNED) == dict(PINNED)
    limits = await settings(connection, *LIMITS)
    assert set(limits.values()) == {"0"}
    assert {"statement_timeout", "lock_timeout", "idle_session_timeout"} <= set(limits)
    await connection.close()


async def test_a_connections_own_settings_win(odd_database: str) -> None:
    wanted = {"statement_timeout": "60s", "default_transaction_read_only": "on"}
    connection = await connect(odd_database, "relay-test", server_settings=wanted)
    assert await connection.fetchval("SHOW statement_timeout") == "1min"
    assert await connection.fetchval("SHOW transaction_read_only") == "on"
    await connection.close()


async def test_limits_that_the_url_asks_for_are_meant_for_us(odd_database: str) -> None:
    options = "options=-c%20lock_timeout%3D7s%20-c%20TimeZone%3DAsia/Tokyo"
    connection = await connect(f"{odd_database}?{options}", "relay-test")
    assert await connection.fetchval("SHOW lock_timeout") == "7s"
    assert await connection.fetchval("SHOW statement_timeout") == "0"
    assert await connection.fetchval("SHOW TimeZone") == "UTC"
    await connection.close()


async def test_pgoptions_are_libpqs_and_ours(
    odd_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=9s")
    connection = await connect(odd_database, "relay-test")
    assert await connection.fetchval("SHOW statement_timeout") == "9s"
    await connection.close()


async def test_a_pool_gives_the_same_connections(odd_database: str) -> None:
    async def leave(_connection: asyncpg.Connection) -> None: ...

    pool = await create_pool(
        odd_database,
        "relay-test",
        connections=1,
        timeout_seconds=10,
        command_timeout_seconds=10,
        server_settings={"statement_timeout": "5s"},
        reset=leave,
    )
    async with pool.acquire() as connection:
        assert await settings(connection, *PINNED) == dict(PINNED)
        assert await connection.fetchval("SHOW statement_timeout") == "5s"
    await pool.close()


async def test_a_word_that_libpq_does_not_have_is_refused_as_a_setting(odd_database: str) -> None:
    with pytest.raises(DatabaseRefusedError, match="unknown setting conect_timeout") as caught:
        await connect(f"{odd_database}?conect_timeout=5", "relay-test")
    assert "connect_timeout" in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "connect_timeout=5",
        "keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3",
        "keepalives=0",
        "gssencmode=disable&channel_binding=prefer&sslsni=1&load_balance_hosts=disable",
        "application_name=shop&fallback_application_name=x&client_encoding=latin1",
        "target_session_attrs=read-write",
        "sslmode=prefer&sslcompression=0",
    ],
)
async def test_libpqs_words_are_understood(database: str, words: str) -> None:
    connection = await connect(f"{database}?{words}", "relay-test")
    assert await connection.fetchval("SHOW application_name") == "relay-test"
    assert await connection.fetchval("SHOW client_encoding") == "UTF8"
    await connection.close()


async def test_keepalives_are_the_sockets(database: str) -> None:
    import socket  # noqa: PLC0415 - of this test alone

    connection = await connect(f"{database}?keepalives_idle=33", "relay-test")
    opened = connection._transport.get_extra_info("socket")
    assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 33
    await connection.close()


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
async def test_an_odd_database_is_migrated_to_the_same_schema(
    empty_database: str, zone: str
) -> None:
    """Its days are UTC's, too, whatever the zone of whoever makes them."""
    setup = await asyncpg.connect(empty_database)
    await make_odd(setup, ODD | {"TimeZone": zone})
    await setup.close()
    await migrate(empty_database)
    connection = await connect(empty_database, "relay-test")
    assert await schema_differences(connection) == []
    foreign = await asyncpg.connect(empty_database)
    day = await connection.fetchval("SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date + 30")
    await foreign.execute("SET default_transaction_isolation = 'read committed'")
    assert await foreign.fetchval("SELECT relay.create_partition($1)", day) == 0
    for name in (f"outbox_p{day:%Y%m%d}", f"outbox_p{day - timedelta(days=25):%Y%m%d}"):
        assert await bounds(connection, name) == utc_day(name)
    await foreign.close()
    await connection.close()


async def bounds(connection: asyncpg.Connection, name: str) -> str:
    found: str = await connection.fetchval(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class"
        " WHERE relname = $1 AND relnamespace = 'relay'::regnamespace",
        name,
    )
    return found


def utc_day(name: str) -> str:
    day = date.fromisoformat(name.removeprefix("outbox_p"))
    until = day + timedelta(days=1)
    return f"FOR VALUES FROM ('{day} 00:00:00+00') TO ('{until} 00:00:00+00')"


async def test_a_reader_and_a_writer_of_two_zones_are_on_one_server(database: str) -> None:
    """The relay's own connections never differ so; those of a foreign client may."""
    first = await asyncpg.connect(database, server_settings={"TimeZone": "Asia/Shanghai"})
    second = await asyncpg.connect(database, server_settings={"DateStyle": "German"})
    here, there = await server_state(first), await server_state(second)
    refuse_two_servers(here, there)
    assert here.instance == there.instance
    await first.close()
    await second.close()
