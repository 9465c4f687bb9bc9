"""Hop 2: what the relay must know of a topic before it sends: its partitions, its largest batch.

Invariant: a topic that does not exist yet, or that this user may not write to, is waited for, and
the relay says for what: it is an outage to be mended, never a reason to park an order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NoError, for_code
from aiokafka.protocol.admin import DescribeConfigsRequest

from relay.publish.errors import TopicWaitError
from relay.runtime.client_failure import ClientFailure

_LOG: Final = structlog.get_logger("relay.publish")
_TOPIC_RESOURCE: Final = 2
_LARGEST_BATCH: Final = "max.message.bytes"


@dataclass(slots=True)
class Topics:
    """Topics of one cluster; partitions are kept up to date by the client's metadata."""

    client: AIOKafkaClient

    async def partition_count(self, topic: str) -> int:
        """Return how many partitions a topic has.

        Raises:
            TopicWaitError: it does not exist, or may not be seen; the message says what to do.
            KafkaError, OSError: the broker does not answer.
        """
        known = self.client.cluster.partitions_for_topic(topic)
        if known is None:
            self.client.add_topic(topic)
            await self.client.force_metadata_update()
            known = self.client.cluster.partitions_for_topic(topic)
        if topic in self.client.cluster.unauthorized_topics:
            raise TopicWaitError(
                f"permission on topic {topic}: grant Describe and Write on it to the relay's user",
                ClientFailure.TOPIC_FORBIDDEN,
            )
        if known is None:
            raise TopicWaitError(
                f"topic {topic} to exist: create it, or correct the flow's events",
                ClientFailure.TOPIC_MISSING,
            )
        return len(known)

    async def largest_batch_bytes(self, topic: str) -> int | None:
        """Ask for the topic's `max.message.bytes`; None: the broker does not say.

        Raises:
            KafkaError, OSError, TimeoutError: the broker does not answer.
        """
        request = DescribeConfigsRequest([(_TOPIC_RESOURCE, topic, [_LARGEST_BATCH])])
        answer = await self.client.send(self.client.get_random_node(), request)
        for resource in answer.resources:
            error_code, error_message, _type, _name, entries = resource
            if for_code(error_code) is not NoError:
                _LOG.info("topic_limit_unknown", topic=topic, error=error_message)
                return None
            said = [int(value) for name, value, *_rest in entries if name == _LARGEST_BATCH]
            return said[0] if said else None
        return None
