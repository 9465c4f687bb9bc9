"""Hop 2: is the publisher there that the settings name: slot, publication, connector, witness?

Invariant: reads only; where the relay publishes there is one result that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from relay.diagnose.check.result import Result, failed, ok, unknown, warning
from relay.diagnose.decide.duty import alive
from relay.diagnose.evidence.publisher import ConnectorSeen, PublisherSeen, SlotSeen
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.around import read_processes
from relay.diagnose.gather.publisher import read_absent, read_external
from relay.runtime.database import DRIVER_FAILURES
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection

_SINCE: Final = "SELECT clock_timestamp()"
_PUBLICATION: Final = """
SELECT p.pubname, p.pubinsert, p.pubviaroot, t.tablename
  FROM pg_catalog.pg_publication_tables AS t JOIN pg_catalog.pg_publication AS p USING (pubname)
 WHERE t.schemaname = 'relay' AND t.tablename LIKE 'outbox%'
 ORDER BY (t.tablename = 'outbox') DESC, p.pubname LIMIT 1
"""
_UNLIMITED: Final = "SELECT current_setting('max_slot_wal_keep_size') = '-1'"
_UNMATCHED: Final = """
SELECT reason, count(*) AS records FROM relay.unmatched_record
 WHERE seen_at > clock_timestamp() - interval '1 day' AND reason <> 'row_dropped'
 GROUP BY reason ORDER BY reason
"""
_GB: Final = 1_000_000_000


async def check_publisher(
    connection: asyncpg.Connection, kafka: KafkaConnection, flow: Flow
) -> list[Result]:
    """Look at whoever publishes."""
    try:
        witnesses = await read_processes(connection, flow, "witness")
        seen = await read_external(connection, flow, witnesses)
        if seen is None:
            return [ok("publisher.kind", "the relay publishes")]
        now_at = await connection.fetchval(_SINCE)
        living = sum(alive(one, now_at) for one in witnesses)
        results = [ok("publisher.kind", "external: somebody else publishes"), _witness(living)]
        if seen.slot is not None:
            results += [_slot(seen.slot), await _publication(connection)]
            results += await _kept_wal(connection)
        results += [*_connector(seen), *await _needed(seen, kafka)]
        results += await _unmatched(connection)
    except DRIVER_FAILURES as error:
        return [unknown("publisher.kind", str(error), "run it as a member of relay_observer")]
    return results


def _witness(living: int) -> Result:
    if not living:
        return failed("publisher.witness", "no witness is running", "relay witness")
    return ok("publisher.witness", f"runs [{living}]")


def _slot(slot: SlotSeen) -> Result:
    name = f"publisher.slot:{slot.name}"
    if not slot.exists:
        fix = "find who dropped it; rows until a new one is made: relay run --take-over"
        return failed(name, "does not exist", fix)
    if slot.lost is not None:
        fix = "raise max_slot_wal_keep_size, make it anew; lost rows: relay run --take-over"
        return failed(name, f"lost: {slot.lost}", fix)
    if not slot.active:
        return failed(name, "nobody reads it", "start the publisher")
    behind = slot.behind_bytes or 0
    if behind > _GB:
        return warning(name, f"is {behind / _GB:.0f} GB behind", "look at the publisher's log")
    return ok(name, f"active [{behind:,} bytes behind]")


async def _publication(connection: asyncpg.Connection) -> Result:
    name = "publisher.publication"
    row = await connection.fetchrow(_PUBLICATION)
    made = (
        "CREATE PUBLICATION relay_outbox FOR TABLE relay.outbox "
        "WITH (publish = 'insert', publish_via_partition_root = true)"
    )
    if row is None:
        return failed(name, "none holds relay.outbox", made)
    if not row["pubinsert"]:
        return failed(name, f"{row['pubname']} publishes no inserts", made)
    if not row["pubviaroot"] or row["tablename"] != "outbox":
        said = f"{row['pubname']} publishes partitions under their own names"
        return failed(name, said, made)
    return ok(name, f"{row['pubname']}: inserts, by the root table")


async def _kept_wal(connection: asyncpg.Connection) -> Sequence[Result]:
    if not await connection.fetchval(_UNLIMITED):
        return [ok("publisher.kept_wal", "max_slot_wal_keep_size bounds what a slot keeps")]
    said = "a slot that nobody reads keeps WAL until the disk is full"
    return [warning("publisher.kept_wal", said, "set max_slot_wal_keep_size, and watch the slot")]


def _connector(seen: PublisherSeen) -> Sequence[Result]:
    found = seen.connector
    if found is None:
        return []
    if isinstance(found, Missing):
        return [unknown("publisher.connector", found.detail, found.how_to_get)]
    return [_judged(found)]


def _judged(found: ConnectorSeen) -> Result:
    name, task = f"publisher.connector:{found.name}", found.failed_task
    if task is not None:
        said = f"{found.state}, and task {task.number} failed: {task.trace}"
        return failed(name, said, "fix what it says, then restart the connector with its tasks")
    if found.state != "RUNNING":
        return failed(name, found.state, "resume, restart or create it")
    return ok(name, "RUNNING, and its tasks")


async def _needed(seen: PublisherSeen, kafka: KafkaConnection) -> Sequence[Result]:
    """Look at what the connector's own configuration names."""
    found = seen.connector
    if not isinstance(found, ConnectorSeen):
        return []
    results = []
    slot = None if seen.slot is None else seen.slot.name
    if None not in (slot, found.slot) and slot != found.slot:
        said = f"the connector reads {found.slot}, the settings name {slot}"
        results.append(failed("publisher.slot_name", said, "correct publisher.slot"))
    absent = await read_absent(kafka, found.topics)
    name = "publisher.topics"
    if isinstance(absent, Missing):
        return [*results, unknown(name, absent.detail, absent.how_to_get)]
    if absent:
        fix = "create it, unless the broker does: the task waits for it for ever, all RUNNING"
        return [*results, warning(name, f"missing: {', '.join(absent)}", fix)]
    return [*results, ok(name, "the connector's own topics are there")]


async def _unmatched(connection: asyncpg.Connection) -> Sequence[Result]:
    name = "publisher.unmatched"
    rows = await connection.fetch(_UNMATCHED)
    if not rows:
        return [ok(name, "each record of the last day has its row")]
    said = ", ".join(f"{row['reason']} {row['records']}" for row in rows)
    return [warning(name, f"records without a row [{said}]", "relay.unmatched_record has them")]
