"""Nobody stops a hop, or changes what is recorded, with what his login may write.

Every statement is sent under a login of its own that is a member of one role, as from psql.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from relay.publish.maintenance.duties import MaintenanceOptions, run_once
from relay.runtime.migrations import migrate

REFUSED = asyncpg.InsufficientPrivilegeError

EVENT = (
    "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
    " VALUES ('order', 'o-1', 'order.placed', '{}')"
)
TAKE = (
    "UPDATE relay.lease SET owner = 'me', epoch = epoch + 1, backend_pid = pg_backend_pid(),"
    " expires_at = clock_timestamp() + interval '60 s', released_at = NULL WHERE duty = 'relay'"
)
HELD = (
    "INSERT INTO relay.quarantine (kind, reason, aggregate_id, event_id, outbox_id)"
    " VALUES ('event', 'too_large', 'o-1', 'e', {})"
)
HELD_RETURN = (
    "INSERT INTO relay.quarantine (kind, reason, aggregate_id, consumer_group, topic, partition,"
    " record_offset) VALUES ('return', 'conflict', 'o-1', 'g', 't', 0, 1)"
)
CASE = (
    "INSERT INTO relay.overdue (event_id, aggregate_id, event_type, placed_at, deadline_at, hop,"
    " verdict, cause, incident_id) VALUES ('{0}', '{0}', 'order.placed', now(), now(), 'publish',"
    " 'not_published', '{1}', 1)"
)
INCIDENT = (
    "INSERT INTO relay.incident (hop, verdict, cause, from_at, to_at, order_count)"
    " VALUES ('publish', 'not_published', 'relay_down', now(), now(), 1)"
)
PENDING = (
    "INSERT INTO relay.pending_return (consumer_group, topic, partition, record_offset,"
    " aggregate_id, recorded_at) VALUES ('g', 't', 0, 1, 'o-1', now())"
)
JOB = (
    "INSERT INTO relay.replay_job (replay_id, selection, plan, item_count)"
    " VALUES ('00000000-0000-0000-0000-000000000001', '{}', '{\"n\": 1}', 1)"
)
WRITTEN = ("overdue", "incident", "process_record", "outage_record", "position", "duty_record")
WRITTEN_BY = {
    "relay_publisher": ("quarantine", "delivery_ledger", "maintenance"),
    "relay_confirmer": ("quarantine", "pending_return", "offset_gap", "inbox", "consumer_offset"),
}
# Who may delete rows may lock the table: what its own program has to tidy up.
DELETED_BY = {
    "relay_publisher": (
        "relay.delivery_ledger",
        "relay.outage_record",
        "relay.position",
        "relay.process_record",
        "relay.unmatched_record",
        "relay.wal_mark",
    ),
    "relay_confirmer": ("relay.pending_return",),
}
KEYS = "SELECT pg_advisory_lock(491293463929), pg_advisory_lock(491293463930)"

As = Callable[[str], Awaitable[asyncpg.Connection]]


@pytest.fixture
async def connected_as(database: str, pg: asyncpg.Connection) -> AsyncIterator[As]:
    """Role -> a connection of a login that is a member of it alone."""
    parts = urlsplit(database)
    made: list[tuple[str, asyncpg.Connection]] = []

    async def connect(role: str) -> asyncpg.Connection:
        user = f"{role}_{uuid.uuid4().hex[:8]}"
        await pg.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'of-the-login' IN ROLE {role}")
        address = f"{parts.hostname}:{parts.port}{parts.path}"
        connection = await asyncpg.connect(f"postgresql://{user}:of-the-login@{address}")
        made.append((user, connection))
        return connection

    yield connect
    for user, connection in made:
        await connection.close()
        await pg.execute(f"DROP ROLE {user}")


async def refused(connection: asyncpg.Connection, *statements: str) -> None:
    """Each is refused for want of a privilege, and by nothing else."""
    for statement in statements:
        with pytest.raises(REFUSED):
            async with connection.transaction():
                await connection.execute(statement)


async def test_no_lease_lasts_for_ever_and_the_relays_is_not_the_consumers(
    pg: asyncpg.Connection, connected_as: As
) -> None:
    confirmer = await connected_as("relay_confirmer")
    before = await pg.fetch("SELECT * FROM relay.lease ORDER BY duty")
    forever = "UPDATE relay.lease SET owner = 'x', expires_at = 'infinity' WHERE duty = '{}'"
    for duty in ("relay", "maintenance"):
        assert await confirmer.execute(forever.format(duty)) == "UPDATE 0"
        locked = "SELECT FROM relay.lease WHERE duty = $1 FOR UPDATE"
        assert await confirmer.fetch(locked, duty) == []
    await refused(
        confirmer,
        forever.format("watchdog"),
        "UPDATE relay.lease SET duty = 'relay2' WHERE duty = 'watchdog'",
        "UPDATE relay.lease SET epoch = 9223372036854775807 WHERE duty = 'watchdog'",
        "LOCK TABLE relay.lease IN SHARE MODE",
    )
    for role in ("relay_publisher", "relay_operator"):
        await refused(await connected_as(role), forever.format("relay"))
    assert await pg.fetch("SELECT * FROM relay.lease ORDER BY duty") == before


async def test_a_lease_that_another_holds_is_not_taken(connected_as: As) -> None:
    holder, other = await connected_as("relay_publisher"), await connected_as("relay_publisher")
    await holder.execute(TAKE)
    await refused(other, TAKE.replace("'me'", "'somebody else'"))


@pytest.mark.parametrize("role", ["relay_publisher", "relay_operator"])
async def test_the_checkpoint_moves_by_one_for_whoever_took_the_lease(
    pg: asyncpg.Connection, connected_as: As, role: str
) -> None:
    await pg.execute(EVENT)
    login = await connected_as(role)
    move = "UPDATE relay.checkpoint SET prev = {}, seq = seq + {}, epoch = {}"
    future, now = "'99999999:99999999:'", "pg_current_snapshot()"
    await refused(login, move.format(future, 0, 0), move.format(future, 1, 0))
    await refused(login, move.format(now, 1, 0))
    await login.execute(TAKE)
    await refused(
        login,
        move.format(now, 1, 0),
        move.format(future, 1, 1),
        move.format(now, 0, 1),
        move.format(now, 7, 1),
    )
    await login.execute(move.format(now, 1, 1))
    assert await pg.fetchval("SELECT seq FROM relay.checkpoint") == 1


async def test_an_unsent_event_is_not_dropped_by_a_forged_checkpoint(
    pg: asyncpg.Connection, connected_as: As
) -> None:
    await pg.execute(EVENT)
    await pg.execute("UPDATE relay.outbox SET created_at = '2020-01-01 12:00Z'")
    await pg.execute("CALL relay.empty_default()")
    publisher = await connected_as("relay_publisher")
    await refused(publisher, "UPDATE relay.checkpoint SET prev = '99999999:99999999:'")
    drop = "SELECT relay.drop_partition('outbox_p20200101')"
    assert await publisher.fetchval(drop) == "not_handed_over"
    assert await pg.fetchval("SELECT count(*) FROM relay.outbox") == 1


async def test_an_id_that_was_never_drawn_ends_no_sequence(
    pg: asyncpg.Connection, connected_as: As
) -> None:
    huge = HELD.format(2**63 - 1)
    for role in ("relay_publisher", "relay_confirmer", "relay_operator"):
        await refused(await connected_as(role), huge)
    await pg.execute(huge)  # an older program's, or a superuser's
    await pg.execute("UPDATE relay.checkpoint SET high_id = 9223372036854775807")
    await pg.execute(
        "INSERT INTO relay.position (position_id, topic, partition) OVERRIDING SYSTEM VALUE"
        " VALUES (9223372036854775807, 't', 0)"
    )
    operator = await connected_as("relay_operator")
    await operator.execute("SELECT relay.move_sequences_on()")
    writer = await connected_as("relay_writer")
    assert await writer.fetchval(EVENT + " RETURNING id") < 100
    await operator.execute("INSERT INTO relay.position (topic, partition) VALUES ('t', 0)")


@pytest.mark.parametrize("role", ["relay_publisher", "relay_confirmer", "relay_operator"])
async def test_numbers_are_the_sequences_and_whole_tables_are_nobodys(
    pg: asyncpg.Connection, connected_as: As, role: str
) -> None:
    """A later migration that adds a column must grant it: nobody could write it otherwise."""
    login = await connected_as(role)
    identities = await pg.fetch(
        """SELECT attrelid::regclass::text AS relation, attname FROM pg_attribute
            WHERE attidentity <> '' AND attrelid IN (
                  SELECT oid FROM pg_class WHERE relnamespace = 'relay'::regnamespace)"""
    )
    for one in identities:
        may = "SELECT has_column_privilege($1, $2, $3, 'INSERT')"
        user = await login.fetchval("SELECT session_user")
        assert not await pg.fetchval(may, user, one["relation"], one["attname"]), one
    written = WRITTEN if role == "relay_operator" else (*WRITTEN, *WRITTEN_BY[role])
    missing = await pg.fetch(
        """SELECT attrelid::regclass, attname FROM pg_attribute
            WHERE attnum > 0 AND NOT attisdropped AND attidentity = ''
              AND attrelid = ANY ($2::text[]::regclass[])
              AND NOT has_column_privilege($1, attrelid, attname, 'INSERT')""",
        role,
        [f"relay.{table}" for table in written],
    )
    assert missing == []
    tables = await pg.fetch(
        """SELECT 'relay.' || relname FROM pg_class
            WHERE relnamespace = 'relay'::regnamespace AND relkind IN ('r', 'p')"""
    )
    deletes = DELETED_BY.get(role, ())
    assert set(deletes) <= {table for (table,) in tables}
    for (table,) in tables:
        if table in deletes:
            continue
        for mode in ("SHARE", "ACCESS EXCLUSIVE"):
            await refused(login, f"LOCK TABLE {table} IN {mode} MODE")


async def test_the_consumer_has_no_say_about_events(
    pg: asyncpg.Connection, connected_as: As
) -> None:
    await pg.execute(EVENT)
    await pg.execute(HELD.format(1))
    confirmer = await connected_as("relay_confirmer")
    await refused(confirmer, HELD.format(2))
    discard = "UPDATE relay.quarantine SET state = 'discarded' WHERE kind = 'event'"
    assert await confirmer.execute(discard) == "UPDATE 0"
    assert await confirmer.fetch("SELECT FROM relay.quarantine FOR UPDATE") == []
    await confirmer.execute(HELD_RETURN)
    await refused(
        confirmer,
        "UPDATE relay.quarantine SET state = 'discarded' WHERE kind = 'return'",
        "UPDATE relay.quarantine SET state = 'release_requested' WHERE kind = 'return'",
        "UPDATE relay.quarantine SET state = 'released' WHERE kind = 'return'",
        "UPDATE relay.quarantine SET kind = 'event'",
        "UPDATE relay.quarantine SET record_value = 'x'",
    )
    assert await pg.fetchval("SELECT count(*) FROM relay.quarantine WHERE state = 'held'") == 2


async def test_the_relay_has_no_say_about_returns_and_decides_no_replay(
    pg: asyncpg.Connection, connected_as: As
) -> None:
    await pg.execute(HELD_RETURN)
    await pg.execute(JOB)
    publisher = await connected_as("relay_publisher")
    await refused(publisher, HELD_RETURN, "DELETE FROM relay.inbox", "LOCK TABLE relay.inbox")
    assert await publisher.execute("UPDATE relay.quarantine SET state = 'held'") == "UPDATE 0"
    await refused(publisher, "UPDATE relay.replay_job SET state = 'running'")


async def test_words_of_cases_are_words_and_people_close_them(
    pg: asyncpg.Connection, connected_as: As
) -> None:
    confirmer = await connected_as("relay_confirmer")
    for cause in ("Not a word", "\x1b[2J", "x" * 61, ""):
        with pytest.raises(asyncpg.CheckViolationError):
            await confirmer.execute(CASE.format("e", cause))
    await confirmer.execute(CASE.format("e", "a_newer_programs_cause"))
    await confirmer.execute(INCIDENT)
    await refused(
        confirmer,
        "UPDATE relay.overdue SET closed_as = 'closed', closed_at = now()",
        "UPDATE relay.incident SET closed_by = 'ana', closed_at = now()",
    )
    await pg.execute("UPDATE relay.overdue SET closed_as = 'closed', closed_at = now()")
    await refused(confirmer, "UPDATE relay.overdue SET closed_as = NULL, closed_at = NULL")


async def test_upkeep_is_never_said_to_be_ahead_of_the_clock(connected_as: As) -> None:
    note = "INSERT INTO relay.maintenance (duty, done_until) VALUES ('{}', '{}')"
    confirmer = await connected_as("relay_confirmer")
    await refused(confirmer, note.format("forget", "2020-01-01"))
    await refused(confirmer, note.format("watchdog_late", "infinity"))
    await refused(await connected_as("relay_publisher"), note.format("merge_ledger", "infinity"))
    await confirmer.execute(note.format("watchdog_late", "2020-01-01"))


async def test_an_operator_changes_no_event_and_forges_no_proof(
    pg: asyncpg.Connection, connected_as: As
) -> None:
    await pg.execute(EVENT)
    operator = await connected_as("relay_operator")
    renumber = "SELECT relay.renumber_rows(0, 9, '{}', pg_current_snapshot())"
    proof = (
        "INSERT INTO relay.delivery_ledger (epoch, topic, partition, record_count, outbox_ids,"
        " id_range) VALUES (1, 't', 0, 1, '{1}', '[1,1]')"
    )
    await refused(
        operator,
        *(f"UPDATE relay.outbox SET {column} = NULL" for column in ("txid", "payload")),
        "UPDATE relay.kept SET txid = '3'",
        "DELETE FROM relay.outbox",
        proof,
        renumber,
    )
    # As `relay rebaseline` does: without proof a row comes to lie ahead, and is sent.
    await operator.execute(TAKE)
    assert await operator.fetchval(renumber) == (0, 1)
    await pg.execute(proof)
    behind = "SELECT relay.renumber_rows(0, 9, '{}', '1:1:')"
    assert await operator.fetchval(behind) == (1, 0)


DECISIONS = {
    "quarantine_discard": "UPDATE relay.quarantine SET state = 'discarded', resolved_by = 'relay'",
    "quarantine_release": "UPDATE relay.quarantine SET state = 'release_requested'",
    "quarantine_change": "UPDATE relay.quarantine SET reason = 'order_parked'",
    "close": "UPDATE relay.overdue SET closed_as = 'closed', closed_at = now(), closed_by = 'x'",
    "replay_planned": JOB.replace("0001'", "0002'"),
    "replay_started": "UPDATE relay.replay_job SET state = 'running'",
    "replay_cancelled": "UPDATE relay.replay_job SET state = 'cancelled'",
    "lease_taken": TAKE,
    "events_written": EVENT,
    "returns_given": PENDING,
}


@pytest.mark.parametrize("action", DECISIONS)
async def test_what_an_operator_decides_in_sql_is_in_the_audit_log(
    pg: asyncpg.Connection, connected_as: As, action: str
) -> None:
    for statement in (EVENT, HELD.format(1), INCIDENT, CASE.format("e", "relay_down"), JOB):
        await pg.execute(statement)
    await pg.execute("TRUNCATE relay.audit_log")
    operator = await connected_as("relay_operator")
    login = await operator.fetchval("SELECT session_user")
    async with operator.transaction():
        # Whatever he calls himself: the login stands beside it.
        await operator.execute("SELECT set_config('relay.audit_who', 'alice', true)")
        await operator.execute(DECISIONS[action])
    rows = await pg.fetch("SELECT login, who, action FROM relay.audit_log")
    assert [tuple(row) for row in rows] == [(login, "alice", action)]
    await refused(operator, "DELETE FROM relay.audit_log", "UPDATE relay.audit_log SET who = 'x'")


async def test_an_incident_closed_in_sql_is_one_row_and_opened_again_another(
    pg: asyncpg.Connection, connected_as: As
) -> None:
    await pg.execute(INCIDENT)
    for event in ("e", "f"):
        await pg.execute(CASE.format(event, "relay_down"))
    operator = await connected_as("relay_operator")
    async with operator.transaction():
        closed = "closed_at = clock_timestamp(), closed_by = 'ana', closed_why = 'w'"
        await operator.execute(f"UPDATE relay.incident SET {closed}")
        await operator.execute(f"UPDATE relay.overdue SET closed_as = 'closed', {closed}")
    await operator.execute("UPDATE relay.incident SET closed_at = NULL, closed_by = NULL")
    rows = await pg.fetch("SELECT action, subject, detail->>'by' AS by FROM relay.audit_log")
    assert [tuple(row) for row in rows] == [("close", "I-1", "SQL"), ("reopen", "I-1", "SQL")]


async def test_advisory_keys_are_nothing_to_migrations_and_upkeep(
    database: str, pg: asyncpg.Connection, connected_as: As
) -> None:
    observer = await connected_as("relay_observer")
    await observer.execute(KEYS)
    await observer.execute(
        "SELECT pg_advisory_lock(n) FROM generate_series(491293460, 491293470) AS n"
    )
    assert not (await migrate(database)).applied
    assert not (await run_once(pg, MaintenanceOptions())).busy
    for statement in (
        "LOCK TABLE relay.migration IN SHARE ROW EXCLUSIVE MODE",
        "SELECT FROM relay.lease FOR UPDATE",
        "SELECT FROM relay.migration FOR UPDATE",
    ):
        await refused(observer, statement)


def test_no_statement_of_the_program_takes_an_advisory_lock() -> None:
    root = Path(__file__).parents[2]
    files = [*(root / "relay").rglob("*.py"), *(root / "consumers").rglob("*.py")]
    assert len(files) > 100
    assert [path for path in files if re.search(r"pg_(try_)?advisory", path.read_text())] == []
