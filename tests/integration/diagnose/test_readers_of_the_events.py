"""Who reads the events is looked for among all groups of the cluster, however many there are."""

from collections.abc import Iterator

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from relay.diagnose.gather.topics import other_readers
from relay.kafka.broker import connected
from relay.runtime.flow import EventRoute, Flow
from relay.runtime.kafka_connection import KafkaConnection

STRANGERS = 150


@pytest.fixture
def strangers(topics) -> Iterator[AdminClient]:
    """Groups whose names come before any other's, and which read something else."""
    admin = AdminClient({"bootstrap.servers": topics.bootstrap_servers})
    elsewhere = topics.create("somebody.elses", 1)
    names = [f"0-{topics.suffix}-{number}" for number in range(STRANGERS)]
    for name in names:
        commit(admin, name, elsewhere)
    yield admin
    for done in admin.delete_consumer_groups(names).values():
        done.result(30)


def commit(admin: AdminClient, group: str, topic: str) -> None:
    """Give a group an offset, as somebody does by hand."""
    offsets = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 0)])
    admin.alter_consumer_group_offsets([offsets])[group].result(30)


async def test_a_reader_is_found_behind_hundreds_of_other_groups(topics, strangers) -> None:
    events = topics.create("orders.events", 1)
    flow = Flow(events={"order.placed": EventRoute(events, 60.0)}, processor_groups=("blue",))
    green = f"zz-{topics.suffix}"
    commit(strangers, green, events)
    try:
        async with connected(KafkaConnection(topics.bootstrap_servers), "test") as broker:
            found = await other_readers(broker, flow)
    finally:
        strangers.delete_consumer_groups([green])[green].result(30)
    assert [(one.name, dict(one.committed)) for one in found] == [(green, {(events, 0): 0})]
