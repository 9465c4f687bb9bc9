"""Hop 2: records that lie behind the last one the ledger knows: sent by what this database forgot.

Invariant: reads only. Each is a record of a row that is here and will be sent again (a duplicate to
expect), of one that was proven some other way, or of a row that is not here: a ghost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg

from relay.kafka.broker import EARLIEST, LATEST, Broker, connected
from relay.kafka.event_headers import event_id_text, event_type_text
from relay.kafka.failures import BROKER_FAILURES
from relay.kafka.ranges import RangeReader
from relay.repair.retained import look_up
from relay.runtime.flow import PROBE_EVENT
from relay.runtime.kafka_connection import KafkaConnection

_APPLICATION: Final = "relay-rebaseline"
_FEW: Final = 20
_LOOKED_UP_TOGETHER: Final = 5000


@dataclass(slots=True)
class LaterRecords:
    """What lies on Kafka behind the ledger's end.

    Attributes:
        duplicates: their rows are here, without proof: they will be sent again.
        ghosts: their rows are not here; `some` of them as (order, event id, where).
        unread: topic[partition] that could not be read to the end.
        unreachable: why nothing could be read.
    """

    records: int = 0
    duplicates: int = 0
    ghosts: int = 0
    some: list[tuple[str | None, str, str]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    unreachable: str | None = None


# Batches without an offset (the broker said "duplicate") lie before the next one that has one.
_LEDGER_END: Final = """
SELECT base_offset + record_count FROM relay.delivery_ledger
 WHERE topic = $1 AND partition = $2 AND base_offset IS NOT NULL
 ORDER BY base_offset DESC LIMIT 1
"""


async def read_later_records(
    connection: asyncpg.Connection,
    kafka: KafkaConnection,
    topics: Sequence[str],
    *,
    at_most_seconds: float,
) -> LaterRecords:
    """Read the topics from where the ledger ends, for as long as is allowed."""
    found = LaterRecords()
    try:
        async with connected(kafka, _APPLICATION) as broker:
            await _read(connection, broker, topics, found, at_most_seconds)
    except BROKER_FAILURES as error:
        found.unreachable = str(error) or repr(error)
    return found


async def _read(
    connection: asyncpg.Connection,
    broker: Broker,
    topics: Sequence[str],
    found: LaterRecords,
    at_most_seconds: float,
) -> None:
    places = [place for topic in topics for place in broker.partitions(topic)]
    starts = await broker.offsets(places, EARLIEST)
    # To the end: what the relay sent stands in no transaction, though somebody else's may be open.
    ends = await broker.offsets(places, LATEST)
    spans = {}
    for place in starts.keys() & ends.keys():
        known = await connection.fetchval(_LEDGER_END, *place)
        # A log that ends before what the ledger knows is another one: all of it is later.
        first = starts[place] if known is None or known > ends[place] else known
        spans[place] = (max(first, starts[place]), ends[place])
    reader = RangeReader(broker, spans, committed=False)
    batch: dict[str, tuple[str | None, str]] = {}
    async for place, records in reader.rounds(asyncio.get_running_loop().time() + at_most_seconds):
        for record in records:
            _note(record, place, batch, found)
        if len(batch) >= _LOOKED_UP_TOGETHER:
            await _look_up(connection, batch, topics, found)
    await _look_up(connection, batch, topics, found)
    missing = set(places) - spans.keys() | reader.left.keys() | reader.lost
    found.unread = sorted(f"{topic}[{partition}]" for topic, partition in missing)


def _note(
    record: Any,
    place: tuple[str, int],
    batch: dict[str, tuple[str | None, str]],
    found: LaterRecords,
) -> None:
    if event_type_text(record.headers) == PROBE_EVENT:
        return
    found.records += 1
    order = record.key.decode("utf-8", "replace") if record.key else None
    where = f"{place[0]}[{place[1]}]@{record.offset}"
    try:
        event_id = str(UUID(event_id_text(record.headers) or ""))
    except ValueError:
        found.ghosts += 1
        if len(found.some) < _FEW:
            found.some.append((order, "(names no event)", where))
        return
    batch[event_id] = (order, where)


async def _look_up(
    connection: asyncpg.Connection,
    batch: dict[str, tuple[str | None, str]],
    topics: Sequence[str],
    found: LaterRecords,
) -> None:
    known, unpublished = await look_up(connection, list(batch), topics)
    found.duplicates += unpublished
    for event_id, (order, where) in batch.items():
        if event_id not in known:
            found.ghosts += 1
            if len(found.some) < _FEW:
                found.some.append((order, event_id, where))
    batch.clear()
