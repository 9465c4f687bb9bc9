"""Hops 1 and 2: a canary: one event of no order, sent through the relay, timed hop by hop.

Invariant: no order service and no processor ever sees it: its event type is reserved, its topic its
own, and it is in no business count. Nothing is appended before its topic is known to exist, since a
relay waits for a missing topic. A canary that does not come through names the hop where it stopped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from aiokafka.errors import KafkaError

from relay.diagnose.gather.broker import Broker, connected
from relay.diagnose.gather.log_reader import fetch, seen
from relay.diagnose.verdicts import Hop
from relay.runtime.database import connect
from relay.runtime.flow import PROBE_EVENT, Flow
from relay.runtime.kafka import KafkaConnection
from relay.runtime.topics import make_topics

APPLICATION_NAME: Final = "relay-probe"
_LOOK_SECONDS: Final = 0.01
_READ_BYTES: Final = 100_000
_DAY_MS: Final = "86400000"

_PLACE: Final = """
WITH run AS (INSERT INTO relay.probe_run (probe_id) VALUES ($1))
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ($2, $1::uuid::text, $2, '{}') RETURNING id, event_id::text, clock_timestamp()
"""

_DELIVERED: Final = """
SELECT topic, partition, base_offset + array_position(outbox_ids, $1) - 1 AS record_offset,
       published_at
  FROM relay.delivery_ledger WHERE id_range @> $1::bigint AND $1 = ANY (outbox_ids)
"""

_OUTCOME: Final = """
UPDATE relay.probe_run SET ok = $2, failed_hop = $3, timings = $4::text::jsonb WHERE probe_id = $1
"""


class ProbeTopicMissingError(Exception):
    """The canaries' topic does not exist; nothing was sent."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"the canaries' topic {topic!r} does not exist: relay probe --create-topic, once"
        )


@dataclass(frozen=True, slots=True)
class Probe:
    """What became of a canary.

    Attributes:
        failed_hop: where it stopped; None: it came through.
        seconds: by what was timed.
        said: what to know of it, in words.
    """

    probe_id: UUID
    failed_hop: Hop | None
    said: str
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it came through."""
        return self.failed_hop is None


async def create_probe_topic(kafka: KafkaConnection, flow: Flow) -> bool:
    """Make the canaries' topic, kept for a day; tell whether it was missing.

    Raises:
        TopicNotMadeError, KafkaError, OSError: the broker is away, or does not permit it.
    """
    configs = {"retention.ms": _DAY_MS}
    return bool(await make_topics(kafka, [flow.probe_topic], partitions=1, configs=configs))


async def run_probe(
    dsn: str | None, kafka: KafkaConnection, flow: Flow, *, within_seconds: float
) -> Probe:
    """Send one canary and follow it.

    Args:
        dsn: the database; None: libpq's variables say where.
        kafka: the broker.
        flow: names the canaries' topic.
        within_seconds: the relay has so long to publish it.

    Raises:
        ProbeTopicMissingError: nothing was sent.
        DatabaseError, KafkaError, OSError, TimeoutError: one of the two cannot be reached.
    """
    async with connected(kafka, APPLICATION_NAME) as broker:
        if not broker.partitions(flow.probe_topic):
            raise ProbeTopicMissingError(flow.probe_topic)
        connection = await connect(dsn, APPLICATION_NAME)
        try:
            probe = await _follow(connection, broker, within_seconds)
            hop = probe.failed_hop.value if probe.failed_hop else None
            timings = json.dumps(probe.seconds)
            await connection.execute(_OUTCOME, probe.probe_id, probe.ok, hop, timings)
        finally:
            await connection.close()
    return probe


async def _follow(connection: asyncpg.Connection, broker: Broker, within_seconds: float) -> Probe:
    probe_id, loop = uuid4(), asyncio.get_running_loop()
    start = loop.time()
    try:
        outbox_id, event_id, placed_at = await connection.fetchrow(_PLACE, probe_id, PROBE_EVENT)
    except asyncpg.PostgresError as error:
        return Probe(probe_id, Hop.PLACE, f"the outbox refuses it: {error}")
    seconds = {Hop.PLACE.value: loop.time() - start}
    delivered = await _delivered(connection, outbox_id, loop.time() + within_seconds)
    if delivered is None:
        said = f"outbox row {outbox_id} was not published within {within_seconds:g} s"
        return Probe(probe_id, Hop.PUBLISH, said, seconds)
    seconds[Hop.PUBLISH.value] = (delivered["published_at"] - placed_at).total_seconds()
    where = f"{delivered['topic']}[{delivered['partition']}]@{delivered['record_offset']}"
    wrong = await _read_back(broker, delivered, event_id)
    if wrong:
        return Probe(probe_id, Hop.PUBLISH, f"{where}: {wrong}", seconds)
    return Probe(probe_id, None, f"outbox row {outbox_id} is {where}, read back", seconds)


async def _delivered(
    connection: asyncpg.Connection, outbox_id: int, deadline: float
) -> Mapping[str, Any] | None:
    loop = asyncio.get_running_loop()
    while loop.time() < deadline:
        row: Mapping[str, Any] | None = await connection.fetchrow(_DELIVERED, outbox_id)
        if row is not None:
            return row
        await asyncio.sleep(_LOOK_SECONDS)
    return None


async def _read_back(broker: Broker, delivered: Mapping[str, Any], event_id: str) -> str | None:
    """Tell what is wrong with the record; None: it is the canary."""
    place, offset = (delivered["topic"], delivered["partition"]), delivered["record_offset"]
    if offset is None:
        return "the broker gave no offset for it"
    try:
        got = await fetch(broker, {place: offset}, bytes_each=_READ_BYTES, committed=True)
    except KafkaError as error:
        return f"cannot be read back: {error}"
    records = [record for record in got[place].records if record.offset == offset]
    if not records:
        return "no record stands there"
    found = seen(place, records[0]).header("ce_id")
    return None if found == event_id else f"another record stands there, ce_id {found}"
