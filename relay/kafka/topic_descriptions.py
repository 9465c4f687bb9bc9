"""Hop 5: Kafka's own id of a topic, which a topic that is deleted and made anew does not keep.

Invariant: asking never creates a topic. A broker older than 2.8 has no ids: None.

aiokafka 0.14 speaks Metadata up to version 5; the id came with version 10 (KIP-516), so that
version is spelled out here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from relay.kafka.requests import Uuid


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequestV10(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic_id", Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequestV10]):  # type: ignore[misc]
    API_KEY: ClassVar[int] = 3

    def __init__(self, topics: Sequence[str], *, with_operations: bool = False) -> None:
        self._topics = topics
        self._with_operations = with_operations

    def build(self, request_struct_class: type[_MetadataRequestV10]) -> _MetadataRequestV10:
        asked: list[tuple[UUID, str, dict[int, bytes]]] = [
            (UUID(int=0), topic, {}) for topic in self._topics
        ]
        no = False
        return request_struct_class(asked, no, no, self._with_operations, {})


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
        KafkaError: no broker answers, or it is older than 2.8 (IncompatibleBrokerVersion).
    """
    request = _MetadataRequest(topics, with_operations=with_operations)
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
    except (IncompatibleBrokerVersion, NotImplementedError):
        return ids
    return ids | {name: d.topic_id for name, d in described.items() if not d.error_code}
