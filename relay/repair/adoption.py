"""Hop 2: `relay witness --adopt`: rows older than what the topics hold count as published.

Invariant: nobody is active meanwhile (the relay's lease is held here), the checkpoint moves
forward only, and it stands in the audit log. Rows from the given time on keep needing proof.
Whoever begins to witness a publisher that is years old needs this once: what the topics' retention
took away can never be proven, and beyond a thousand such transactions the checkpoint would wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from relay.kafka.broker import EARLIEST, LATEST, Broker, connected
from relay.kafka.ranges import fetch, seen
from relay.publish.ownership.lease import Lease
from relay.publish.reading.checkpoint import Checkpoint, CheckpointWriter
from relay.publish.reading.window import Position, Snapshot
from relay.runtime.audit import Action, note_action
from relay.runtime.database import connect
from relay.runtime.flow import Flow
from relay.runtime.flows import every_topic
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.migrations import require_schema
from relay.runtime.publisher_record import PublisherActiveError

_APPLICATION: Final = "relay-adopt"
_LEASE_SECONDS: Final = 60.0

# The first transaction with a row from that time on, and which were in progress below it.
_BOUND: Final = """
WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS cur)
SELECT (SELECT cur::text FROM now) AS cur,
       (SELECT min(txid::text::bigint) FROM relay.outbox
         WHERE created_at >= $1 AND pg_visible_in_snapshot(txid, (SELECT cur FROM now))) AS first,
       (SELECT count(*) FROM relay.outbox WHERE created_at < $1) AS adopted
"""


class NothingToAdoptError(Exception):
    """The topics do not say from when on they hold what was published."""

    hint = "name a time: relay witness --adopt --before 2026-11-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was adopted: rows from before that time count as published."""

    before: datetime
    rows: int


async def adopt(
    dsn: str | None,
    kafka: KafkaConnection,
    flows: Sequence[Flow],
    who: str,
    *,
    before: datetime | None = None,
) -> Adopted:
    """Count what is older than the topics' records as published.

    Args:
        dsn: as relay_publisher.
        kafka: where the topics are.
        flows: all of them: they share the outbox.
        who: decides it, for the audit log.
        before: rows created before it; None: the topics' first record says.

    Raises:
        PublisherActiveError: a witness or a relay is active.
        NothingToAdoptError: the topics are empty, and no time was given.
        RestoredDatabaseError: the checkpoint is not of this database.
    """
    if before is None:
        async with connected(kafka, _APPLICATION) as broker:
            before = await _held_since(broker, flows)
    connection = await connect(dsn, _APPLICATION, server_settings={"jit": "off"})
    try:
        await require_schema(connection)
        lease = Lease(connection, 0, f"adopt by {who}", _LEASE_SECONDS)
        taken = await lease.take()
        if taken is None:
            raise PublisherActiveError("a witness or a relay is active: stop it first")
        try:
            return Adopted(before, await _move(connection, taken.checkpoint, who, before))
        finally:
            if not connection.is_closed():
                await lease.release()
    finally:
        connection.terminate()


async def _move(
    connection: asyncpg.Connection, checkpoint: Checkpoint, who: str, before: datetime
) -> int:
    """Move the checkpoint over the older rows, with a row in the audit log; return how many."""
    row = await connection.fetchrow(_BOUND, before)
    cur, prev = Snapshot.parse(row["cur"]), checkpoint.position.prev
    adopted = adopted_snapshot(prev, cur, row["first"])
    async with connection.transaction():
        writer = CheckpointWriter(connection, checkpoint)
        await writer.advance(Position(adopted), (), ())
        detail = {"before": before.isoformat(), "was": str(prev), "is": str(adopted)}
        why = "rows older than the topics' records count as published"
        result = f"{row['adopted']} rows"
        await note_action(connection, Action(who, "witness_adopt", "shard 0", why, result, detail))
    count: int = row["adopted"]
    return count


def adopted_snapshot(prev: Snapshot, cur: Snapshot, first: int | None) -> Snapshot:
    """Return the snapshot that sees what was before, and nothing that is newer.

    Args:
        prev: the checkpoint so far: it only moves forward.
        cur: now.
        first: the first transaction with a row that still needs proof; None: there is no such row.
    """
    xmax = cur.xmax if first is None else min(first, cur.xmax)
    if xmax < prev.xmax:
        # Newer rows were looked at already; of what was left out, the older is let go.
        out = tuple(txid for txid in prev.xip if txid >= xmax)
        return Snapshot(out[0] if out else prev.xmax, prev.xmax, out)
    out = tuple(txid for txid in cur.xip if txid < xmax)
    return Snapshot(out[0] if out else xmax, xmax, out)


async def _held_since(broker: Broker, flows: Sequence[Flow]) -> datetime:
    """Return from when on the topics hold all that was published."""
    places = [one for topic in every_topic(flows) for one in broker.partitions(topic)]
    starts = await broker.offsets(places, EARLIEST)
    ends = await broker.offsets(places, LATEST)
    cut, whole = list[datetime](), list[datetime]()
    for one, start in starts.items():
        if start >= ends.get(one, start):
            continue
        fetched = (await fetch(broker, {one: start}, bytes_each=1, committed=False))[one]
        if fetched.records:
            (cut if start else whole).append(seen(one, fetched.records[0]).recorded_at)
    if not cut and not whole:
        raise NothingToAdoptError("the events' topics hold no record")
    # Of a log whose front was deleted the first record says from when on it is whole; where nothing
    # was ever deleted, the topics' first record of all does.
    return max(cut) if cut else min(whole)
