"""Hop 2: reads what is known of a publisher that is not ours, and what of its records is unread.

Invariant: reads only. Kafka Connect is not asked here: the witness notes what it said, and what is
older than a minute is Missing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.publisher import ConnectorSeen, PublisherSeen, SlotSeen, TaskSeen
from relay.diagnose.evidence.system_state import Missing, ProcessSeen
from relay.diagnose.gather.reading import broker_missing
from relay.kafka.broker import connected
from relay.kafka.failures import READING_FAILURES
from relay.kafka.partition import Partition
from relay.kafka.unread import ReadTo, logs_now, unread
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection

_APPLICATION: Final = "relay-diagnose"
_STATE_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 0.1

# `invalidation_reason` is PostgreSQL 17's.
_PUBLISHER: Final = """
SELECT p.kind, p.slot, p.connector, p.connector_state::text AS connector_state,
       p.seen_at, clock_timestamp() AS now_at,
       s.slot_name IS NOT NULL AS slot_exists, coalesce(s.active, false) AS slot_active,
       coalesce(to_jsonb(s) ->> 'invalidation_reason',
                CASE WHEN s.wal_status = 'lost' THEN 'wal_removed' END) AS slot_lost,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                            ELSE pg_current_wal_insert_lsn() END,
                       s.confirmed_flush_lsn)::bigint AS behind_bytes
  FROM relay.publisher AS p
  LEFT JOIN pg_catalog.pg_replication_slots AS s ON s.slot_name = p.slot
"""
_READ_TO: Final = """
SELECT o.topic, o.partition, o.next_offset, o.topic_id
  FROM relay.consumer_offset AS o JOIN relay.publisher AS p ON p.witness_group = o.consumer_group
 WHERE o.topic = ANY ($1::text[])
"""
_LAST: Final = "SELECT published_at FROM relay.delivery_ledger ORDER BY ledger_id DESC LIMIT 1"


async def read_external(
    connection: asyncpg.Connection, flow: Flow, witnesses: tuple[ProcessSeen, ...] | Missing
) -> PublisherSeen | None:
    """Return what the database knows of the publisher; None: our relay publishes."""
    row = await connection.fetchrow(_PUBLISHER)
    if row is None or row["kind"] != "external":
        return None
    return PublisherSeen(
        slot=_slot(row),
        connector=connector(
            row["connector"], row["connector_state"], row["seen_at"], row["now_at"]
        ),
        witnesses=witnesses,
        read_to=await read_positions(connection, flow.topics),
        last_record_at=await connection.fetchval(_LAST),
    )


def _slot(row: asyncpg.Record) -> SlotSeen | None:
    if row["slot"] is None:
        return None
    return SlotSeen(
        row["slot"], row["slot_exists"], row["slot_active"], row["slot_lost"], row["behind_bytes"]
    )


def connector(
    name: str | None, state: str | None, seen_at: datetime | None, now_at: datetime
) -> ConnectorSeen | Missing | None:
    """Return a connector's state as a witness noted it; None: there is nothing to ask."""
    if name is None or state is None or seen_at is None:
        return None
    said: Any = json.loads(state)
    if now_at - seen_at > timedelta(seconds=_STATE_SECONDS):
        return _not_asked(f"asked last at {seen_at:%Y-%m-%d %H:%M:%S %Z}", "relay witness")
    if "state" not in said:
        why = str(said.get("unreachable", "it does not answer"))
        return _not_asked(why, "correct publisher.connect_url, or start a worker")
    tasks = tuple(
        TaskSeen(int(one["id"]), str(one["state"]), str(one.get("trace", "")))
        for one in said.get("tasks", ())
    )
    topics = tuple(str(one) for one in said.get("topics", ()))
    return ConnectorSeen(name, str(said["state"]), tasks, topics, said.get("slot"))


async def read_absent(kafka: KafkaConnection, topics: Collection[str]) -> tuple[str, ...] | Missing:
    """Return which of these topics do not exist."""
    if not topics:
        return ()
    try:
        async with connected(kafka, _APPLICATION) as broker:
            return tuple(one for one in topics if not broker.partitions(one))
    except READING_FAILURES as error:
        return broker_missing("the connector's topics", error)


def _not_asked(why: str, how: str) -> Missing:
    return Missing("Kafka Connect", Cause.TIMED_OUT, why, how)


async def read_positions(
    connection: asyncpg.Connection, topics: Collection[str]
) -> dict[Partition, ReadTo]:
    """Return where the witnesses go on, by partition."""
    rows = await connection.fetch(_READ_TO, sorted(topics))
    return {Partition(topic, number): ReadTo(*rest) for topic, number, *rest in rows}


async def read_unread(
    kafka: KafkaConnection, flow: Flow, read_to: Mapping[Partition, ReadTo]
) -> dict[Partition, int] | Missing:
    """Return the partitions with records that no witness has come to."""
    try:
        async with connected(kafka, _APPLICATION) as broker:
            return await unread(broker, await logs_now(broker, flow.topics), read_to)
    except READING_FAILURES as error:
        return broker_missing("the events' topics", error)


async def wait_until_read(
    connection: asyncpg.Connection, kafka: KafkaConnection, flow: Flow, *, within_seconds: float
) -> dict[Partition, int] | Missing:
    """Wait until the witnesses have come to where the topics end now; return what is left.

    A publisher at work sends on: what was read at one moment never reaches the end of another. So
    the ends are asked for once, after the slot's own place, and waited for.

    Raises:
        asyncpg.PostgresError, OSError: the database is away.
    """
    try:
        async with connected(kafka, _APPLICATION) as broker:
            logs, until = await logs_now(broker, flow.topics), time.monotonic() + within_seconds
            while True:
                read_to = await read_positions(connection, flow.topics)
                left = await unread(broker, logs, read_to)
                if not left or time.monotonic() > until:
                    return left
                await asyncio.sleep(_AGAIN_SECONDS)
    except READING_FAILURES as error:
        return broker_missing("the events' topics", error)
