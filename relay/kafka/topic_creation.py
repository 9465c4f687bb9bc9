"""Setup: makes topics that are missing; those that exist are left as they are.

Invariant: only whoever is asked to makes topics (the embedded servers, the demo, `relay probe
--create-topic`); no service does. A topic that cannot be made is an error that says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import NoError, TopicAlreadyExistsError, for_code

from relay.runtime.kafka_connection import KafkaConnection

_REPLICAS = 3


class TopicNotMadeError(Exception):
    """The broker refuses to make a topic; the message says why."""


async def make_topics(
    kafka: KafkaConnection,
    topics: Sequence[str],
    *,
    partitions: int,
    configs: Mapping[str, str] | None = None,
) -> list[str]:
    """Make what is missing, with three replicas where there are so many brokers.

    Args:
        kafka: the cluster.
        topics: their names.
        partitions: of each.
        configs: settings of each, such as `retention.ms`.

    Returns:
        Those that were missing.

    Raises:
        TopicNotMadeError: not permitted, or a name or setting that the broker does not take.
        KafkaError, OSError: the broker is away.
    """
    admin = AIOKafkaAdminClient(**kafka.client_options("relay-topics"))
    try:
        await admin.start()
        copies = min(_REPLICAS, len((await admin.describe_cluster())["brokers"]))
        new = [NewTopic(t, partitions, copies, topic_configs=dict(configs or {})) for t in topics]
        answer = await admin.create_topics(new)
    finally:
        await admin.close()
    made = []
    for topic, code, *said in answer.topic_errors:
        error = for_code(code)
        if error is NoError:
            made.append(topic)
        elif error is not TopicAlreadyExistsError:
            why = next(filter(None, said), error.__name__)
            raise TopicNotMadeError(f"topic {topic} cannot be made: {why}")
    return made
