"""Hops 1, 2 and 5: reads what a check needs to know of PostgreSQL; it writes nothing.

Invariant: every statement reads the catalogs or a bounded number of rows. The one probe that
inserts is rolled back. A statement that is refused makes its fact None, never an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

_SERVER: Final = """
SELECT current_setting('fsync') = 'on' AS fsync,
       current_setting('full_page_writes') = 'on' AS full_page_writes,
       current_setting('max_connections')::int AS max_connections,
       (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend')
           AS connections,
       current_setting('max_prepared_transactions')::int AS max_prepared,
       current_user::text AS username,
       (SELECT client_port FROM pg_stat_activity WHERE pid = pg_backend_pid()) AS seen_port,
       clock_timestamp() AS now
"""

# Per role, per database, and the server's own: the order service may be given any of them.
_ASYNC_COMMIT: Final = """
SELECT coalesce(r.rolname, '(every role)') AS who
  FROM pg_db_role_setting s
  LEFT JOIN pg_roles r ON r.oid = s.setrole
 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
   AND EXISTS (SELECT FROM unnest(s.setconfig) AS c
                WHERE c ~* '^synchronous_commit=(off|false|0|no)$')
UNION ALL
SELECT '(the server)' WHERE current_setting('synchronous_commit') = 'off'
"""

_OUTBOX: Final = """
SELECT (SELECT seqcache FROM pg_sequence
         WHERE seqrelid = pg_get_serial_sequence('relay.outbox', 'id')::regclass) AS sequence_cache,
       (SELECT count(*)::int FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'relay.outbox'::regclass AND c.relname ~ '^outbox_p[0-9]{8}$'
           AND to_date(right(c.relname, 8), 'YYYYMMDD')
                 > (clock_timestamp() AT TIME ZONE 'UTC')::date
       ) AS days_ahead,
       EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'relay.outbox'::regclass
           AND c.relname = 'outbox_p' || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD')
       ) AS has_today
"""
_DEFAULT_ROWS: Final = (
    "SELECT count(*)::int FROM (SELECT FROM relay.outbox_default LIMIT 1000) AS few"
)

# Those of the orders' table, and whatever else writes the outbox: a mirror of another one.
_TRIGGERS: Final = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS table_name,
       t.tgname::text AS name, t.tgenabled = 'D' AS disabled
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE NOT t.tgisinternal AND t.tgparentid = 0
   AND (t.tgrelid = ANY (ARRAY(SELECT to_regclass(n)::oid FROM unnest($1::text[]) AS n))
        OR strpos(p.prosrc, 'relay.outbox') > 0)
"""

# Ours are a migration's work: some stand without having read the old rows, on purpose.
_CONSTRAINTS: Final = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(t.relname) AS table_name,
       c.conname::text AS name, c.convalidated OR n.nspname = 'relay' AS validated
  FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE c.contype <> 'n'
   AND c.conrelid = ANY (ARRAY(SELECT to_regclass(n)::oid FROM unnest($1::text[]) AS n))
"""

# Somebody's transaction that has been open for long, and prepared ones that nobody ended.
_OLD_TRANSACTIONS: Final = """
SELECT coalesce(usename, '?')::text AS who, coalesce(application_name, '') AS what,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_seconds
  FROM pg_stat_activity
 WHERE xact_start < clock_timestamp() - interval '5 minutes' AND backend_type = 'client backend'
UNION ALL
SELECT owner::text, 'PREPARE TRANSACTION ' || quote_literal(gid),
       extract(epoch FROM clock_timestamp() - prepared)::float8
  FROM pg_prepared_xacts
 WHERE database = current_database() AND prepared < clock_timestamp() - interval '5 minutes'
"""

# The users that the services came as: those connected now.
_SERVICE_USERS: Final = """
SELECT DISTINCT usename::text AS username, application_name AS application
  FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'relay-%' AND usename IS NOT NULL
"""

_MEMBERS: Final = """
SELECT g.rolname::text AS role_name, count(m.member)::int AS members
  FROM pg_roles g LEFT JOIN pg_auth_members m ON m.roleid = g.oid
 WHERE g.rolname IN ('relay_writer', 'relay_publisher', 'relay_confirmer', 'relay_operator',
                     'relay_observer')
 GROUP BY g.rolname
"""

_PUBLIC_GRANTS: Final = """
SELECT DISTINCT table_name::text FROM information_schema.table_privileges
 WHERE table_schema = 'relay' AND grantee = 'PUBLIC' ORDER BY 1
"""

# Privileges that somebody gives to everybody on tables yet to be made in our schema.
_DEFAULT_PRIVILEGES: Final = """
SELECT DISTINCT pg_get_userbyid(d.defaclrole)::text AS made_by
  FROM pg_default_acl d, aclexplode(d.defaclacl) AS a
 WHERE d.defaclnamespace IN (0, 'relay'::regnamespace) AND d.defaclobjtype = 'r' AND a.grantee = 0
"""

# Appends as the order service would, and takes it back: a trigger, a policy or a missing grant that
# would fail an order fails this.
_PROBE: Final = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ('relay.check', 'relay.check', 'relay.check', '{}') RETURNING id
"""

_CHECKPOINT: Final = """
SELECT pg_snapshot_xmax(prev)::text::bigint
         > pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS ahead,
       coalesce(system_identifier <> (SELECT system_identifier FROM pg_control_system()), false)
         OR coalesce(home <> (SELECT oid FROM pg_database WHERE datname = current_database())::text
                             || '/' || 'relay.checkpoint'::regclass::oid, false) AS foreign_system
  FROM relay.checkpoint WHERE shard = 0
"""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What was read; a part that could not be is None and named in `refused`.

    Attributes:
        client_port: the port that this connection left from, as the client knows it.
        append_error: why an append, tried and rolled back, failed; None: it did not, or this user
            may not act as the order service.
        clock_offset: the database's clock minus this machine's, half the round trip taken off.
    """

    server: Mapping[str, Any]
    client_port: int | None
    clock_offset: timedelta
    async_committers: tuple[str, ...] | None
    outbox: Mapping[str, Any] | None
    default_rows: int | None
    triggers: tuple[Mapping[str, Any], ...] | None
    constraints: tuple[Mapping[str, Any], ...] | None
    old_transactions: tuple[Mapping[str, Any], ...] | None
    service_users: tuple[Mapping[str, Any], ...] | None
    role_members: Mapping[str, int] | None
    public_tables: tuple[str, ...] | None
    default_privileges: tuple[str, ...] | None
    checkpoint: Mapping[str, Any] | None
    append_error: str | None
    refused: Mapping[str, str]


async def gather_database(connection: asyncpg.Connection, tables: tuple[str, ...]) -> DatabaseFacts:
    """Read the facts over one connection; `tables` are those whose triggers matter.

    Raises:
        OSError, asyncpg.InterfaceError: the connection is lost.
    """
    reader = _Reader(connection)
    before = datetime.now().astimezone()
    server = (await connection.fetchrow(_SERVER)) or {}
    after = datetime.now().astimezone()
    members = await reader.rows("members", _MEMBERS)
    return DatabaseFacts(
        server=dict(server),
        client_port=_client_port(connection),
        clock_offset=server["now"] - before - (after - before) / 2,
        async_committers=await reader.column("synchronous_commit", _ASYNC_COMMIT),
        outbox=await reader.row("outbox", _OUTBOX),
        default_rows=await reader.value("default", _DEFAULT_ROWS),
        triggers=await reader.rows("triggers", _TRIGGERS, list(tables)),
        constraints=await reader.rows("constraints", _CONSTRAINTS, list(tables)),
        old_transactions=await reader.rows("transactions", _OLD_TRANSACTIONS),
        service_users=await reader.rows("users", _SERVICE_USERS),
        role_members=None if members is None else {m["role_name"]: m["members"] for m in members},
        public_tables=await reader.column("public", _PUBLIC_GRANTS),
        default_privileges=await reader.column("default_privileges", _DEFAULT_PRIVILEGES),
        checkpoint=await reader.row("checkpoint", _CHECKPOINT),
        append_error=await _append_error(connection),
        refused=reader.refused,
    )


async def _append_error(connection: asyncpg.Connection) -> str | None:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SET LOCAL ROLE relay_writer")
    except asyncpg.PostgresError:
        return None
    else:
        try:
            await connection.fetchval(_PROBE)
        except asyncpg.PostgresError as error:
            return str(error)
        return None
    finally:
        await transaction.rollback()


class _Reader:
    """Runs one statement after the other and remembers which were refused."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.refused: dict[str, str] = {}

    async def rows(
        self, name: str, sql: str, *arguments: object
    ) -> tuple[Mapping[str, Any], ...] | None:
        try:
            return tuple(map(dict, await self._connection.fetch(sql, *arguments)))
        except asyncpg.PostgresError as error:
            self.refused[name] = str(error)
            return None

    async def row(self, name: str, sql: str) -> Mapping[str, Any] | None:
        rows = await self.rows(name, sql)
        return rows[0] if rows else None

    async def column(self, name: str, sql: str) -> tuple[Any, ...] | None:
        rows = await self.rows(name, sql)
        return None if rows is None else tuple(next(iter(row.values())) for row in rows)

    async def value(self, name: str, sql: str) -> Any:
        column = await self.column(name, sql)
        return column[0] if column else None


def _client_port(connection: asyncpg.Connection) -> int | None:
    # Over a Unix socket there is no port, and no pooler on the way that this could tell.
    transport = getattr(connection, "_transport", None)
    name = transport.get_extra_info("sockname") if transport is not None else None
    return name[1] if isinstance(name, tuple) else None
