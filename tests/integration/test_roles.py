"""Each role by what it may do, and by what it is refused."""

from collections.abc import Sequence
from typing import Final

import asyncpg
import pytest

WRITER, PUBLISHER, CONFIRMER = "relay_writer", "relay_publisher", "relay_confirmer"
OPERATOR, OBSERVER = "relay_operator", "relay_observer"
ALL: Final = (WRITER, PUBLISHER, CONFIRMER, OPERATOR, OBSERVER)

INSERT = (
    "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload{})"
    " VALUES ('order', '1', 'order.placed', '{{}}'{})"
)
ORDER = (
    "INSERT INTO public.orders (order_id, customer_id, items, total, currency)"
    " VALUES (gen_random_uuid(), 'c', '[]', 1, 'EUR')"
)
LEDGER = (
    "INSERT INTO relay.delivery_ledger (epoch, topic, partition, base_offset, record_count,"
    " outbox_ids, id_range) VALUES (1, 't', 0, 0, 1, '{1}', '[1,1]')"
)
HOLD = "INSERT INTO relay.quarantine (kind, reason) VALUES ('event', 'too_large')"
TAKE_LEASE = (
    "UPDATE relay.lease SET owner = 'me', epoch = epoch + 1, backend_pid = pg_backend_pid(),"
    " expires_at = clock_timestamp() + interval '3 s', released_at = NULL WHERE duty = 'relay'"
)
CASE = (
    "INSERT INTO relay.overdue (event_id, aggregate_id, event_type, placed_at, deadline_at, hop,"
    " verdict, cause, closed_as) VALUES ('e', '1', 'order.placed', now(), now(), 'publish',"
    " 'not_published', 'relay_down',"
)

MAY: Final[dict[str, Sequence[str]]] = {
    WRITER: (
        INSERT.format("", ""),
        INSERT.format("", "") + " RETURNING id, event_id",
        INSERT.format(", event_id, headers, traceparent", ", gen_random_uuid(), '{}', 'x'"),
        ORDER,
        "UPDATE public.orders SET items = '[]', total = 2, version = version + 1",
        "SELECT 1 FROM public.orders FOR UPDATE",
    ),
    PUBLISHER: (
        "SELECT payload FROM relay.outbox",
        TAKE_LEASE,
        LEDGER,
        HOLD,
        "DELETE FROM relay.delivery_ledger",
        "SELECT relay.forget_inbox(60, 100)",
        "SELECT relay.create_partition('2030-01-01')",
        "SELECT relay.drop_partition('outbox_p20200101')",
        "CALL relay.empty_default()",
        "SELECT system_identifier FROM pg_control_system()",
        "SELECT pg_walfile_name(pg_current_wal_lsn())",
        "SELECT status FROM public.orders",
    ),
    CONFIRMER: (
        "INSERT INTO relay.consumer_offset (consumer_group, topic, partition, next_offset)"
        " VALUES ('g', 't', 0, 1) ON CONFLICT (consumer_group, topic, partition)"
        " DO UPDATE SET next_offset = 1",
        HOLD.replace("'event'", "'return'"),
        "DELETE FROM relay.pending_return",
        "SELECT aggregate_id, event_id, traceparent FROM relay.outbox",
        "UPDATE public.orders SET status = 'confirmed', version = version + 1,"
        " returned_at = now(), return_reason = 'x'",
        "SELECT 1 FROM public.orders FOR NO KEY UPDATE SKIP LOCKED",
        "INSERT INTO public.order_status_history (order_id, new_status)"
        " VALUES (gen_random_uuid(), 'confirmed')",
    ),
    OPERATOR: (
        "SELECT payload FROM relay.outbox",
        "SELECT record_value FROM relay.quarantine",
        "UPDATE relay.quarantine SET state = 'discarded', resolved_by = 'me', resolved_why = 'x'",
        "UPDATE relay.overdue SET closed_at = now()",
        "INSERT INTO relay.audit_log (action) VALUES ('close')",
        "INSERT INTO relay.replay_job (replay_id, selection, plan)"
        " VALUES (gen_random_uuid(), '{}', '{}')",
        TAKE_LEASE,
    ),
    OBSERVER: (
        "SELECT * FROM relay.outbox_summary",
        "SELECT * FROM relay.kept_summary",
        "SELECT * FROM relay.quarantine_summary",
        "SELECT aggregate_id, txid FROM relay.outbox",
        "SELECT * FROM relay.delivery_ledger",
        "SELECT * FROM relay.process_record",
        "SELECT * FROM relay.overdue",
        "SELECT status FROM public.orders",
    ),
}

MAY_NOT: Final[dict[str, Sequence[str]]] = {
    WRITER: (
        INSERT.format(", txid", ", '1'"),
        INSERT.format(", created_at", ", now()"),
        "SELECT payload FROM relay.outbox",
        "SELECT txid FROM relay.outbox",
        INSERT.format("", "") + " RETURNING payload",
        "UPDATE relay.outbox SET event_type = 'x'",
        "DELETE FROM relay.outbox",
        "TRUNCATE relay.outbox",
        "SELECT 1 FROM relay.checkpoint",
        "SELECT 1 FROM relay.inbox",
        "UPDATE public.orders SET status = 'confirmed'",
        "DELETE FROM public.orders",
        "SELECT relay.create_partition('2030-01-01')",
        "SELECT relay.drop_partition('outbox_p20200101')",
    ),
    PUBLISHER: (
        INSERT.format("", ""),
        "UPDATE relay.outbox SET event_type = 'x'",
        "DELETE FROM relay.outbox",
        "DELETE FROM relay.inbox",
        "LOCK TABLE relay.inbox",
        "LOCK TABLE relay.quarantine",
        "UPDATE relay.checkpoint SET prev = '99999999:99999999:', seq = seq + 1",
        "UPDATE relay.checkpoint SET prev = pg_current_snapshot(), seq = seq + 1",
        "UPDATE relay.replay_job SET plan = '{}'",
        "UPDATE relay.quarantine SET record_value = ''",
        "DROP TABLE relay.outbox_default",
        "DELETE FROM relay.quarantine",
        "UPDATE relay.delivery_ledger SET base_offset = 1",
        "DELETE FROM relay.audit_log",
        "INSERT INTO relay.inbox (event_id) VALUES ('x')",
        "UPDATE public.orders SET status = 'confirmed'",
        "SELECT items FROM public.orders",
        "SELECT customer_id FROM public.orders",
        "SELECT relay.move_out_of_default('x', now(), now())",
        "SELECT relay.keep_rows('x')",
        "UPDATE relay.installation SET kind = 'sample'",
        "CREATE TABLE relay.mine ()",
    ),
    CONFIRMER: (
        "SELECT payload FROM relay.outbox",
        INSERT.format("", ""),
        "UPDATE public.orders SET total = 0",
        "UPDATE public.orders SET customer_id = 'me'",
        "INSERT INTO public.orders (order_id) VALUES (gen_random_uuid())",
        "DELETE FROM public.orders",
        "DELETE FROM public.order_status_history",
        "UPDATE public.order_status_history SET new_status = 'x'",
        "UPDATE relay.inbox SET status = 'x'",
        "DELETE FROM relay.inbox",
        "DELETE FROM relay.quarantine",
        "UPDATE relay.checkpoint SET seq = 1",
        LEDGER,
        "SELECT relay.drop_partition('outbox_p20200101')",
        HOLD,
        HOLD.replace(
            "reason) VALUES ('event'",
            "quarantine_id, reason) OVERRIDING SYSTEM VALUE VALUES ('return', 9",
        ),
        "LOCK TABLE relay.lease",
        "LOCK TABLE relay.quarantine",
        "LOCK TABLE relay.overdue",
        "UPDATE relay.lease SET expires_at = 'infinity' WHERE duty = 'watchdog'",
        "UPDATE relay.lease SET duty = 'x' WHERE duty = 'watchdog'",
        "INSERT INTO relay.maintenance (duty, done_until) VALUES ('merge_ledger', now())",
        "INSERT INTO relay.maintenance (duty, done_until) VALUES ('watchdog_late', 'infinity')",
        f"{CASE} 'closed')",
    ),
    OPERATOR: (
        "UPDATE relay.outbox SET payload = '{}'",
        "UPDATE relay.outbox SET txid = '3'",
        "UPDATE relay.kept SET txid = '3'",
        "UPDATE relay.checkpoint SET prev = pg_current_snapshot(), seq = seq + 1",
        "SELECT relay.renumber_rows(0, 9, '{}', pg_current_snapshot())",
        LEDGER,
        "LOCK TABLE relay.lease",
        "LOCK TABLE relay.replay_job",
        "DELETE FROM relay.outbox",
        "UPDATE relay.quarantine SET record_value = ''",
        "DELETE FROM relay.quarantine",
        "UPDATE relay.audit_log SET who = 'somebody'",
        "INSERT INTO relay.audit_log (action, login) VALUES ('close', 'somebody')",
        "INSERT INTO relay.audit_log (action, at) VALUES ('close', now())",
        "DELETE FROM relay.replay_job",
        "UPDATE relay.replay_part SET outbox_ids = '{}'",
        "DELETE FROM relay.audit_log",
        "UPDATE public.orders SET status = 'confirmed'",
        "SELECT relay.drop_partition('outbox_p20200101')",
        "UPDATE relay.installation SET kind = 'sample'",
    ),
    OBSERVER: (
        "SELECT payload FROM relay.outbox",
        "SELECT * FROM relay.outbox",
        "SELECT headers FROM relay.kept",
        "SELECT record_value FROM relay.quarantine",
        "SELECT record_value FROM relay.pending_return",
        "SELECT items FROM public.orders",
        "UPDATE relay.lease SET owner = 'me'",
        "INSERT INTO relay.audit_log (action) VALUES ('x')",
        "UPDATE relay.overdue SET closed_at = now()",
        "INSERT INTO relay.replay_job (replay_id, selection, plan)"
        " VALUES (gen_random_uuid(), '{}', '{}')",
        "UPDATE relay.replay_job SET state = 'cancelled'",
    ),
}


@pytest.mark.parametrize("role", ALL)
async def test_what_a_role_may_do(pg: asyncpg.Connection, role: str) -> None:
    await pg.execute(INSERT.format("", ""))
    for statement in MAY[role]:
        transaction = pg.transaction()
        await transaction.start()
        await pg.execute(f"SET LOCAL ROLE {role}")
        try:
            await pg.execute(statement)
        except asyncpg.InsufficientPrivilegeError as error:
            pytest.fail(f"{role}: {statement}: {error}")
        await transaction.rollback()


@pytest.mark.parametrize("role", ALL)
async def test_what_a_role_is_refused(pg: asyncpg.Connection, role: str) -> None:
    await pg.execute(INSERT.format("", ""))
    for statement in MAY_NOT[role]:
        transaction = pg.transaction()
        await transaction.start()
        await pg.execute(f"SET LOCAL ROLE {role}")
        try:
            await pg.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            pass
        else:
            pytest.fail(f"{role} may: {statement}")
        await transaction.rollback()


@pytest.mark.parametrize("role", ALL)
async def test_no_role_may_log_in_or_own(pg: asyncpg.Connection, role: str) -> None:
    found = await pg.fetchrow("SELECT * FROM pg_roles WHERE rolname = $1", role)
    powers = ("rolcanlogin", "rolsuper", "rolcreaterole", "rolcreatedb", "rolbypassrls")
    assert not any(found[power] for power in powers)
    assert await pg.fetchval("SELECT count(*) FROM pg_class WHERE relowner = $1", found["oid"]) == 0


async def test_nobody_else_may_anything(pg: asyncpg.Connection) -> None:
    """A login without any of the roles."""
    granted = await pg.fetch(
        """SELECT c.oid::regclass::text FROM pg_class c
            WHERE relnamespace = 'relay'::regnamespace AND relkind IN ('r', 'p', 'v')
              AND has_table_privilege('pg_monitor', c.oid, 'SELECT, INSERT, UPDATE, DELETE')"""
    )
    assert granted == []
    functions = await pg.fetch(
        """SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'relay'::regnamespace
              AND has_function_privilege('pg_monitor', oid, 'EXECUTE')"""
    )
    assert functions == []


async def test_the_owners_functions_cannot_be_led_astray(pg: asyncpg.Connection) -> None:
    """SECURITY DEFINER without a fixed search_path would run what the caller puts in its way."""
    rows = await pg.fetch(
        """SELECT oid::regprocedure::text AS name, proconfig, prosecdef,
                  proowner::regrole::text AS owner
             FROM pg_proc WHERE pronamespace = 'relay'::regnamespace"""
    )
    assert any(row["prosecdef"] for row in rows)
    for row in rows:
        assert row["owner"] == "relay_owner"
        assert any(s.startswith("search_path=pg_catalog") for s in row["proconfig"]), row["name"]


async def test_a_writer_cannot_forge_its_transaction(pg: asyncpg.Connection) -> None:
    async with pg.transaction():
        await pg.execute("SET LOCAL ROLE relay_writer")
        row = await pg.fetchval(INSERT.format("", "") + " RETURNING id")
        await pg.execute("RESET ROLE")
        mine = "SELECT txid = pg_current_xact_id() FROM relay.outbox WHERE id = $1"
        assert await pg.fetchval(mine, row)
        with pytest.raises(asyncpg.GeneratedAlwaysError):
            async with pg.transaction():
                await pg.execute(INSERT.format(", id", ", 1"))
