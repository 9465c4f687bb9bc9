"""Hops 2 to 5: the broker's clock, asked for without writing a record.

Invariant: reads only. KRaft's leader says of itself when it last heard from itself, which is now by
its own clock (KIP-836, `DescribeQuorum`); it takes Describe on the cluster, and Kafka 3.3.

aiokafka 0.14 does not know the request, so version 1 of it is spelled out here.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, ClassVar, Final

from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

_TOPIC: Final = "__cluster_metadata"
_REPLICAS: Final = CompactArray(
    ("replica_id", Int32),
    ("log_end_offset", Int64),
    ("last_fetch_timestamp", Int64),
    ("last_caught_up_timestamp", Int64),
    ("tags", TaggedFields),
)


class _QuorumResponse(Response):  # type: ignore[misc]
    API_KEY = 55
    API_VERSION = 1
    SCHEMA = Schema(
        ("error_code", Int16),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("high_watermark", Int64),
                        ("voters", _REPLICAS),
                        ("observers", _REPLICAS),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _QuorumRequestV1(RequestStruct):  # type: ignore[misc]
    API_KEY = 55
    API_VERSION = 1
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _QuorumResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                ("partitions", CompactArray(("partition", Int32), ("tags", TaggedFields))),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _QuorumRequest(Request[_QuorumRequestV1]):  # type: ignore[misc]
    API_KEY: ClassVar[int] = 55

    def build(self, request_struct_class: type[_QuorumRequestV1]) -> _QuorumRequestV1:
        return request_struct_class([(_TOPIC, [(0, {})], {})], {})


async def broker_clock_offset(client: Any) -> timedelta:
    """Return the cluster's clock minus this machine's, half the round trip taken off.

    Args:
        client: a started `aiokafka.client.AIOKafkaClient`.

    Raises:
        KafkaError: it is not permitted, too old, or nobody answers.
    """
    before = time.time()
    answer = await client.send(client.get_random_node(), _QuorumRequest())
    after = time.time()
    if answer.error_code:
        raise for_code(answer.error_code)("the cluster's clock")
    ((_topic, partitions, _tags),) = answer.topics
    _number, error, leader, _epoch, _mark, voters, _observers, _ = partitions[0]
    if error:
        raise for_code(error)("the cluster's clock")
    now_ms = next(voter[3] for voter in voters if voter[0] == leader)
    return timedelta(seconds=now_ms / 1000 - (before + after) / 2)
