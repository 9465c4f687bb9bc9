"""Hops 2 to 5: the broker's clock, asked for without writing a record.

Invariant: reads only. KRaft's leader says of itself when it last heard from itself, which is now by
its own clock (KIP-836, `DescribeQuorum`); it takes Describe on the cluster, and Kafka 3.3.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from aiokafka.errors import for_code

from relay.kafka.requests import describe_quorum_request


async def broker_clock_offset(client: Any) -> timedelta:
    """Return the cluster's clock minus this machine's, half the round trip taken off.

    Args:
        client: a started `aiokafka.client.AIOKafkaClient`.

    Raises:
        KafkaError: it is not permitted, too old, or nobody answers.
    """
    before = time.time()
    answer = await client.send(client.get_random_node(), describe_quorum_request())
    after = time.time()
    if answer.error_code:
        raise for_code(answer.error_code)("the cluster's clock")
    ((_topic, partitions, _tags),) = answer.topics
    _number, error, leader, _epoch, _mark, voters, _observers, _ = partitions[0]
    if error:
        raise for_code(error)("the cluster's clock")
    now_ms = next(voter[3] for voter in voters if voter[0] == leader)
    return timedelta(seconds=now_ms / 1000 - (before + after) / 2)
