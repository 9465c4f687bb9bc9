"""Hops 1 and 2: puts a canary into the outbox and follows it to its record.

Invariant: the canary's run is recorded with its row, in one statement, so that whoever meets its
record or its return knows that it is no order's. What was published is read back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
from aiokafka.errors import KafkaError

from relay.kafka.broker import Broker
from relay.kafka.event_headers import event_id_text
from relay.kafka.partition import Partition
from relay.kafka.ranges import fetch, seen
from relay.runtime.flow import CANARY_EVENT, Flow

LOOK_SECONDS: Final = 0.01
READ_BYTES: Final = 100_000

_PLACE: Final = """
WITH run AS (
    INSERT INTO relay.probe_run (probe_id, aggregate_id, through_processor) VALUES ($1, $2, $3))
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ($6, $2, $4, $5::json) RETURNING id, event_id::text, clock_timestamp()
"""

_DELIVERED: Final = """
SELECT topic, partition, base_offset + array_position(outbox_ids, $1) - 1 AS record_offset,
       published_at
  FROM relay.delivery_ledger WHERE id_range @> $1::bigint AND $1 = ANY (outbox_ids)
"""

_PARKED: Final = """
SELECT reason FROM relay.quarantine_summary WHERE kind = 'event' AND outbox_id = $1
"""

_STANDS: Final = """
UPDATE relay.probe_run SET topic = $2, partition = $3, record_offset = $4 WHERE probe_id = $1
"""


@dataclass(frozen=True, slots=True)
class Placed:
    """A canary in the outbox."""

    order_id: str
    outbox_id: int
    event_id: str
    placed_at: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """A canary on Kafka; `offset` None: the broker gave none."""

    partition: Partition
    offset: int | None
    published_at: datetime

    def __str__(self) -> str:
        """Say where it stands."""
        return f"{self.partition[0]}[{self.partition[1]}]@{self.offset}"


async def place(
    connection: asyncpg.Connection, flow: Flow, probe_id: UUID, order_id: str, event_type: str
) -> Placed:
    """Put it into the outbox.

    Raises:
        asyncpg.PostgresError: the outbox refuses it.
    """
    through = event_type == CANARY_EVENT
    payload = json.dumps(_payload(order_id) if through else {})
    whose = flow.canary_aggregate_type(event_type)
    row = await connection.fetchrow(_PLACE, probe_id, order_id, through, event_type, payload, whose)
    return Placed(order_id, *row)


def _payload(order_id: str) -> dict[str, Any]:
    """Make what a processor can read as an order, in no currency and of nothing."""
    return {
        "order_id": order_id,
        "customer_id": "relay.canary",
        "items": [],
        "total": "0.00",
        "currency": "XXX",
        "submitted_at": datetime.now(UTC).isoformat(),
        "canary": True,
    }


async def published(
    connection: asyncpg.Connection, probe_id: UUID, placed: Placed, deadline: float
) -> Record | str:
    """Wait for its record until the loop's `deadline`; return it, or why there is none."""
    loop = asyncio.get_running_loop()
    while True:
        row: Mapping[str, Any] | None = await connection.fetchrow(_DELIVERED, placed.outbox_id)
        if row is not None:
            break
        if loop.time() >= deadline:
            reason = await connection.fetchval(_PARKED, placed.outbox_id)
            became = f"was parked: {reason}" if reason else "was not published in time"
            return f"outbox row {placed.outbox_id} {became}"
        await asyncio.sleep(LOOK_SECONDS)
    where = Partition(row["topic"], row["partition"])
    await connection.execute(_STANDS, probe_id, *where, row["record_offset"])
    return Record(where, row["record_offset"], row["published_at"])


async def read_back(broker: Broker, record: Record, event_id: str) -> str | None:
    """Tell what is wrong with the record; None: it is the canary."""
    if record.offset is None:
        return "the broker gave no offset for it"
    wanted = {record.partition: record.offset}
    try:
        got = await fetch(broker, wanted, bytes_each=READ_BYTES, committed=False)
    except KafkaError as error:
        return f"cannot be read back: {error or type(error).__name__}"
    fetched = got.get(record.partition)
    if fetched is None:
        return "cannot be read back: its partition has no leader now"
    records = [one for one in fetched.records if one.offset == record.offset]
    if not records:
        return "no record stands there"
    found = event_id_text(seen(record.partition, records[0]).headers)
    return None if found == event_id else f"another record stands there, event {found}"
