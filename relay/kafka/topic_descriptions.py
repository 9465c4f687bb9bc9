"""Hop 5: Kafka's own id of a topic, which a topic that is deleted and made anew does not keep.

Invariant: asking never creates a topic. A broker older than 2.8 has no ids: None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.kafka.requests import CANNOT_BE_ASKED, describe_topics_request


@dataclass(frozen=True, slots=True)
class TopicPartitionState:
    """Who leads a partition, and how many brokers have all of it."""

    partition: int
    leader: int
    replicas: int
    in_sync: int


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """What a broker says of a topic.

    Attributes:
        error_code: Kafka's; 0: all is well, 3: there is none, 29: not permitted to see it.
        operations: what whoever asks may do with it (Kafka's AclOperation codes).
    """

    topic: str
    error_code: int
    topic_id: str | None
    partitions: tuple[TopicPartitionState, ...]
    operations: frozenset[int]


async def describe_topics(
    client: Any, topics: Sequence[str], *, with_operations: bool = False
) -> Mapping[str, TopicDescription]:
    """Ask any broker for these topics.

    Args:
        client: a started `aiokafka.client.AIOKafkaClient`.
        topics: their names.
        with_operations: also what we may do with each.

    Raises:
        KafkaError: no broker answers, or it is older than 2.8 (`CANNOT_BE_ASKED`).
    """
    request = describe_topics_request(topics, with_operations=with_operations)
    answer = await client.send(client.get_random_node(), request)
    return {row[1]: _description(row) for row in answer.topics}


def _description(row: Any) -> TopicDescription:
    error_code, topic, topic_id, _internal, partitions, operations, _tags = row
    return TopicDescription(
        topic,
        error_code,
        str(topic_id) if topic_id.int else None,
        tuple(TopicPartitionState(p[1], p[2], len(p[4]), len(p[5])) for p in sorted(partitions)),
        frozenset(bit for bit in range(32) if operations >> bit & 1)
        if operations > 0
        else frozenset(),
    )


async def topic_ids(client: Any, topics: Sequence[str]) -> Mapping[str, str | None]:
    """Ask any broker for the ids of these topics; those that do not exist have None.

    Raises:
        KafkaError: no broker answers.
    """
    ids: dict[str, str | None] = dict.fromkeys(topics)
    try:
        described = await describe_topics(client, topics)
    except CANNOT_BE_ASKED:
        return ids
    return ids | {name: d.topic_id for name, d in described.items() if not d.error_code}
