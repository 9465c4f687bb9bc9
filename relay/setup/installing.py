"""Setup: brings what was decided into the database and the broker, each step whole or not at all.

Invariant: every step can be run again. What is asked of the database is one transaction (schema,
grants) and one index, made without stopping anybody; topics that exist are left as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.kafka.broker import connected
from relay.kafka.topic_creation import make_topics
from relay.orders.catalog import lookup_columns, orders_table
from relay.orders.rights import function_name, grant_statements
from relay.runtime.database import connect
from relay.runtime.flow import ApplyFunction, Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.migrations import migrate, read_kind
from relay.setup.mirror_trigger import mirror_trigger_sql
from relay.setup.order_trigger import OrderTrigger, order_trigger_sql
from relay.setup.survey import TableSeen, tables, types_in_use, words_in_use

APPLICATION_NAME: Final = "relay-init"
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Logins:
    """Which logins get which roles; None: nobody new."""

    order_service: str | None = None
    services: str | None = None
    operator: str | None = None


@dataclass(frozen=True, slots=True)
class MirrorTrigger:
    """An existing outbox table that is copied row by row."""

    table: str
    columns: dict[str, str]
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """An index, as it is made, and its name, quoted."""

    create: str
    name: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done to the database.

    Attributes:
        statements: GRANTs, and the trigger's, in one transaction.
        indexes: made one by one, without stopping writers; none: there is one, or the table takes
            none.
    """

    statements: tuple[str, ...]
    indexes: tuple[Index, ...]

    def as_script(self) -> str:
        """Return it for a client, after `relay migrate`."""
        inside = "\n".join(self.statements)
        parts = [f"BEGIN;\n{inside}\nCOMMIT;\n"] if self.statements else []
        return "\n".join([*parts, *(f"{one.create};\n" for one in self.indexes)])


class NotAllowedError(Exception):
    """The login that sets up lacks a right; the message says which."""

    hint = (
        "set DATABASE_URL to a login that owns the orders' table and may create schemas and roles,"
        " or let one run the SQL: relay migrate --sql, then what relay init prints"
    )


@asynccontextmanager
async def _connected(dsn: str | None) -> AsyncIterator[asyncpg.Connection]:
    """Connect, and say of a right that is missing who needs it."""
    connection = await connect(dsn, APPLICATION_NAME)
    try:
        yield connection
    except asyncpg.InsufficientPrivilegeError as error:
        login = connection.get_settings().session_authorization
        raise NotAllowedError(f"the login {login}: {error}") from error
    finally:
        await connection.close()


async def refuse_unreachable(kafka: KafkaConnection) -> None:
    """See that the broker answers, before anything is done.

    Raises:
        KafkaError, OSError: it does not.
    """
    async with connected(kafka, APPLICATION_NAME):
        pass


async def look(dsn: str | None) -> list[TableSeen]:
    """Return the user's tables.

    Raises:
        DatabaseError: no connection.
    """
    async with _connected(dsn) as connection:
        return await tables(connection)


async def words(dsn: str | None, table: TableSeen, column: str) -> list[str]:
    """Return a column's words in use, the most frequent first."""
    async with _connected(dsn) as connection:
        found = table.column(column)
        assert found is not None
        return await words_in_use(connection, table, found)


async def outbox_types(dsn: str | None, table: TableSeen, column: str) -> list[str]:
    """Return the event types of an existing outbox table."""
    async with _connected(dsn) as connection:
        return await types_in_use(connection, table, column)


async def make_plan(
    dsn: str | None,
    flow: Flow,
    logins: Logins,
    trigger: OrderTrigger | MirrorTrigger | None,
) -> Plan:
    """Put the statements together; nothing is changed.

    Raises:
        FlowTableError: the settings name what the database does not have.
        TriggerError: the trigger cannot be made as asked.
    """
    async with _connected(dsn) as connection:
        await lookup_columns(connection, flow)
        if isinstance(flow.apply, ApplyFunction):
            await function_name(connection, flow.apply.function)
        found = [*await _memberships(connection, logins), *await grant_statements(connection, flow)]
        if isinstance(trigger, OrderTrigger):
            found.append(await order_trigger_sql(connection, flow, trigger))
        elif trigger is not None:
            statements = await mirror_trigger_sql(
                connection, trigger.table, trigger.columns, content_type=trigger.content_type
            )
            found.append(statements)
        return Plan(tuple(found), await _indexes(connection, flow))


_ROLE: Final = """
SELECT pg_catalog.quote_ident(rolname) AS name FROM pg_catalog.pg_roles WHERE rolname = $1
"""


class UnknownLoginError(Exception):
    """There is no such login; the message names it."""


async def _memberships(connection: asyncpg.Connection, logins: Logins) -> list[str]:
    wanted = (
        (logins.order_service, ("relay_writer",)),
        (logins.services, ("relay_publisher", "relay_confirmer")),
        (logins.operator, ("relay_operator",)),
    )
    statements: list[str] = []
    for login, roles in wanted:
        if login is None:
            continue
        name = await connection.fetchval(_ROLE, login)
        if name is None:
            raise UnknownLoginError(f"there is no role {login}: CREATE ROLE {login} LOGIN first")
        statements.extend(f"GRANT {role} TO {name};" for role in roles)
    return statements


# As `relay check` looks for it: orders that wait, by time.
_INDEXED: Final = """
SELECT c.relkind IN ('r', 'p') AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_attribute t ON t.attrelid = c.oid AND t.attname = $2
      JOIN pg_catalog.pg_attribute s ON s.attrelid = c.oid AND s.attname = $3
     WHERE i.indrelid = c.oid AND i.indisvalid
       AND (i.indkey[0] = t.attnum AND i.indpred IS NOT NULL
            OR i.indkey[0] = s.attnum AND i.indkey[1] = t.attnum))
  FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)
"""
_LITERALS: Final = """
SELECT string_agg(pg_catalog.quote_literal(w), ', ' ORDER BY w) FROM pg_catalog.unnest($1::text[]) w
"""


# The partitions that hold rows, and the table above them last: it then takes the indexes that are
# there, in a moment, where PostgreSQL makes none of a partitioned table without stopping writers.
_RELATIONS: Final = """
SELECT pg_catalog.quote_ident(n.nspname) AS schema, pg_catalog.quote_ident(c.relname) AS name,
       pg_catalog.quote_ident(pg_catalog.left(c.relname, 43) || '_awaits_return') AS index,
       c.relkind = 'r' AS has_rows
  FROM (SELECT relid, level FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1))
         UNION SELECT pg_catalog.to_regclass($1), 0) AS t
  JOIN pg_catalog.pg_class c ON c.oid = t.relid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' OR t.level = 0
 ORDER BY t.level DESC, 1, 2
"""


_UNFINISHED: Final = """
SELECT true FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
 WHERE i.indexrelid = pg_catalog.to_regclass($1) AND NOT i.indisvalid AND c.relkind = 'i'
"""


async def _indexes(connection: asyncpg.Connection, flow: Flow) -> tuple[Index, ...]:
    names = flow.orders_columns
    assert names is not None
    table = await orders_table(connection, flow)
    wanted = await connection.fetchval(
        _INDEXED, names.table, names.submitted_at_column, names.status_column
    )
    if not wanted:
        return ()
    final = await connection.fetchval(_LITERALS, sorted(flow.ended_statuses))
    of = f"({table.submitted.name}) WHERE {table.status} NOT IN ({final})"
    found = []
    for row in await connection.fetch(_RELATIONS, names.table):
        how = " CONCURRENTLY" if row["has_rows"] else ""
        found.append(
            Index(
                f"CREATE INDEX{how} IF NOT EXISTS {row['index']}"
                f" ON {row['schema']}.{row['name']} {of}",
                f"{row['schema']}.{row['index']}",
            )
        )
    return tuple(found)


async def apply_to_database(dsn: str | None, plan: Plan) -> tuple[str, ...]:
    """Migrate, grant, make the trigger and the index; return what was applied of the schema.

    Raises:
        MigrationError: the schema cannot be made; nothing was done.
        asyncpg.PostgresError: a statement was refused; none of its transaction is done.
    """
    async with _connected(dsn) as connection:
        sample = await read_kind(connection) == "sample"
        report = await migrate(dsn, sample=sample)
        async with connection.transaction():
            for statement in plan.statements:
                await connection.execute(statement)
        for index in plan.indexes:
            await _make(connection, index)
    return report.applied


async def _make(connection: asyncpg.Connection, index: Index) -> None:
    """Make it; what a failure leaves of one is of no use, and would cost every writer."""
    try:
        await _drop_unfinished(connection, index)  # of a process that was killed
        await connection.execute(index.create, timeout=None)
    except asyncpg.PostgresError:
        await _drop_unfinished(connection, index)
        raise


async def _drop_unfinished(connection: asyncpg.Connection, index: Index) -> None:
    if await connection.fetchval(_UNFINISHED, index.name):
        await connection.execute(f"DROP INDEX CONCURRENTLY {index.name}", timeout=None)


async def make_flow_topics(
    kafka: KafkaConnection, flow: Flow, *, partitions: int, outbox_days: int, inbox_days: int
) -> list[str]:
    """Make the flow's topics that are missing; events are kept as long as the outbox.

    Returns stay for no longer than the inbox remembers them beside the oldest replay.

    Raises:
        TopicNotMadeError: the broker refuses.
        KafkaError, OSError: the broker is away.
    """
    events: Sequence[str] = sorted(flow.topics)
    made = await make_topics(kafka, events, partitions=partitions, configs=_kept(outbox_days))
    returns_days = max(1, min(outbox_days, inbox_days - outbox_days))
    made += await make_topics(
        kafka, [flow.returns_topic], partitions=partitions, configs=_kept(returns_days)
    )
    return made + await make_topics(kafka, [flow.probe_topic], partitions=1)


def _kept(days: int) -> dict[str, str]:
    return {"retention.ms": str(days * _DAY_MS)}
