"""Hops 3 and 5: every group that reads a topic of the flow: where it stands, and how far behind.

Invariant: reads only; what the broker does not say in time is Missing. A group that the settings do
not name stands beside the one that they do: the setting may name the wrong one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from relay.diagnose.evidence.system_state import GroupSeen, Missing
from relay.diagnose.gather.reading import broker_missing
from relay.diagnose.gather.topics import groups_that_read, read_group
from relay.kafka.broker import EARLIEST, LATEST, Broker, connected
from relay.kafka.failures import READING_FAILURES
from relay.kafka.partition import Partition
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection

_SECONDS: Final = 5.0
_REQUEST_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class ReaderAt:
    """Where a group stands in one partition; `committed` None: it never committed there."""

    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int


@dataclass(frozen=True, slots=True)
class Reader:
    """A group that reads a hop's topics.

    Attributes:
        configured: the settings name it.
        members: None: the broker does not say who they are.
    """

    hop: str
    group: str
    configured: bool
    state: str
    members: int | None
    at: tuple[ReaderAt, ...]

    @property
    def lag(self) -> int:
        """Return how many offsets it is behind the logs' ends."""
        return sum(one.lag for one in self.at)


async def read_readers(kafka: KafkaConnection, flow: Flow) -> tuple[Reader, ...] | Missing:
    """Ask the broker for every reader of the events and of the returns."""
    try:
        async with (
            asyncio.timeout(_SECONDS),
            connected(kafka, "relay-readers", request_seconds=_REQUEST_SECONDS) as broker,
        ):
            process = await _of_hop(broker, "process", flow.topics, flow.processor_groups)
            confirm = await _of_hop(broker, "confirm", {flow.returns_topic}, [flow.confirm_group])
            return (*process, *confirm)
    except READING_FAILURES as error:
        return broker_missing("the groups that read the topics", error)


async def _of_hop(
    broker: Broker, hop: str, topics: Collection[str], configured: Collection[str]
) -> list[Reader]:
    partitions = [one for topic in sorted(topics) for one in broker.partitions(topic)]
    starts = await broker.offsets(partitions, EARLIEST)
    ends = await broker.offsets(partitions, LATEST)
    groups = [await read_group(broker, name) for name in configured]
    groups += await groups_that_read(broker, partitions, configured)
    return [_reader(hop, one, starts, ends, one.name in configured) for one in groups]


def _reader(
    hop: str,
    group: GroupSeen,
    starts: Mapping[Partition, int],
    ends: Mapping[Partition, int],
    configured: bool,  # noqa: FBT001 - one of several facts of a row
) -> Reader:
    at = tuple(
        ReaderAt(*one, committed, end, max(0, end - max(committed or 0, starts.get(one, 0))))
        for one, end in sorted(ends.items())
        for committed in [group.committed.get(one)]
    )
    state = group.state if group.exists else "no such group"
    return Reader(hop, group.name, configured, state, group.members, at)
