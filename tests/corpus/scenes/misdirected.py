"""Wrong settings: topics, groups, deadlines, partitions; and a checkpoint that somebody moved."""

import asyncio
import json
import time

from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.corpus.fault import Act, Fault, Orders, Scene
from tests.corpus.world import World

BEFORE, AFTER = 3, 5


def on_a_new_partition(order: str) -> bool:
    """Tell whether the order's events belong on a partition that is added."""
    return (murmur2(order.encode()) & 0x7FFFFFFF) % AFTER >= BEFORE


async def opening(world: World) -> None:
    """Everything runs."""
    world.begin_all()
    await world.until_up()
    await world.until_returned(await world.place_everywhere())


async def reads_another_topic(world: World, orders: Orders) -> None:
    """The processor is deployed with the topic of another environment."""
    other = world.topics.create("orders.staging", 3)
    world.restart("processor", RELAY_FLOW_EVENTS_TOPIC=other)
    await world.until_joined()
    await world.place_these(orders)
    await world.until_published(orders)


async def answers_on_another_topic(world: World, orders: Orders) -> None:
    """The processor is deployed with another returns topic."""
    other = world.topics.create("orders.replies", 3)
    world.restart("processor", RELAY_FLOW_RETURNS_TOPIC=other)
    await world.until_joined()
    await world.place_these(orders)
    await world.until_answered(orders)


async def processor_at_home(world: World) -> None:
    """The right topics again."""
    world.restart("processor")
    await world.until_joined()


def foreign_processor(world: World) -> Consumer:
    """Join the processor's group as librdkafka does: it learns of partitions in five minutes."""
    consumer = Consumer(
        {
            "bootstrap.servers": world.bootstrap,
            "group.id": world.group,
            "topic.metadata.refresh.interval.ms": 300_000,
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([world.events])
    world.doing.callback(consumer.close)
    deadline = time.monotonic() + 30
    while len(consumer.assignment()) < BEFORE:
        consumer.poll(0.1)
        assert time.monotonic() < deadline
    return consumer


async def partitions_added(world: World, orders: Orders) -> None:
    """Partitions are added; the relay notices, the processor does not yet."""
    world.end("processor")
    await world.until_group_is_empty(world.group)
    await asyncio.to_thread(foreign_processor, world)
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    made = admin.create_partitions([NewPartitions(world.events, AFTER)])[world.events]
    await asyncio.to_thread(made.result, 20)
    world.restart("relay")
    await world.eventually(lambda: len(world.ends(world.events)) == AFTER)
    await world.place_these(orders)
    await world.until_published(orders)


async def own_processor(world: World) -> None:
    """A processor that sees all partitions takes over."""
    world.begin("processor")
    await world.until_joined()


async def lost_some(world: World, orders: Orders) -> None:
    """Orders that the processor loses, for whoever asks with wrong settings."""
    for one in orders:
        # Each among others that are answered: a run of losses would be a jump.
        await world.place_these([one])
        await world.place()
    await world.until_answered(orders)
    # What was handled later is proof that these are not on their way.
    await world.until_returned(await world.place_everywhere())


async def checkpoint_moved(world: World, orders: Orders) -> None:
    """Somebody "resets" the relay by hand."""
    world.end("relay")
    await world.place_these(orders)
    await world.pg.execute(
        "UPDATE relay.checkpoint SET prev = pg_current_snapshot(), cur = NULL, last_id = NULL"
    )
    world.begin("relay")
    await world.until_returned(await world.place_everywhere(), 60)


async def checkpoint_of_another_time(world: World, orders: Orders) -> None:
    """A restored database: the checkpoint's transactions are ahead of the cluster's."""
    world.end("relay")
    await world.pg.execute("UPDATE relay.checkpoint SET prev = '900000000:900000000:'")
    await world.place_these(orders)
    world.begin("relay")
    assert world.running["relay"].wait(60) != 0


NOBODYS_GROUP = {"RELAY_FLOW_PROCESSOR_GROUPS": "a-group-that-nobody-uses"}
A_LONG_DEADLINE = {
    "RELAY_FLOW_EVENTS": json.dumps({"order.placed": {"deadline_seconds": 900}}),
}

SCENE = Scene(
    "misdirected",
    acts=(
        Act(
            (
                Fault(
                    "flow names a group that nobody uses", "configuration",
                    ("process", "unknown", "group_unknown"), lost_some,
                    processor=("--lose-order",), asked_with=NOBODYS_GROUP,
                ),
                Fault(
                    "deadline far too long", "configuration", ("return", "in_flight", "moving"),
                    lost_some, processor=("--lose-order",), asked_with=A_LONG_DEADLINE,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "processor reads another topic", "configuration",
                    ("process", "not_processed", "topic_not_consumed"), reads_another_topic,
                    mend=processor_at_home,
                ),
            ),
            come_back=True,
        ),
        Act(
            (
                Fault(
                    "processor answers on another topic", "configuration",
                    ("return", "no_return", "answered_elsewhere"), answers_on_another_topic,
                    mend=processor_at_home,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "partitions added", "configuration",
                    ("process", "not_processed", "partition_unassigned"), partitions_added,
                    mend=own_processor,
                    # The relay was restarted: on a slow machine they waited for it, too.
                    waits_at=("publish", "process"), suits=on_a_new_partition,
                ),
            ),
            come_back=True,
        ),
        Act(
            (
                Fault(
                    "checkpoint moved by hand", "people",
                    ("publish", "not_published", "checkpoint_skipped"), checkpoint_moved,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "checkpoint of another time", "people",
                    ("publish", "not_published", "rebaseline_needed"), checkpoint_of_another_time,
                ),
            )
        ),
    ),
    opening=opening,
)  # fmt: skip
