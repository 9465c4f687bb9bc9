"""Hop 2: reads what is known of a publisher that is not ours, and what of its records is unread.

Invariant: reads only. Kafka Connect is not asked here: the witness notes what it said, and what is
older than a minute is Missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from relay.kafka.unread import unread
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection

_APPLICATION: Final = "relay-diagnose"
_STATE_SECONDS: Final = 60.0

# `invalidation_reason` is PostgreSQL 17's.
_PUBLISHER: Final = """
SELECT p.kind, p.slot, p.connector, p.witness_group, p.connector_state::text AS connector_state,
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
SELECT topic, partition, next_offset FROM relay.consumer_offset
 WHERE consumer_group = $1 AND topic = ANY ($2::text[])
"""
_LAST: Final = "SELECT published_at FROM relay.delivery_ledger ORDER BY ledger_id DESC LIMIT 1"


async def read_external(
    connection: asyncpg.Connection, flow: Flow, witnesses: tuple[ProcessSeen, ...] | Missing
) -> PublisherSeen | None:
    """Return what the database knows of the publisher; None: our relay publishes."""
    row = await connection.fetchrow(_PUBLISHER)
    if row is None or row["kind"] != "external":
        return None
    offsets = await connection.fetch(_READ_TO, row["witness_group"], sorted(flow.topics))
    return PublisherSeen(
        slot=_slot(row),
        connector=connector(
            row["connector"], row["connector_state"], row["seen_at"], row["now_at"]
        ),
        witnesses=witnesses,
        read_to={Partition(one["topic"], one["partition"]): one["next_offset"] for one in offsets},
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
    return ConnectorSeen(name, str(said["state"]), tasks)


def _not_asked(why: str, how: str) -> Missing:
    return Missing("Kafka Connect", Cause.TIMED_OUT, why, how)


async def read_unread(
    kafka: KafkaConnection, flow: Flow, read_to: Mapping[Partition, int]
) -> dict[Partition, int] | Missing:
    """Return the partitions with records that no witness has come to."""
    try:
        async with connected(kafka, _APPLICATION) as broker:
            there = [one for topic in sorted(flow.topics) for one in broker.partitions(topic)]
            return await unread(broker, {one: read_to.get(one, 0) for one in there})
    except READING_FAILURES as error:
        return broker_missing("the events' topics", error)
