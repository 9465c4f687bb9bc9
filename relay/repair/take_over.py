"""Hop 2: `relay run --take-over`: the relay publishes from now on what somebody else has not.

Invariant: nobody publishes meanwhile: the other publisher's slot is inactive, no witness or relay
holds the lease. What stands in Kafka is read to its end before, so that the relay sends exactly the
rows without proof (and those that share a transaction with one). The kind changes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.kafka.broker import connected
from relay.kafka.partition import Partition
from relay.kafka.unread import ReadTo, logs_now, unread
from relay.publish.ownership.lease import Lease
from relay.publish.reading.checkpoint import Checkpoint, CheckpointWriter
from relay.publish.reading.proven import ProvenPosition
from relay.runtime.database import connect
from relay.runtime.flow import Flow
from relay.runtime.flows import every_topic
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.migrations import require_schema
from relay.runtime.publisher_record import PublisherActiveError, become, read_publisher

_APPLICATION: Final = "relay-take-over"
_LEASE_SECONDS: Final = 60.0
_MOST_UNPROVEN: Final = 100_000

_SLOT_ACTIVE: Final = """
SELECT active FROM pg_catalog.pg_replication_slots WHERE slot_name = $1
"""
_READ_TO: Final = """
SELECT topic, partition, next_offset, topic_id FROM relay.consumer_offset
 WHERE consumer_group = $1 AND topic = ANY ($2::text[])
"""


class UnreadRecordsError(Exception):
    """Records of the other publisher were not witnessed yet: their rows would be sent again."""

    hint = "let `relay witness` run until it has read them (`relay status` says so), then stop it"


class TooMuchUnprovenError(UnreadRecordsError):
    """More transactions have no proof than a checkpoint can leave out."""

    hint = (
        "count what the topics no longer hold as published: relay witness --adopt; then try again"
    )


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What a take-over found.

    Attributes:
        unproven: transactions whose rows the relay will send.
    """

    unproven: int


async def take_over(
    dsn: str | None,
    kafka: KafkaConnection,
    flows: Sequence[Flow],
    who: str,
    *,
    most_unproven: int = _MOST_UNPROVEN,
) -> TakenOver | None:
    """Make the relay the publisher; None: it is already.

    Args:
        dsn: as relay_publisher.
        kafka: where the topics are.
        flows: all of them: they share the outbox.
        who: decides it, for the audit log.
        most_unproven: transactions without a record that a checkpoint may leave out.

    Raises:
        PublisherActiveError: the other publisher's slot is active, or a witness or relay runs.
        UnreadRecordsError: the witness has not read to the topics' ends, or there was none.
        TooMuchUnprovenError: too many transactions have no record to be sent exactly.
        RestoredDatabaseError: the checkpoint is not of this database.
    """
    connection = await connect(dsn, _APPLICATION, server_settings={"jit": "off"})
    try:
        await require_schema(connection)
        record = await read_publisher(connection)
        if record.kind == "relay":
            return None
        await _refuse_active_slot(connection, record.slot)
        lease = Lease(connection, 0, f"take-over by {who}", _LEASE_SECONDS)
        taken = await lease.take()
        if taken is None:
            raise PublisherActiveError("a witness or a relay is active: stop it first")
        try:
            await _refuse_unread(connection, kafka, flows, record.witness_group)
            unproven = await _move_checkpoint(connection, taken.checkpoint, most_unproven)
            await _refuse_active_slot(connection, record.slot)
            why = f"relay run --take-over: {unproven} transactions without proof are to be sent"
            await become(connection, "relay", who, why, lease_owner=lease.owner)
        finally:
            if not connection.is_closed():
                await lease.release()
        return TakenOver(unproven)
    finally:
        connection.terminate()


async def _refuse_active_slot(connection: asyncpg.Connection, slot: str | None) -> None:
    if slot is not None and await connection.fetchval(_SLOT_ACTIVE, slot):
        raise PublisherActiveError(
            f"the replication slot {slot} is active: the other publisher still runs. Stop it "
            "(Kafka Connect: PUT /connectors/NAME/stop; a paused connector keeps its slot)"
        )


async def _refuse_unread(
    connection: asyncpg.Connection, kafka: KafkaConnection, flows: Sequence[Flow], group: str | None
) -> None:
    topics = every_topic(flows)
    rows = await connection.fetch(_READ_TO, group, topics)
    read_to = {Partition(topic, number): ReadTo(*rest) for topic, number, *rest in rows}
    async with connected(kafka, _APPLICATION) as broker:
        left = await unread(broker, await logs_now(broker, topics), read_to)
    if left:
        named = ", ".join(f"{topic}[{number}]: {n}" for (topic, number), n in sorted(left.items()))
        raise UnreadRecordsError(f"records were not witnessed yet: {named}")


async def _move_checkpoint(
    connection: asyncpg.Connection, checkpoint: Checkpoint, most_unproven: int
) -> int:
    """Move the checkpoint over all that is proven; return how many transactions are not."""
    writer = CheckpointWriter(connection, checkpoint)
    proven = ProvenPosition(most_unproven=most_unproven)
    while True:
        position = await proven.next(connection, writer.checkpoint.position)
        if proven.unproven > proven.most_unproven:
            raise TooMuchUnprovenError(
                f"{proven.unproven} transactions of the outbox have no record that was witnessed; "
                f"{proven.most_unproven} can be sent exactly, beyond that published ones would be "
                "sent again"
            )
        if position is None:
            return len(writer.checkpoint.position.prev.xip)
        await writer.advance(position, (), (), high_id=proven.high_id)
