"""Hops 2 to 5: reads what a check needs to know of Kafka; it produces and commits nothing.

Invariant: a part that is refused is left out, with the reason in `refused`; only an unreachable
broker is an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from aiokafka.errors import KafkaError

from consumers.group.topic_id import TopicDescription, describe_topics
from relay.diagnose.gather.broker import Broker, GroupMembers, connected
from relay.runtime.flow import Flow
from relay.runtime.kafka import KafkaConnection

_CLIENT_ID: Final = "relay-check"
# A cluster that has just started makes its offsets topic when it is first asked.
_GROUP_SECONDS: Final = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """What the broker says.

    Attributes:
        configs: topic -> its settings; a topic that may not be asked is not in it.
        groups: those that may be seen; state `Dead` where there is none.
        offsets: group -> topics for which it committed offsets.
    """

    bootstrap_servers: str
    brokers: int
    topics: Mapping[str, TopicDescription]
    configs: Mapping[str, Mapping[str, str]]
    groups: Mapping[str, GroupMembers]
    offsets: Mapping[str, frozenset[str]]
    refused: Mapping[str, str] = field(default_factory=dict)


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
        return KafkaFacts(
            bootstrap_servers=kafka.bootstrap_servers,
            brokers=len(broker.client.cluster.brokers()),
            topics=described,
            configs=await broker.topic_settings(there),
            groups={name: told[0] for name, told in seen.items() if told},
            offsets={name: told[1] for name, told in seen.items() if told},
            refused=refused,
        )


async def _group(
    broker: Broker, name: str, refused: dict[str, str]
) -> tuple[GroupMembers, frozenset[str]] | None:
    try:
        members = await _bounded(broker.members(name))
        committed = await _bounded(broker.committed(name))
    except (KafkaError, TimeoutError, OSError) as error:
        refused[name] = str(error) or "the group's coordinator does not answer in time"
        return None
    return members, frozenset(topic for topic, _ in committed)


async def _bounded(asked: Awaitable[T]) -> T:
    async with asyncio.timeout(_GROUP_SECONDS):
        return await asked
