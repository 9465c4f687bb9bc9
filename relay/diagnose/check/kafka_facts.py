"""Hops 2 to 5: reads what a check needs to know of Kafka; it produces and commits nothing.

Invariant: a part that is refused is left out, with the reason in `refused`; only an unreachable
broker is an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from aiokafka.errors import for_code
from aiokafka.protocol.admin import DescribeConfigsRequest

from relay.diagnose.evidence.system_state import TransactionSeen
from relay.diagnose.gather.topics import other_members
from relay.diagnose.gather.transactions import open_transactions
from relay.kafka.broker import EARLIEST, LATEST, Broker, connected
from relay.kafka.cluster_clock import broker_clock_offset
from relay.kafka.failures import BROKER_FAILURES
from relay.kafka.group_rights import group_operations
from relay.kafka.groups import SHARE, GroupMembers
from relay.kafka.partition import Partition
from relay.kafka.topic_descriptions import TopicDescription, describe_topics
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection

_CLIENT_ID: Final = "relay-check"
# A cluster that has just started makes its offsets topic when it is first asked.
_GROUP_SECONDS: Final = 10.0
_BROKER_RESOURCE: Final = 4
_SETTINGS: Final = [
    "group.min.session.timeout.ms",
    "group.max.session.timeout.ms",
    "offsets.retention.minutes",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """What the broker says.

    Attributes:
        configs: topic -> its settings; a topic that may not be asked is not in it.
        groups: those that may be seen; state `Dead` where there is none.
        offsets: group -> topics for which it committed offsets.
        behind: group -> offsets that it has not passed, of groups that never had a member.
        other_readers: groups with members that read the events, where the processor's have none.
        broker_settings: of one broker; empty when they may not be asked.
        confirm_operations: what may be done with our own group; empty: the broker does not say.
        clock_offset: the cluster's clock minus this machine's; None: it cannot be asked.
        transactions: the first open one of each partition of the flow's topics that has any.
        unwritten: events topics that no record was ever written to.
        asked_at: by this machine's clock.
    """

    bootstrap_servers: str
    brokers: int
    topics: Mapping[str, TopicDescription]
    configs: Mapping[str, Mapping[str, str]]
    groups: Mapping[str, GroupMembers]
    offsets: Mapping[str, frozenset[str]]
    behind: Mapping[str, int] = field(default_factory=dict)
    other_readers: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    broker_settings: Mapping[str, str] = field(default_factory=dict)
    confirm_operations: frozenset[int] = frozenset()
    clock_offset: timedelta | None = None
    transactions: Mapping[Partition, TransactionSeen] = field(default_factory=dict)
    unwritten: frozenset[str] = frozenset()
    asked_at: datetime = field(default_factory=lambda: datetime.now(UTC))


async def gather_kafka(kafka: KafkaConnection, flow: Flow) -> KafkaFacts:
    """Ask the broker for the flow's topics and groups.

    Raises:
        KafkaError, OSError, TimeoutError: no broker answers, or it refuses us.
    """
    topics = [*sorted(flow.topics), flow.returns_topic]
    refused: dict[str, str] = {}
    async with connected(kafka, _CLIENT_ID) as broker:
        described = await describe_topics(broker.client, topics, with_operations=True)
        there = [name for name, topic in described.items() if not topic.error_code]
        names = [*flow.processor_groups, flow.confirm_group]
        seen = {name: await _group(broker, name, refused) for name in names}
        processors = [told for name in flow.processor_groups if (told := seen[name])]
        alone = all(told[0].members == 0 for told in processors)
        settings = await _settings(broker, refused)
        clock = await _clock(broker, refused)
        rights = await _rights(broker, flow.confirm_group)
        return KafkaFacts(
            bootstrap_servers=kafka.bootstrap_servers,
            brokers=len(broker.client.cluster.brokers()),
            topics=described,
            configs=await broker.topic_settings(there),
            groups={name: told[0] for name, told in seen.items() if told},
            offsets={
                name: frozenset(topic for topic, _ in told[1])
                for name, told in seen.items()
                if told
            },
            behind=await _behind(broker, flow, seen),
            other_readers=await other_members(broker, flow) if alone else (),
            refused=refused,
            broker_settings=settings,
            confirm_operations=rights,
            clock_offset=clock,
            transactions=await _transactions(broker, topics, refused),
            unwritten=await _unwritten(broker, flow, refused),
        )


async def _transactions(
    broker: Broker, topics: Sequence[str], refused: dict[str, str]
) -> Mapping[Partition, TransactionSeen]:
    partitions = [one for topic in topics for one in broker.partitions(topic)]
    try:
        ends = await _bounded(broker.offsets(partitions, LATEST))
        stable = await _bounded(broker.offsets(partitions, LATEST, committed_only=True))
        begun = {one: at for one, at in stable.items() if at < ends.get(one, at)}
        return await _bounded(open_transactions(broker, begun))
    except BROKER_FAILURES as error:
        refused["transactions"] = str(error) or type(error).__name__
        return {}


async def _unwritten(broker: Broker, flow: Flow, refused: dict[str, str]) -> frozenset[str]:
    partitions = [one for topic in flow.topics for one in broker.partitions(topic)]
    try:
        ends = await _bounded(broker.offsets(partitions, LATEST))
    except BROKER_FAILURES as error:
        refused["ends"] = str(error) or type(error).__name__
        return frozenset()
    written = {
        topic for topic, partition in partitions if ends.get(Partition(topic, partition), 1) > 0
    }
    return frozenset(topic for topic, _ in partitions) - written


async def _settings(broker: Broker, refused: dict[str, str]) -> dict[str, str]:
    node = broker.client.get_random_node()
    request = DescribeConfigsRequest([(_BROKER_RESOURCE, str(node), _SETTINGS)])
    try:
        answer = await _bounded(broker.send(request, node))
    except BROKER_FAILURES as error:
        refused["settings"] = str(error) or type(error).__name__
        return {}
    ((error_code, message, _kind, _name, entries),) = answer.resources
    if error_code:
        refused["settings"] = message or for_code(error_code).__name__
    return {entry[0]: entry[1] for entry in entries}


async def _clock(broker: Broker, refused: dict[str, str]) -> timedelta | None:
    try:
        return await _bounded(broker_clock_offset(broker.client))
    except BROKER_FAILURES as error:
        refused["clock"] = str(error) or type(error).__name__
        return None


async def _rights(broker: Broker, group: str) -> frozenset[int]:
    try:
        return await _bounded(group_operations(broker, group))
    except (*BROKER_FAILURES, NotImplementedError):
        return frozenset()  # what may not be described is told of the group itself


async def _group(
    broker: Broker, name: str, refused: dict[str, str]
) -> tuple[GroupMembers, Mapping[Partition, int]] | None:
    try:
        members = await _bounded(broker.members(name))
        committed = {} if members.kind == SHARE else await _bounded(broker.committed(name))
    except BROKER_FAILURES as error:
        refused[name] = str(error) or "the group's coordinator does not answer in time"
        return None
    return members, committed


async def _behind(
    broker: Broker,
    flow: Flow,
    seen: Mapping[str, tuple[GroupMembers, Mapping[Partition, int]] | None],
) -> dict[str, int]:
    """Return how far readers are behind that assign their partitions themselves."""
    alone = {name: told[1] for name, told in seen.items() if told and told[0].never_joined}
    if not alone:
        return {}
    partitions = [one for topic in sorted(flow.topics) for one in broker.partitions(topic)]
    starts = await broker.offsets(partitions, EARLIEST)
    ends = await broker.offsets(partitions, LATEST)
    return {
        name: sum(
            max(0, end - max(committed.get(one, 0), starts.get(one, 0)))
            for one, end in ends.items()
        )
        for name, committed in alone.items()
    }


async def _bounded(asked: Awaitable[T]) -> T:
    async with asyncio.timeout(_GROUP_SECONDS):
        return await asked
