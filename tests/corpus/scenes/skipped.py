"""Offsets that jump, returns that die with their processor, records deleted unread."""

from tests.corpus.fault import Act, Fault, Orders, Scene, overdue
from tests.corpus.world import World


async def opening(world: World) -> None:
    """Everything runs, and each partition has been used."""
    world.faults += ["--delay-seconds", "600"]
    world.begin_all()
    await world.until_up()
    await world.until_returned(await world.place_everywhere())


async def fine_again(world: World) -> None:
    """Later orders come back: the loop is in order."""
    await world.until_returned(await world.place_everywhere(), 60)


async def processor_gone(world: World) -> None:
    """Stop the processor, and wait until it was seen to be gone."""
    world.end("processor")
    await world.until_group_is_empty(world.group)
    await world.until_position(world.group, members=0)


# --- the processor


async def group_reset_forward(world: World, orders: Orders) -> None:
    """During maintenance somebody resets the group to the end of the topic."""
    await processor_gone(world)
    await world.place_these(orders)
    await world.until_published(orders)
    world.skip_to_end(world.group, world.events)
    # Nobody types so fast that no position (one a second) is recorded before the next start.
    await world.until_position(world.group, members=0)
    world.begin("processor")
    await world.until_joined()
    await fine_again(world)


async def dies_with_returns(world: World, orders: Orders) -> None:
    """It commits before its returns have left, and is killed."""
    await world.place_these(orders)
    await world.until_answered(orders)
    await world.until_position(world.group, members=1)
    world.kill("processor")
    await world.until_group_is_empty(world.group)
    await world.until_position(world.group, members=0)
    world.begin("processor")
    await world.until_joined()
    await fine_again(world)


async def answers_nobody(world: World, orders: Orders) -> None:
    """A new version passes every event and answers none."""
    world.restart("processor", "--lose-rate", "1.0")
    await world.until_joined()
    await world.until_position(world.group, members=1)
    await world.place_these(orders)
    await world.until_answered(orders)


async def previous_version(world: World) -> None:
    """The version that answers comes back."""
    world.restart("processor")
    await world.until_joined()


async def events_deleted(world: World, orders: Orders) -> None:
    """Somebody deletes the topic's records while the processor is down."""
    await processor_gone(world)
    await world.place_these(orders)
    await world.until_published(orders)
    world.delete_records(world.events)
    world.begin("processor")
    await world.until_joined()
    await fine_again(world)


# --- the consumer


async def consumer_moved(world: World, orders: Orders) -> None:
    """Somebody moves the consumer's own offset to the end."""
    world.end("consumer")
    await world.place_these(orders)
    await world.until_answered(orders)
    for number, end in world.ends(world.returns).items():
        await world.pg.execute(
            "UPDATE relay.consumer_offset SET next_offset = $2"
            " WHERE consumer_group = $3 AND partition = $1", number, end, world.confirm_group,
        )  # fmt: skip
    world.begin("consumer")
    await fine_again(world)


async def returns_deleted(world: World, orders: Orders) -> None:
    """Somebody deletes the returns while the consumer is down."""
    world.end("consumer")
    await world.place_these(orders)
    await world.until_answered(orders)
    world.delete_records(world.returns)
    world.begin("consumer")
    await fine_again(world)


SCENE = Scene(
    "skipped",
    acts=(
        Act(
            (
                Fault(
                    "processor dies with returns unsent", "code",
                    ("return", "no_return", "processor_crashed"), dies_with_returns,
                    processor=("--delay-order",),
                ),
            )
        ),
        Act(
            (
                Fault(
                    "group reset forward", "people", ("return", "no_return", "offsets_skipped"),
                    group_reset_forward,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "events deleted before they were read", "people",
                    ("publish", "record_missing", "records_deleted"), events_deleted,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "consumer's offset moved by hand", "people",
                    ("confirm", "return_skipped", "offset_moved"), consumer_moved,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "returns deleted before they were applied", "people",
                    ("return", "no_return", "records_deleted"), returns_deleted,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "processor answers nobody any more", "code",
                    ("return", "no_return", "returns_stopped"), answers_nobody, overdue,
                    previous_version,
                ),
            )
        ),
    ),
    opening=opening,
)  # fmt: skip
