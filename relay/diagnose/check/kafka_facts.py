"""Hops 2 to 5: reads what a check needs to know of Kafka; it produces and commits nothing.

Invariant: a part that is refused is None with the reason in `refused`; only an unreachable broker
is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from consumers.topic_id import TopicDescription, describe_topics
from relay.runtime.flow import Flow
from relay.runtime.kafka import KafkaConnection

_CLIENT_ID: Final = "relay-check"
_REQUEST_MILLISECONDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A consumer group: `state` is Kafka's word; `operations` what we may do with it."""

    state: str
    members: int
    error_code: int
    operations: frozenset[int]


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """What the broker says.

    Attributes:
        configs: topic -> its settings; a topic that may not be asked is not in it.
        offsets: group -> topics for which it committed offsets.
    """

    brokers: int
    topics: Mapping[str, TopicDescription]
    configs: Mapping[str, Mapping[str, str]]
    groups: Mapping[str, GroupFacts]
    offsets: Mapping[str, frozenset[str]]
    refused: Mapping[str, str] = field(default_factory=dict)


async def gather_kafka(kafka: KafkaConnection, flow: Flow) -> KafkaFacts:
    """Ask the broker for the flow's topics and groups.

    Raises:
        KafkaError, OSError: no broker answers, or it refuses us.
    """
    admin = AIOKafkaAdminClient(
        **kafka.client_options(_CLIENT_ID), request_timeout_ms=_REQUEST_MILLISECONDS
    )
    try:
        await admin.start()
        topics = [*sorted(flow.topics), flow.returns_topic]
        described = await describe_topics(admin._client, topics, with_operations=True)  # noqa: SLF001 - aiokafka's admin client has no request of its own for it
        cluster = await admin.describe_cluster()
        refused: dict[str, str] = {}
        there = [name for name, topic in described.items() if not topic.error_code]
        names = [*flow.processor_groups, flow.confirm_group]
        return KafkaFacts(
            brokers=len(cluster["brokers"]),
            topics=described,
            configs=await _configs(admin, there, refused),
            groups={name: g for name in names if (g := await _group(admin, name, refused))},
            offsets={name: await _offsets(admin, name, refused) for name in names},
            refused=refused,
        )
    finally:
        await admin.close()


async def _configs(
    admin: AIOKafkaAdminClient, topics: list[str], refused: dict[str, str]
) -> Mapping[str, Mapping[str, str]]:
    found: dict[str, Mapping[str, str]] = {}
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    if not asked:
        return found
    for answer in await admin.describe_configs(asked):
        for error_code, error_text, _kind, topic, entries in answer.resources:
            if error_code:
                refused[f"configs:{topic}"] = error_text or for_code(error_code).__name__
            else:
                found[topic] = {entry[0]: entry[1] for entry in entries}
    return found


async def _group(
    admin: AIOKafkaAdminClient, name: str, refused: dict[str, str]
) -> GroupFacts | None:
    try:
        (answer,) = await admin.describe_consumer_groups([name], include_authorized_operations=True)
    except (KafkaError, OSError) as error:
        refused[f"group:{name}"] = str(error) or type(error).__name__
        return None
    error_code, _name, state, _type, _protocol, members, *told = answer.groups[0]
    operations = told[0] if told else 0
    bits = frozenset(bit for bit in range(32) if operations > 0 and operations >> bit & 1)
    return GroupFacts(state, len(members), error_code, bits)


async def _offsets(
    admin: AIOKafkaAdminClient, name: str, refused: dict[str, str]
) -> frozenset[str]:
    try:
        offsets = await admin.list_consumer_group_offsets(name)
    except (KafkaError, OSError) as error:
        refused[f"offsets:{name}"] = str(error) or type(error).__name__
        return frozenset()
    return frozenset(place.topic for place, at in offsets.items() if at.offset >= 0)
