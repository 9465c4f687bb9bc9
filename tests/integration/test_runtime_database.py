"""Connections, process records, outages and heartbeats on a real PostgreSQL."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from relay.runtime.database import (
    DatabaseRefusedError,
    DatabaseUnreachableError,
    NotPrimaryError,
    connect,
    is_connection_loss,
)
from relay.runtime.heartbeat import Heartbeat, stop_reason
from relay.runtime.outage import JOINED_WITHIN_SECONDS, KEPT_IN_MEMORY, OutageLog
from relay.runtime.process import ProcessRecord
from relay.runtime.shutdown import StopEvent, stop_on_signals

Eventually = Callable[..., Awaitable[Any]]
LOSSES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def other(url: str, **parts: str) -> str:
    return urlunsplit(urlsplit(url)._replace(**parts))


async def test_a_connection_says_who_it_is(database: str) -> None:
    connection = await connect(database, "relay-test")
    assert await connection.fetchval("SHOW application_name") == "relay-test"
    await connection.close()


async def test_nobody_there_is_worth_another_attempt() -> None:
    with pytest.raises(DatabaseUnreachableError, match=r"127\.0\.0\.1:1/x"):
        await connect("postgresql://u:geheim@127.0.0.1:1/x", "relay-test")


async def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    hung_up = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()
        hung_up.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(DatabaseUnreachableError, match="did not answer in time"):
        await connect(f"postgresql://127.0.0.1:{port}/x", "relay-test", timeout_seconds=0.3)
    server.close()
    async with asyncio.timeout(10):
        await hung_up.wait()


async def test_a_database_that_is_not_there_is_for_somebody_to_mend(database: str) -> None:
    with pytest.raises(DatabaseRefusedError, match="nowhere") as caught:
        await connect(other(database, path="/nowhere"), "relay-test")
    password = urlsplit(database).password
    assert password is None or password not in str(caught.value)


async def test_settings_that_cannot_be_are_refused(database: str) -> None:
    with pytest.raises(DatabaseRefusedError):
        await connect(database, "relay-test", server_settings={"nonsense": "1"})


async def test_a_standby_is_not_the_primary(private_postgres: Any) -> None:
    """A server in recovery: refused unless it is asked for."""
    private_postgres.stop()
    (private_postgres.folder / "data" / "standby.signal").touch()
    private_postgres.start()
    url = private_postgres.dsn()
    with pytest.raises(NotPrimaryError, match="standby"):
        await connect(url, "relay-test")
    connection = await connect(url, "relay-test", require_primary=False)
    assert await connection.fetchval("SELECT pg_is_in_recovery()")
    await connection.close()


async def test_a_lost_connection_is_told_from_a_wrong_statement(
    pg: asyncpg.Connection, database: str
) -> None:
    victim = await connect(database, "relay-victim")
    with pytest.raises(asyncpg.PostgresSyntaxError) as wrong:
        await victim.execute("nonsense")
    assert not is_connection_loss(wrong.value)
    await pg.execute("SELECT pg_terminate_backend($1)", victim.get_server_pid())
    for _ in range(2):  # the loss itself, then the use of what is lost
        with pytest.raises(LOSSES) as lost:
            await victim.execute("SELECT 1")
        assert is_connection_loss(lost.value)


async def test_a_process_record_from_start_to_stop(pg: asyncpg.Connection) -> None:
    now = [100.0]
    process = ProcessRecord("relay", instance="host:1", clock=lambda: now[0])
    now[0] = 160.0  # the database was away for a minute
    await process.start(pg)
    row = await pg.fetchrow(
        "SELECT *, extract(epoch FROM clock_timestamp() - started_at)::int AS age"
        " FROM relay.process_record"
    )
    assert (row["kind"], row["instance"], row["age"]) == ("relay", "host:1", 60)
    assert row["stopped_at"] is None

    await process.heartbeat(pg, {"state": "active"})
    await process.stop(pg, "SIGTERM")
    row = await pg.fetchrow("SELECT * FROM relay.process_record")
    assert (row["stop_reason"], json.loads(row["detail"])) == ("SIGTERM", {"state": "active"})
    assert row["stopped_at"] >= row["started_at"]


async def test_a_row_lost_in_a_failover_comes_back(pg: asyncpg.Connection) -> None:
    process = ProcessRecord("relay")
    await process.start(pg)
    started = await pg.fetchval("SELECT started_at FROM relay.process_record")
    await pg.execute("DELETE FROM relay.process_record")
    await process.heartbeat(pg)
    again = await pg.fetchval("SELECT started_at FROM relay.process_record")
    assert abs((again - started).total_seconds()) < 5


async def test_an_outage_is_kept_until_it_can_be_written(pg: asyncpg.Connection) -> None:
    now = [0.0]
    outages = OutageLog(ProcessRecord("relay"), clock=lambda: now[0])
    assert outages.began("database", OSError("gone"))
    assert not outages.began("database", OSError("still gone"))
    now[0] = 40.0
    assert outages.ended("database") == 40.0
    assert outages.ended("database") is None
    now[0] = 50.0
    await outages.write(pg)
    await outages.write(pg)
    (row,) = await pg.fetch(
        """SELECT *, extract(epoch FROM to_at - from_at)::float8 AS seconds,
                  extract(epoch FROM clock_timestamp() - to_at)::float8 AS ago
             FROM relay.outage_record"""
    )
    assert (row["resource"], row["error"]) == ("database", "gone")
    assert row["seconds"] == pytest.approx(40, abs=0.01)
    assert row["ago"] == pytest.approx(10, abs=1)


async def test_a_return_that_was_none_is_the_same_outage(pg: asyncpg.Connection) -> None:
    now = [0.0]
    outages = OutageLog(ProcessRecord("relay"), clock=lambda: now[0])
    refused = asyncpg.InsufficientPrivilegeError("keine Berechtigung")
    assert outages.began("database", refused)
    for _ in range(3):
        now[0] += 5
        assert outages.ended("database") is not None
        await outages.write(pg)
        now[0] += 1
        assert not outages.began("database", refused)  # connected, and refused once more
        await outages.write(pg)
    (row,) = await pg.fetch("SELECT to_at, failure_code FROM relay.outage_record")
    assert tuple(row) == (None, "sqlstate:42501")
    now[0] += 5
    assert outages.ended("database") == 5  # of this stretch: the others are counted already
    now[0] += JOINED_WITHIN_SECONDS + 1
    assert outages.began("database", refused)
    await outages.write(pg)
    assert await pg.fetchval("SELECT count(*) FROM relay.outage_record") == 2


async def test_an_outage_is_over_when_it_is_for_every_witness(pg: asyncpg.Connection) -> None:
    outages = OutageLog(ProcessRecord("confirm"))
    outages.began("database", asyncpg.InsufficientPrivilegeError("x"), "service")
    assert outages.ended("database", "heartbeat") is None
    assert outages.is_out("database")
    outages.began("database", OSError("x"), "heartbeat")
    assert outages.ended("database", "service") is None
    assert outages.ended("database", "heartbeat") is not None
    await outages.write(pg)
    assert await pg.fetchval("SELECT count(*) FROM relay.outage_record") == 1


async def test_a_brokers_outage_is_written_while_it_lasts(pg: asyncpg.Connection) -> None:
    outages = OutageLog(ProcessRecord("relay"))
    outages.began("broker", "refused")
    await outages.write(pg)
    await outages.write(pg)
    began = await pg.fetchrow("SELECT * FROM relay.outage_record")
    assert began["to_at"] is None
    seconds = outages.ended("broker")
    await outages.write(pg)
    (row,) = await pg.fetch("SELECT * FROM relay.outage_record")
    assert row["from_at"] == began["from_at"]
    assert (row["to_at"] - row["from_at"]).total_seconds() == pytest.approx(seconds, abs=0.5)
    assert not outages.is_out("broker")


async def test_a_flapping_network_does_not_fill_the_memory(pg: asyncpg.Connection) -> None:
    now = [0.0]
    outages = OutageLog(ProcessRecord("relay"), clock=lambda: now[0])
    outages.began("database", "away")
    for _ in range(3 * KEPT_IN_MEMORY):
        outages.began("broker", "flaps")
        now[0] += 1
        outages.ended("broker")
    outages.ended("database")
    await outages.write(pg)
    rows = await pg.fetch("SELECT * FROM relay.outage_record ORDER BY from_at")
    assert len(rows) <= KEPT_IN_MEMORY
    broker = [row for row in rows if row["resource"] == "broker"]
    covered = (broker[-1]["to_at"] - broker[0]["from_at"]).total_seconds()
    assert covered == pytest.approx(3 * KEPT_IN_MEMORY, abs=1)


async def test_heartbeats_survive_a_database_that_goes_and_comes(
    private_database: str, private_postgres: Any, eventually: Eventually
) -> None:
    said: list[str] = []
    process = ProcessRecord("relay")
    heartbeat = Heartbeat(
        private_database,
        process,
        OutageLog(process),
        every_seconds=0.05,
        noticed=lambda event, **_fields: said.append(event),
    )
    stop = StopEvent()
    beating = asyncio.create_task(heartbeat.run(stop))

    async def row() -> asyncpg.Record | None:
        connection = await asyncpg.connect(private_database)
        try:
            return await connection.fetchrow(
                """SELECT p.*, o.from_at, o.to_at FROM relay.process_record p
                     LEFT JOIN relay.outage_record o USING (process_id)"""
            )
        finally:
            await connection.close()

    await eventually(row)
    private_postgres.kill()
    await eventually(lambda: "heartbeat_not_written" in said)
    private_postgres.start()
    await eventually(lambda: "heartbeat_is_back" in said)

    async def recorded() -> bool:
        found = await row()
        return bool(found and found["to_at"] and found["from_at"] < found["to_at"])

    await eventually(recorded)
    stop.ask("SIGTERM")
    await beating
    await heartbeat.farewell(stop_reason(stop))
    found = await row()
    assert found is not None
    assert found["stop_reason"] == "SIGTERM"


async def test_a_farewell_to_a_database_that_is_away_takes_seconds() -> None:
    said: list[str] = []
    process = ProcessRecord("relay")
    heartbeat = Heartbeat(
        "postgresql://127.0.0.1:1/x",
        process,
        OutageLog(process),
        noticed=lambda event, **_fields: said.append(event),
    )
    async with asyncio.timeout(6):
        await heartbeat.farewell("SIGTERM")
    assert said == ["process_record_not_closed"]


async def test_signals_ask_and_say_which(eventually: Eventually) -> None:
    with stop_on_signals() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 5)
        assert stop.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


async def test_an_attempt_that_is_cancelled_leaves_no_connection(
    database: str, pg: asyncpg.Connection, monkeypatch, eventually
) -> None:
    connected = asyncio.Event()

    async def never(*_arguments: object, **_options: object) -> None:
        connected.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("relay.runtime.database.apply_session_settings", never)
    attempt = asyncio.create_task(connect(database, "relay-cancelled"))
    await asyncio.wait_for(connected.wait(), 20)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt

    async def gone() -> bool:
        count = await pg.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'relay-cancelled'"
        )
        return count == 0

    await eventually(gone)
