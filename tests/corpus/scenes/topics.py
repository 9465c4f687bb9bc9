"""Topics that are deleted, and made again, while orders are on their way."""

import asyncio

from tests.corpus.fault import Act, Fault, Label, Orders, Scene, overdue
from tests.corpus.world import World


async def opening(world: World) -> None:
    """Relay and consumer run; the processor comes when there is a topic to read."""
    world.begin("relay"), world.begin("consumer")


async def no_events_topic(world: World, orders: Orders) -> None:
    """Nobody made the topic in this environment."""
    await asyncio.to_thread(world.topics.delete, world.events)
    await world.place_these(orders)


async def relay_says_so(world: World, orders: Orders) -> None:
    """Wait until the relay says what it waits for."""
    await world.until_complaining("relay", world.events)
    await overdue(world, orders)


async def topic_made(world: World) -> None:
    """Somebody makes it, and the processor is started."""
    await asyncio.to_thread(world.topics.make, world.events)
    world.begin("processor")
    await world.until_joined()


async def events_made_again(world: World, orders: Orders) -> None:
    """The events topic is deleted and made again before the processor has read it."""
    world.end("processor")
    await world.until_group_is_empty(world.group)
    await world.place_these(orders)
    await world.until_published(orders)
    await world.until_log_position(world.events)
    await asyncio.to_thread(world.topics.recreate, world.events)
    await world.until_log_position(world.events)
    await world.until_published(await world.place_everywhere())
    world.begin("processor")
    await world.until_joined()
    await world.until_returned(await world.place_everywhere(), 60)


async def returns_made_again(world: World, orders: Orders) -> None:
    """The returns topic is deleted and made again before the consumer has read it."""
    world.end("consumer")
    await world.place_these(orders)
    await world.until_answered(orders)
    await world.until_log_position(world.returns)
    world.end("processor")
    await asyncio.to_thread(world.topics.recreate, world.returns)
    await world.until_log_position(world.returns)
    world.begin("processor"), world.begin("consumer")
    await world.until_returned(await world.place_everywhere(), 60)


async def no_returns_topic(world: World, orders: Orders) -> None:
    """The returns topic is gone: the processor cannot answer, and does not go on."""
    # A return that is on its way while the topic goes may still be acknowledged, and goes with it.
    world.end("processor")
    await asyncio.to_thread(world.topics.delete, world.returns)
    world.begin("processor")
    await world.until_joined()
    await world.place_these(orders)
    await world.until_published(orders)


async def unread_for_a_while(world: World, orders: Orders) -> None:
    """Wait until the records are no longer so young that they might be fetched any moment."""
    await world.eventually(
        lambda: world.pg.fetchval(
            "SELECT max(published_at) < clock_timestamp() - interval '11 s'"
            " FROM relay.delivery_ledger"
        ),
        30,
    )
    await overdue(world, orders)


TOPIC_MISSING: Label = ("publish", "not_published", "topic_missing")

SCENE = Scene(
    "topics",
    acts=(
        Act(
            (
                Fault(
                    "events topic missing", "configuration",
                    TOPIC_MISSING, no_events_topic, relay_says_so, topic_made,
                    elsewhere=TOPIC_MISSING,
                    waits_at=("publish", "process"),
                ),
            ),
            come_back=True,
        ),
        Act(
            (
                Fault(
                    "events topic made again", "people",
                    ("publish", "record_missing", "topic_recreated"), events_made_again,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "returns topic made again", "people",
                    ("return", "no_return", "topic_recreated"), returns_made_again,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "returns topic missing", "people",
                    ("process", "not_processed", "topic_missing"), no_returns_topic,
                    unread_for_a_while,
                ),
            )
        ),
    ),
    opening=opening,
)  # fmt: skip
