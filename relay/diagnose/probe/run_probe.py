"""Sends a canary, follows it as far as the settings say, and keeps what came of it.

Invariant: no order service ever sees it, and no processor, unless the settings state that it
answers canaries; its event types are reserved, and it is in no business count. Nothing is appended
before its topic is known to exist, since a relay waits for a missing topic. A canary that does not
come through names the hop where it stopped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from relay.diagnose.probe.publishing import Placed, Record, place, published, read_back
from relay.diagnose.probe.returning import ReturnLeg, Stopped, return_leg
from relay.diagnose.verdicts import Hop
from relay.kafka.broker import Broker, connected
from relay.kafka.failures import BROKER_FAILURES
from relay.kafka.topic_creation import make_topics
from relay.runtime.canary import new_canary_id
from relay.runtime.database import DRIVER_FAILURES, connect
from relay.runtime.flow import CANARY_EVENT, PROBE_EVENT, ApplyColumns, Flow
from relay.runtime.kafka_connection import KafkaConnection

APPLICATION_NAME: Final = "relay-probe"
_DAY_MS: Final = "86400000"

_OUTCOME: Final = """
UPDATE relay.probe_run SET ok = $2, failed_hop = $3, timings = $4::text::jsonb WHERE probe_id = $1
"""


class ProbeTopicMissingError(Exception):
    """The canaries' topic does not exist; nothing was sent."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"the canaries' topic {topic!r} does not exist: relay probe --create-topic, once"
        )


class FlowTopicMissingError(Exception):
    """A topic of the flow does not exist; nothing was sent."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"the topic {topic!r} does not exist: relay check has its command")


@dataclass(frozen=True, slots=True)
class Probe:
    """What became of a canary.

    Attributes:
        failed_hop: where it stopped; None: it came through.
        said: what to know of it, in words.
        seconds: by hop, from the end of the one before; `total` when it came through.
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
    dsn: str | None,
    kafka: KafkaConnection,
    flow: Flow,
    *,
    within_seconds: float,
    through_processor: bool = False,
) -> Probe:
    """Send one canary and follow it.

    Args:
        dsn: the database; None: libpq's variables say where.
        kafka: the broker.
        flow: names topics and groups.
        within_seconds: each hop has so long.
        through_processor: on the events' own topic, and back: the processor answers canaries.

    Raises:
        ProbeTopicMissingError, FlowTopicMissingError: nothing was sent.
        DatabaseError, KafkaError, OSError, TimeoutError: one of the two cannot be reached.
    """
    async with connected(kafka, APPLICATION_NAME) as broker:
        _require_topics(broker, flow, through_processor=through_processor)
        connection = await connect(dsn, APPLICATION_NAME)
        try:
            sent = _Canary(connection, broker, flow, within_seconds)
            probe = await (sent.round_trip() if through_processor else sent.to_kafka())
            hop = probe.failed_hop.value if probe.failed_hop else None
            timings = json.dumps(probe.seconds)
            await connection.execute(_OUTCOME, probe.probe_id, probe.ok, hop, timings)
        finally:
            await connection.close()
    return probe


async def probe_or_outage(
    dsn: str | None,
    kafka: KafkaConnection,
    flow: Flow,
    *,
    within_seconds: float,
    through_processor: bool = False,
) -> Probe:
    """Send one; a server that cannot be reached is the hop that it stops.

    Raises:
        ProbeTopicMissingError, FlowTopicMissingError: nothing was sent.
    """
    try:
        return await run_probe(
            dsn, kafka, flow, within_seconds=within_seconds, through_processor=through_processor
        )
    except DRIVER_FAILURES as error:
        return Probe(uuid4(), Hop.PLACE, f"the database cannot be reached: {error}")
    except BROKER_FAILURES as error:
        said = str(error) or type(error).__name__
        return Probe(uuid4(), Hop.PUBLISH, f"the broker cannot be reached: {said}")


def _require_topics(broker: Broker, flow: Flow, *, through_processor: bool) -> None:
    if not through_processor:
        if not broker.partitions(flow.probe_topic):
            raise ProbeTopicMissingError(flow.probe_topic)
        return
    for topic in (flow.canary_topic, flow.returns_topic):
        if not broker.partitions(topic):
            raise FlowTopicMissingError(topic)


@dataclass(slots=True)
class _Canary:
    connection: asyncpg.Connection
    broker: Broker
    flow: Flow
    within_seconds: float
    probe_id: UUID = field(default_factory=uuid4)
    seconds: dict[str, float] = field(default_factory=dict)

    async def to_kafka(self) -> Probe:
        """Follow it through hops 1 and 2."""
        found = await self._publish(PROBE_EVENT)
        if isinstance(found, Stopped):
            return self._end(found)
        placed, record = found
        return self._end(None, f"outbox row {placed.outbox_id} is {record}, read back")

    async def round_trip(self) -> Probe:
        """Follow it through every hop."""
        back = await return_leg(self.connection, self.broker, self.flow)
        start = asyncio.get_running_loop().time()
        found = await self._publish(CANARY_EVENT)
        if isinstance(found, Stopped):
            return self._end(found)
        placed, record = found
        left_at = asyncio.get_running_loop().time()
        stopped = await back.follow(self.probe_id, placed, record, self.within_seconds)
        self._time(back, left_at)
        if stopped is not None:
            return self._end(stopped)
        self.seconds["total"] = back.at[Hop.CONFIRM] - start
        return self._end(None, f"outbox row {placed.outbox_id} is {record}, and came back")

    async def _publish(self, event_type: str) -> tuple[Placed, Record] | Stopped:
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            placed = await place(
                self.connection, self.flow, self.probe_id, self._order_id(), event_type
            )
        except asyncpg.PostgresError as error:
            return Stopped(Hop.PLACE, f"the outbox refuses it: {error}")
        self.seconds[Hop.PLACE.value] = loop.time() - start
        deadline = loop.time() + self.within_seconds
        record = await published(self.connection, self.probe_id, placed, deadline)
        if isinstance(record, str):
            return Stopped(Hop.PUBLISH, f"{record} ({self.within_seconds:g} s)")
        waited = record.published_at - placed.placed_at
        self.seconds[Hop.PUBLISH.value] = waited.total_seconds()
        wrong = await read_back(self.broker, record, placed.event_id)
        return Stopped(Hop.PUBLISH, f"{record}: {wrong}") if wrong else (placed, record)

    def _order_id(self) -> str:
        apply = self.flow.apply
        return new_canary_id(apply.key_type if isinstance(apply, ApplyColumns) else "text")

    def _time(self, back: ReturnLeg, left_at: float) -> None:
        """Note each hop's time; a processor that commits after it answered took none for it."""
        before = left_at
        for hop in (Hop.PROCESS, Hop.RETURN, Hop.CONFIRM):
            if hop in back.at:
                self.seconds[hop.value] = max(0.0, back.at[hop] - before)
                before = max(before, back.at[hop])

    def _end(self, stopped: Stopped | None, said: str = "") -> Probe:
        if stopped is None:
            return Probe(self.probe_id, None, said, self.seconds)
        return Probe(self.probe_id, stopped.hop, stopped.said, self.seconds)
