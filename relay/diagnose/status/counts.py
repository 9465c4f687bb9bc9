"""Counts in the database what waits, at a cost that does not grow with what is retained.

Invariant: reads only, each part by itself: what cannot be read is Missing and the rest is told. No
count goes further than COUNTED rows; beyond that the outbox is estimated by its ids, and open
orders are said to be at least so many.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.cut_over import watched_from, watched_since
from relay.diagnose.gather.publisher import read_external
from relay.diagnose.gather.reading import in_parts, part
from relay.diagnose.status.evidence import Counts, ProcessRow, SetAsideCount, Waiting
from relay.diagnose.status.traces import Position, read_answered_orders
from relay.diagnose.watch.looked import read_looked
from relay.kafka.partition import Partition
from relay.orders.catalog import FlowTableError, orders_table
from relay.orders.table import OrdersTable
from relay.runtime.flow import ApplyColumns, Flow

COUNTED: Final = 100_000
NEWEST_ORDERS: Final = 500
RATE_SECONDS: Final = 60
STATEMENT_MILLISECONDS: Final = 3000


async def read_counts(connection: asyncpg.Connection, flow: Flow) -> Counts:
    """Read everything in one snapshot.

    Args:
        connection: used by nobody else meanwhile.
        flow: says where orders stand and which topics and groups count.
    """
    return await in_parts(connection, lambda: _in_one_snapshot(connection, flow))


async def _in_one_snapshot(connection: asyncpg.Connection, flow: Flow) -> Counts:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(f"SET LOCAL statement_timeout = {STATEMENT_MILLISECONDS}")
        # Planned for the values at hand: a generic plan knows neither partitions nor statuses.
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        await connection.execute("SET LOCAL jit = off")
        # "200 of the last hour" looks cheap to scan for, and reads everything when there are none.
        await connection.execute("SET LOCAL enable_seqscan = off")
        return await _read(connection, flow)


async def _read(connection: asyncpg.Connection, flow: Flow) -> Counts:
    async def read(what: str, how: Any, *args: Any) -> Any:
        return await part(connection, what, lambda: how(connection, *args))

    now = await connection.fetchval("SELECT clock_timestamp()")
    judged_from = await read("the first event", watched_from, flow)
    # Where no event was ever written, every order without one is counted.
    since = judged_from or await watched_since(connection)
    since = now if isinstance(since, Missing) else since
    return Counts(
        now=now,
        kind=await read("the installation", _kind),
        publish=await read("the rows to publish", _publish, flow),
        open_orders=await read("the open orders", _open_orders, flow, since),
        without_event=await read("the orders without event", _without_event, flow, since),
        pending=await read("the returns of locked orders", _pending, flow.confirm_group),
        held=await read("quarantine", _held, flow),
        set_aside=await read("quarantine", read_set_aside, flow.confirm_group),
        next_offsets=await read("the consumer's offsets", _next_offsets, flow),
        overdue=await read("the overdue orders", _overdue, flow),
        incidents=await read("the incidents", _incidents, flow),
        answered=await read("the traces of answered orders", read_answered_orders, flow, now),
        canaries=await read("the canaries", _canaries, now, flow.returns_topic),
        rates=await read("the rates", _rates, flow, now),
        processes=await read("the processes", read_processes, flow),
        read_only=await connection.fetchval(_READ_ONLY),
        never_an_event=judged_from is None,
        publisher=await read("the publisher", read_external, flow, ()),
        looked=await read("the watchdog's rounds", read_looked),
    )


# Of the server, the database or this role: whoever is not let write cannot say that it lives.
_READ_ONLY: Final = "SELECT current_setting('default_transaction_read_only')::bool"


async def _kind(connection: asyncpg.Connection) -> str:
    kind: str | None = await connection.fetchval("SELECT kind FROM relay.installation")
    return kind or "not migrated"


# Between windows: what was not visible at the checkpoint. Inside one: what comes after last_id.
_UNPUBLISHED: Final = """
WITH point AS MATERIALIZED (SELECT prev, cur, last_id FROM relay.checkpoint WHERE shard = 0),
rows AS (
    (SELECT id, created_at FROM relay.outbox
      WHERE (SELECT cur FROM point) IS NULL
        AND event_type NOT IN ('relay.probe', 'relay.canary')
        AND aggregate_type <> ALL ($2::text[])
        AND txid >= (SELECT pg_snapshot_xmax(prev) FROM point)
      ORDER BY txid LIMIT $1)
    UNION ALL
    (SELECT o.id, o.created_at FROM point, pg_snapshot_xip(point.prev) AS x
      CROSS JOIN LATERAL (SELECT id, created_at FROM relay.outbox
                           WHERE txid = x AND event_type NOT IN ('relay.probe', 'relay.canary')
                             AND aggregate_type <> ALL ($2::text[])
                          OFFSET 0) o
      WHERE point.cur IS NULL LIMIT $1)
    UNION ALL
    (SELECT id, created_at FROM relay.outbox
      WHERE id > (SELECT last_id FROM point)
        AND event_type NOT IN ('relay.probe', 'relay.canary')
        AND aggregate_type <> ALL ($2::text[])
        AND NOT pg_visible_in_snapshot(txid, (SELECT prev FROM point))
      ORDER BY id LIMIT $1)
)
SELECT count(*), min(created_at) AS oldest_at, min(id) AS first_id FROM rows
"""
_LAST_ID: Final = "SELECT max(id) FROM relay.outbox"


async def _publish(connection: asyncpg.Connection, flow: Flow) -> Waiting:
    others = list(flow.others.aggregate_types)
    row = await connection.fetchrow(_UNPUBLISHED, COUNTED, others)
    if row["count"] < COUNTED:
        return Waiting(row["count"], row["oldest_at"])
    last = await connection.fetchval(_LAST_ID)
    return Waiting(max(COUNTED, last - row["first_id"] + 1), row["oldest_at"], exact=False)


def _open_query(table: OrdersTable) -> str:
    at = table.submitted
    return f"""
        SELECT count(*), min(submitted_at) AS oldest_at FROM (
            SELECT {at.value()} AS submitted_at FROM {table.table} o
             WHERE o.{table.status} = ANY ({table.as_statuses("$1")})
               AND {at.since("$3::timestamptz")}
             ORDER BY o.{at.name} LIMIT $2) AS open
    """  # noqa: S608 - identifiers from the catalog


async def _table(connection: asyncpg.Connection, flow: Flow) -> OrdersTable | Missing | None:
    if flow.orders_columns is None:
        return None
    try:
        return await orders_table(connection, flow)
    except FlowTableError as error:
        how = "correct the flow's columns in the settings, or run `relay migrate`"
        return Missing("the orders", Cause.PERMISSION_DENIED, str(error), how)


def _open_statuses(flow: Flow) -> list[str]:
    return [status for status in flow.status_ranks if status not in flow.terminal_statuses]


async def _open_orders(
    connection: asyncpg.Connection, flow: Flow, since: datetime
) -> Waiting | Missing | None:
    if not isinstance(flow.apply, ApplyColumns):
        return None  # whoever writes the status may never move it
    table = await _table(connection, flow)
    if not isinstance(table, OrdersTable):
        return table
    row = await connection.fetchrow(_open_query(table), _open_statuses(flow), COUNTED, since)
    return Waiting(row["count"], row["oldest_at"], exact=row["count"] < COUNTED)


def _without_event_query(table: OrdersTable) -> str:
    at = table.submitted
    return f"""
        SELECT count(*), min(submitted_at) AS oldest_at FROM (
            SELECT {table.id_of()} AS key, {at.value()} AS submitted_at
              FROM {table.table} o
             WHERE o.{table.status} = ANY ({table.as_statuses("$1")})
               AND {at.since("$5::timestamptz")}
             ORDER BY o.{at.name} DESC LIMIT $2) AS newest
         WHERE NOT EXISTS (SELECT FROM relay.outbox
                            WHERE aggregate_id = ANY ({table.spellings("newest.key")})
                              AND (aggregate_type = $3 OR event_type = ANY ($4::text[])))
           AND NOT EXISTS (SELECT FROM relay.kept
                            WHERE aggregate_id = ANY ({table.spellings("newest.key")})
                              AND (aggregate_type = $3 OR event_type = ANY ($4::text[])))
    """  # noqa: S608 - identifiers from the catalog


async def _without_event(
    connection: asyncpg.Connection, flow: Flow, since: datetime
) -> Waiting | Missing | None:
    table = await _table(connection, flow)
    if not isinstance(table, OrdersTable):
        return table
    query = _without_event_query(table)
    row = await connection.fetchrow(
        query, _open_statuses(flow), NEWEST_ORDERS, flow.aggregate_type, flow.own_event_types, since
    )
    return Waiting(row["count"], row["oldest_at"])


_PENDING: Final = """
SELECT count(*), min(recorded_at) AS oldest_at
  FROM (SELECT recorded_at FROM relay.pending_return WHERE consumer_group = $1 LIMIT $2) AS p
"""


async def _pending(connection: asyncpg.Connection, group: str) -> Waiting:
    row = await connection.fetchrow(_PENDING, group, COUNTED)
    return Waiting(row["count"], row["oldest_at"], exact=row["count"] < COUNTED)


_HELD: Final = """
SELECT kind, count(*) FROM relay.quarantine_summary
 WHERE state IN ('held', 'release_requested')
   AND (consumer_group IS NULL OR consumer_group <> ALL ($1::text[]))
   AND (aggregate_type IS NULL OR aggregate_type <> ALL ($2::text[]))
 GROUP BY kind
"""


async def _held(connection: asyncpg.Connection, flow: Flow) -> dict[str, int]:
    others = list(flow.others.groups), list(flow.others.aggregate_types)
    return {row["kind"]: row["count"] for row in await connection.fetch(_HELD, *others)}


# Returns that only Kafka has, if it has them still: batches that cannot be read, and places.
_SET_ASIDE: Final = """
SELECT count(*) FILTER (WHERE reason = 'unreadable') AS unreadable,
       coalesce(sum(seen_count) FILTER (WHERE kept = 'place'), 0)::bigint AS places
  FROM relay.quarantine_summary
 WHERE kind = 'return' AND consumer_group = $1 AND from_offset IS NOT NULL
   AND state IN ('held', 'release_requested')
"""


async def read_set_aside(connection: asyncpg.Connection, group: str) -> SetAsideCount:
    """Return how much of the returns topic is held without the returns' bytes."""
    return SetAsideCount(*await connection.fetchrow(_SET_ASIDE, group))


_NEXT_OFFSETS: Final = """
SELECT topic, partition, next_offset FROM relay.consumer_offset
 WHERE consumer_group = $1 AND topic = $2
"""


async def _next_offsets(connection: asyncpg.Connection, flow: Flow) -> dict[Partition, int]:
    rows = await connection.fetch(_NEXT_OFFSETS, flow.confirm_group, flow.returns_topic)
    return {Partition(row["topic"], row["partition"]): row["next_offset"] for row in rows}


_OVERDUE: Final = """
SELECT hop, count(*) FROM relay.overdue
 WHERE closed_at IS NULL AND flow <> ALL ($1::text[]) GROUP BY hop
"""
_INCIDENTS: Final = """
SELECT count(*) FROM relay.incident WHERE closed_at IS NULL AND flow <> ALL ($1::text[])
"""


async def _overdue(connection: asyncpg.Connection, flow: Flow) -> dict[str, int]:
    rows = await connection.fetch(_OVERDUE, list(flow.others.names))
    return {row["hop"]: row["count"] for row in rows}


async def _incidents(connection: asyncpg.Connection, flow: Flow) -> int:
    count: int = await connection.fetchval(_INCIDENTS, list(flow.others.names))
    return count


# The log is not asked for canaries older than that: the processor would be days behind.
_CANARIES: Final = """
SELECT topic, partition, record_offset FROM relay.probe_run
 WHERE run_at > $1 AND record_offset IS NOT NULL
 UNION ALL
SELECT $2, return_partition, return_offset FROM relay.probe_run
 WHERE run_at > $1 AND return_offset IS NOT NULL
 LIMIT 100000
"""
_CANARY_DAYS: Final = 3


async def _canaries(
    connection: asyncpg.Connection, now: datetime, returns_topic: str
) -> tuple[Position, ...]:
    since = now - timedelta(days=_CANARY_DAYS)
    rows = await connection.fetch(_CANARIES, since, returns_topic)
    return tuple((Partition(topic, partition), offset) for topic, partition, offset in rows)


# The newest rows: by id the outbox, by time (BRIN) ledger and inbox. The time is a parameter:
# a volatile function in its place would read ten million rows. Canaries are no business.
_RATES: Final = """
WITH newest AS (
    SELECT created_at FROM (SELECT created_at, event_type, aggregate_type FROM relay.outbox
                             WHERE created_at > $3 ORDER BY id DESC LIMIT $2) AS o
     WHERE event_type NOT IN ('relay.probe', 'relay.canary')
       AND ($8 OR aggregate_type = $6 OR event_type = ANY ($7::text[]))
), ledger AS (
    SELECT record_count FROM relay.delivery_ledger
     WHERE published_at > $3 AND topic = ANY ($4::text[]) LIMIT $2
), inbox AS (
    SELECT FROM relay.inbox
     WHERE received_at > $3 AND outcome <> 'canary' AND consumer_group <> ALL ($5::text[]) LIMIT $2
), canaries AS (
    SELECT FROM relay.probe_run WHERE run_at > $3 AND topic = ANY ($4::text[])
)
SELECT (SELECT CASE WHEN count(*) = $2
                    THEN count(*) / extract(epoch FROM greatest(max(created_at) - min(created_at),
                                                                interval '1 ms'))
                    ELSE count(*) / $1 END
          FROM newest) AS place,
       (SELECT greatest(0, coalesce(sum(record_count), 0) - (SELECT count(*) FROM canaries)) / $1
          FROM ledger) AS publish,
       (SELECT count(*) / $1 FROM inbox) AS confirm
"""
_RATE_ROWS: Final = 20_000


async def _rates(
    connection: asyncpg.Connection, flow: Flow, now: datetime
) -> dict[str, float | None]:
    since = now - timedelta(seconds=RATE_SECONDS)
    topics = sorted(flow.topics)
    row = await connection.fetchrow(
        _RATES, float(RATE_SECONDS), _RATE_ROWS, since, topics, list(flow.others.groups),
        flow.aggregate_type, flow.own_event_types, not flow.others.groups,
    )  # fmt: skip
    return {hop: None if rate is None else round(float(rate), 2) for hop, rate in row.items()}


# Those that live, that went silent within a day, or that stopped within ten minutes.
_PROCESSES: Final = """
SELECT p.*, extract(epoch FROM clock_timestamp() - heartbeat_at)::float8 AS age,
       EXISTS (SELECT FROM relay.lease l
                WHERE l.owner = p.process_id::text AND l.expires_at > clock_timestamp()
                  AND l.released_at IS NULL) AS holds_lease
  FROM relay.process_record p
 WHERE ((stopped_at IS NULL AND heartbeat_at > clock_timestamp() - interval '1 day')
        OR stopped_at > clock_timestamp() - interval '10 minutes')
   AND coalesce(detail #>> '{flow,name}', '?') <> ALL ($1::text[])
 ORDER BY stopped_at NULLS FIRST, heartbeat_at DESC LIMIT 100
"""


async def read_processes(connection: asyncpg.Connection, flow: Flow) -> tuple[ProcessRow, ...]:
    """Return the process records of the last day, those that run first; not other flows'."""
    rows = await connection.fetch(_PROCESSES, list(flow.others.names))
    return tuple(_process(row) for row in rows)


def _process(row: asyncpg.Record) -> ProcessRow:
    return ProcessRow(
        kind=row["kind"],
        instance=row["instance"],
        version=row["version"],
        started_at=row["started_at"],
        heartbeat_age_seconds=row["age"],
        stopped_at=row["stopped_at"],
        stop_reason=row["stop_reason"],
        detail=json.loads(row["detail"]),
        active=row["holds_lease"],
    )
