"""Reads what is the same for every order: processes, outages, checkpoint, positions.

Invariant: reads only, bounded in rows whatever was recorded; what cannot be read is Missing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from relay.diagnose.evidence.history import BEFORE_SECONDS, STEPS_OF_A_READER
from relay.diagnose.evidence.publisher import PublisherSeen
from relay.diagnose.evidence.system_state import (
    PROCESSES_AT_MOST,
    CheckpointSeen,
    ConsumerOffset,
    ConsumerSeen,
    Gap,
    LeaseSeen,
    Missing,
    OutageSeen,
    ProcessSeen,
    SetAside,
    Shrink,
)
from relay.diagnose.gather.cut_over import events_since, orders_behind, watched_since
from relay.diagnose.gather.publisher import read_external
from relay.diagnose.gather.reading import part
from relay.diagnose.gather.unwritten import DISABLED_TRIGGERS
from relay.runtime.flow import Flow
from relay.runtime.liveness import SILENT_SECONDS
from relay.runtime.times import later


@dataclass(frozen=True, slots=True)
class AroundRows:
    """What the database knows that is no order's own."""

    now_at: datetime
    watched_since: datetime | Missing | None
    events_since: datetime | Missing | None
    relays: tuple[ProcessSeen, ...] | Missing
    consumers: tuple[ProcessSeen, ...] | Missing
    outages: tuple[OutageSeen, ...] | Missing
    checkpoint: CheckpointSeen | Missing | None
    lease: LeaseSeen | Missing | None
    consumer: ConsumerSeen | Missing
    ledger_from_at: datetime | Missing | None = None
    clock_behind: timedelta = timedelta(0)
    disabled_triggers: tuple[str, ...] | Missing = ()
    lone_readers: frozenset[str] | Missing = frozenset()
    shrinks: Mapping[str, tuple[Shrink, ...]] | Missing = field(default_factory=dict)
    newcomers: frozenset[str] = frozenset()
    publisher: PublisherSeen | Missing | None = None


async def read_around(
    connection: asyncpg.Connection, flow: Flow, since: datetime | None
) -> AroundRows:
    """Read it.

    Args:
        connection: in a transaction.
        flow: names topics and groups.
        since: outages and topics made again are read from then on; None: the last day's.
    """
    con = connection
    now_at: datetime = await con.fetchval("SELECT clock_timestamp()")
    start = since or now_at - timedelta(days=1)
    behind = await part(con, "the orders' clock", lambda: orders_behind(con, flow))
    newcomers = await part(con, "connections", lambda: _newcomers(con))
    return AroundRows(
        now_at=now_at,
        watched_since=await part(con, "since when is watched", lambda: watched_since(con)),
        events_since=await part(con, "the first event", lambda: events_since(con, flow)),
        relays=await part(con, "relay processes", lambda: read_processes(con, flow, "relay")),
        consumers=await part(
            con, "consumer processes", lambda: read_processes(con, flow, "confirm")
        ),
        outages=await part(con, "outage records", lambda: _outages(con, flow, start)),
        checkpoint=await part(con, "the checkpoint", lambda: _checkpoint(con)),
        lease=await part(con, "the lease", lambda: _lease(con)),
        consumer=await part(con, "the consumer's offsets", lambda: _consumer(con, flow, start)),
        disabled_triggers=await part(con, "disabled triggers", lambda: _triggers(con, flow)),
        shrinks=await part(con, "topics made again", lambda: _shrinks(con, flow, start)),
        lone_readers=await part(con, "positions", lambda: _lone_readers(con, flow, now_at)),
        newcomers=frozenset() if isinstance(newcomers, Missing) else newcomers,
        publisher=await part(con, "the publisher", lambda: _publisher(con, flow)),
        clock_behind=timedelta(0) if isinstance(behind, Missing) else behind,
    )


# The names that the services give their connections.
_CONNECTIONS: Final = {
    "relay": ["relay-relay-heartbeat", "relay-run-reader", "relay-run-writer"],
    "confirm": ["relay-confirm-heartbeat", "relay-confirm"],
}
# Who is killed leaves no connection; who is paused leaves his. To a role without pg_read_all_stats
# the start of other roles' connections is NULL, their name is not.
_PROCESSES: Final = """
SELECT p.instance, p.started_at, p.heartbeat_at, p.stopped_at, p.stop_reason, p.detail::text,
       p.failure_code, p.stop_code,
       EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                WHERE a.datname = current_database()
                  AND a.application_name = ANY ($3::text[])
                  AND coalesce(a.backend_start >= p.started_at - interval '10 s', true)
              ) AS connected
  FROM relay.process_record AS p
 WHERE p.kind = $1 AND coalesce(p.detail #>> '{flow,name}', '?') <> ALL ($4::text[])
 ORDER BY p.heartbeat_at DESC LIMIT $2
"""


async def read_processes(
    connection: asyncpg.Connection, flow: Flow, kind: str
) -> tuple[ProcessSeen, ...]:
    """Return the newest process records of a kind, without those of other flows."""
    names = _CONNECTIONS.get(kind, [f"relay-{kind}-heartbeat"])
    rows = await connection.fetch(
        _PROCESSES, kind, PROCESSES_AT_MOST, names, list(flow.others.names)
    )
    return tuple(_process(row) for row in rows)


async def _publisher(connection: asyncpg.Connection, flow: Flow) -> PublisherSeen | None:
    witnesses = await read_processes(connection, flow, "witness")
    return await read_external(connection, flow, witnesses)


# It connects first and records itself a moment later.
_NEWCOMER: Final = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_stat_activity AS a
     WHERE a.datname = current_database() AND a.application_name = ANY ($2::text[])
       AND a.backend_start > clock_timestamp() - interval '10 s'
       AND a.backend_start > (SELECT coalesce(max(greatest(p.heartbeat_at, p.stopped_at)),
                                              '-infinity')
                                FROM relay.process_record AS p WHERE p.kind = $1))
"""


async def _newcomers(connection: asyncpg.Connection) -> frozenset[str]:
    found = [
        kind
        for kind, names in _CONNECTIONS.items()
        if await connection.fetchval(_NEWCOMER, kind, names)
    ]
    return frozenset(found)


def _process(row: asyncpg.Record) -> ProcessSeen:
    detail = json.loads(row["detail"])
    return ProcessSeen(
        instance=row["instance"],
        started_at=row["started_at"],
        heartbeat_at=row["heartbeat_at"],
        stopped_at=row["stopped_at"],
        stop_reason=row["stop_reason"],
        connected=row["connected"],
        state=_text(detail.get("state")),
        error=_text(detail.get("waiting_for")) or _text(detail.get("error")),
        failure_code=row["failure_code"],
        stop_code=row["stop_code"],
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


_OUTAGES: Final = """
SELECT o.kind, o.resource, o.from_at,
       -- A process that is gone cannot complete its outage; its end bounds it.
       coalesce(o.to_at, CASE WHEN p.stopped_at IS NOT NULL
                                OR p.heartbeat_at < clock_timestamp() - make_interval(secs => $2)
                              THEN p.heartbeat_at END) AS to_at,
       o.error, o.failure_code,
       coalesce(o.from_at <= p.started_at + interval '10 s', false) AS since_start
  FROM relay.outage_record AS o LEFT JOIN relay.process_record AS p USING (process_id)
 WHERE (o.from_at >= $1 OR o.to_at IS NULL OR o.to_at >= $1)
   AND coalesce(p.detail #>> '{flow,name}', '?') <> ALL ($3::text[])
 -- What is still open comes first, however many came and went since.
 ORDER BY o.to_at IS NOT NULL, o.from_at DESC LIMIT 1000
"""


async def _outages(
    connection: asyncpg.Connection, flow: Flow, since: datetime
) -> tuple[OutageSeen, ...]:
    others = list(flow.others.names)
    rows = await connection.fetch(_OUTAGES, since, SILENT_SECONDS, others)
    return tuple(OutageSeen(*row) for row in rows)


_CHECKPOINT: Final = """
SELECT updated_at,
       pg_snapshot_xmax(coalesce(cur, prev))::text::numeric
           > pg_snapshot_xmax(pg_current_snapshot())::text::numeric AS ahead,
       coalesce(home <> (SELECT oid FROM pg_catalog.pg_database
                          WHERE datname = current_database())::text
                        || '/' || 'relay.checkpoint'::regclass::oid, false) AS copied,
       system_identifier
  FROM relay.checkpoint WHERE shard = 0
"""
_MAY_IDENTIFY: Final = "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')"
_IDENTIFY: Final = "SELECT system_identifier FROM pg_control_system()"


async def _checkpoint(connection: asyncpg.Connection) -> CheckpointSeen | None:
    row = await connection.fetchrow(_CHECKPOINT)
    if row is None:
        return None
    foreign = False
    if row["system_identifier"] is not None and await connection.fetchval(_MAY_IDENTIFY):
        foreign = row["system_identifier"] != await connection.fetchval(_IDENTIFY)
    return CheckpointSeen(
        row["updated_at"], rebaseline_needed=row["ahead"] or row["copied"] or foreign
    )


_LEASE: Final = """
SELECT l.owner, coalesce(l.released_at, l.expires_at),
       EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                WHERE a.pid = l.backend_pid AND a.datname = current_database()
                  AND a.application_name = 'relay-run-writer')
  FROM relay.lease AS l WHERE l.duty = 'relay' AND l.shard = 0
"""


async def _lease(connection: asyncpg.Connection) -> LeaseSeen | None:
    row = await connection.fetchrow(_LEASE)
    return None if row is None else LeaseSeen(*row)


_OFFSETS: Final = """
SELECT partition, next_offset, updated_at FROM relay.consumer_offset
 WHERE consumer_group = $1 AND topic = $2
"""
# Markers and aborted records are no loss; what compaction removed is one, and looks the same.
_GAPS: Final = """
SELECT partition, from_offset, to_offset, reason, noticed_at FROM relay.offset_gap
 WHERE consumer_group = $1 AND topic = $2 AND reason <> 'not_readable' AND noticed_at >= $3
 ORDER BY noticed_at DESC LIMIT $4
"""
_EMPTY_OFFSETS: Final = """
SELECT partition, max(noticed_at) FROM relay.offset_gap
 WHERE consumer_group = $1 AND topic = $2 AND reason = 'not_readable'
 GROUP BY partition
"""
# A stretch of refusals, or of what cannot be read: whose returns stand in it nobody wrote down.
_SET_ASIDE: Final = """
SELECT partition, coalesce(from_offset, record_offset), record_offset + 1, reason, first_seen_at,
       last_seen_at
  FROM relay.quarantine_summary
 WHERE kind = 'return' AND consumer_group = $1 AND topic = $2 AND from_offset IS NOT NULL
   AND last_seen_at >= $3
 ORDER BY quarantine_id DESC LIMIT $4
"""
_SET_ASIDE_AT_MOST: Final = 10_000
_GAPS_AT_MOST: Final = 10_000


async def _consumer(connection: asyncpg.Connection, flow: Flow, since: datetime) -> ConsumerSeen:
    asked = flow.confirm_group, flow.returns_topic
    offsets = await connection.fetch(_OFFSETS, *asked)
    # What was never seen before there was an order held no return of it.
    gaps = await connection.fetch(_GAPS, *asked, since, _GAPS_AT_MOST + 1)
    empty = await connection.fetch(_EMPTY_OFFSETS, *asked)
    aside = await connection.fetch(_SET_ASIDE, *asked, since, _SET_ASIDE_AT_MOST + 1)
    return ConsumerSeen(
        {
            row["partition"]: ConsumerOffset(row["next_offset"], row["updated_at"])
            for row in offsets
        },
        tuple(Gap(*row) for row in gaps[:_GAPS_AT_MOST]),
        tuple(row[1] for row in empty),
        tuple(SetAside(*row) for row in aside[:_SET_ASIDE_AT_MOST]),
        len(aside) > _SET_ASIDE_AT_MOST,
        len(gaps) > _GAPS_AT_MOST,
    )


# Reads the whole ledger: asked only where a row is past the checkpoint and not in it.
_LEDGER_FROM: Final = "SELECT min(published_at) FROM relay.delivery_ledger"


async def read_ledger_from_at(connection: asyncpg.Connection) -> datetime | None:
    """Return when the oldest event that the ledger still knows was published."""
    oldest: datetime | None = await connection.fetchval(_LEDGER_FROM)
    return oldest


_TRIGGERS: Final = f"SELECT t.tgname {DISABLED_TRIGGERS}"


async def _triggers(connection: asyncpg.Connection, flow: Flow) -> tuple[str, ...]:
    columns = flow.orders_columns
    if columns is None:
        return ()
    rows = await connection.fetch(_TRIGGERS, columns.table)
    return tuple(row["tgname"] for row in rows)


# As evidence/history.py tells one record's group from a reader.
_LONE_READERS: Final = """
SELECT s.consumer_group
  FROM (SELECT p.consumer_group, p.taken_at, p.members, p.committed_offset,
               lag(p.members) OVER series AS members_before,
               lag(p.committed_offset) OVER series AS offset_before
          FROM relay.position AS p
         WHERE p.taken_at > $1 AND p.topic = ANY ($2::text[])
           AND p.consumer_group = ANY ($3::text[])
        WINDOW series AS (PARTITION BY p.topic, p.consumer_group, p.partition
                          ORDER BY p.taken_at, p.position_id)) AS s
 GROUP BY s.consumer_group
HAVING count(DISTINCT s.taken_at) FILTER (
           WHERE s.members = 0 AND s.members_before = 0 AND s.committed_offset > s.offset_before)
       >= $4
   AND coalesce(max(s.members), 0) = 0
"""
_LATELY_SECONDS: Final = 300.0


async def _lone_readers(
    connection: asyncpg.Connection, flow: Flow, now_at: datetime
) -> frozenset[str]:
    """Return the processor's groups that move on though they have no members."""
    rows = await connection.fetch(
        _LONE_READERS,
        later(now_at, -_LATELY_SECONDS),
        sorted(flow.topics),
        list(flow.processor_groups),
        STEPS_OF_A_READER,
    )
    return frozenset(row[0] for row in rows)


# A log never ends before where it ended, unless it is another log: the watchdog marks it so.
_SHRINKS: Final = """
SELECT s.topic, s.partition, b.taken_at, b.log_end, s.taken_at, s.log_end
  FROM relay.position AS s
 CROSS JOIN LATERAL (
       SELECT taken_at, log_end FROM relay.position AS p
        WHERE p.topic = s.topic AND p.consumer_group = '' AND p.partition = s.partition
          AND p.taken_at <= s.taken_at AND p.position_id <> s.position_id AND p.log_end > s.log_end
        ORDER BY p.taken_at DESC LIMIT 1) AS b
 WHERE s.shrank AND s.topic = ANY ($1::text[]) AND s.taken_at >= $2
 ORDER BY s.taken_at
"""


async def _shrinks(
    connection: asyncpg.Connection, flow: Flow, since: datetime
) -> dict[str, tuple[Shrink, ...]]:
    topics = sorted(flow.topics | {flow.returns_topic})
    found: defaultdict[str, list[Shrink]] = defaultdict(list)
    start = since - timedelta(seconds=BEFORE_SECONDS)
    for topic, *columns in await connection.fetch(_SHRINKS, topics, start):
        found[topic].append(Shrink(*columns))
    return {topic: tuple(steps) for topic, steps in found.items()}
