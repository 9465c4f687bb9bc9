"""A broker that refuses, forgets, and goes away: ACLs, retention, compaction, an outage."""

import asyncio

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from tests.corpus.fault import Act, Fault, Orders, Scene, overdue
from tests.corpus.world import World

OPERATIONS = (
    AclOperation.READ,
    AclOperation.WRITE,
    AclOperation.DESCRIBE,
    AclOperation.DELETE,
    AclOperation.ALTER,
    AclOperation.DESCRIBE_CONFIGS,
    AclOperation.ALTER_CONFIGS,
)
GROUP_OPERATIONS = (AclOperation.READ, AclOperation.DESCRIBE, AclOperation.DELETE)


def admin(world: World) -> AdminClient:
    """Speak to the scene's broker."""
    return AdminClient({"bootstrap.servers": world.bootstrap, "log_level": 0})


def rule(
    kind: ResourceType, name: str, operation: AclOperation, permission: AclPermissionType
) -> AclBinding:
    """Write one access control list's line: everybody here is anonymous."""
    return AclBinding(
        kind, name, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", operation, permission
    )


def every_rule(kind: ResourceType, name: str) -> AclBindingFilter:
    """Match all lines about one thing."""
    return AclBindingFilter(
        kind, name, ResourcePatternType.LITERAL, None, None, AclOperation.ANY,
        AclPermissionType.ANY,
    )  # fmt: skip


async def forbid(world: World, kind: ResourceType, name: str, operation: AclOperation) -> None:
    """Deny one operation, allow the others, and wait until the authorizer knows."""
    operations = OPERATIONS if kind is ResourceType.TOPIC else GROUP_OPERATIONS
    rules = [rule(kind, name, operation, AclPermissionType.DENY)]
    rules += [
        rule(kind, name, one, AclPermissionType.ALLOW) for one in operations if one != operation
    ]
    speaker = admin(world)
    for made in speaker.create_acls(rules).values():
        await asyncio.to_thread(made.result, 20)

    def known() -> bool:
        return len(speaker.describe_acls(every_rule(kind, name)).result(20)) == len(rules)

    await world.eventually(lambda: asyncio.to_thread(known))


async def allow(world: World, kind: ResourceType, name: str) -> None:
    """Drop all rules about one thing."""
    every, speaker = every_rule(kind, name), admin(world)
    await asyncio.to_thread(speaker.delete_acls([every])[every].result, 20)


async def configure(world: World, topic: str, **settings: str) -> None:
    """Alter a topic's settings; an empty text takes one back."""
    entries = [
        ConfigEntry(
            name.replace("_", "."),
            text,
            incremental_operation=AlterConfigOpType.SET if text else AlterConfigOpType.DELETE,
        )
        for name, text in settings.items()
    ]
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    speaker = admin(world)
    for one in speaker.incremental_alter_configs([asked]).values():
        await asyncio.to_thread(one.result, 20)


async def until_forgotten(world: World, topic: str) -> None:
    """Wait until nothing is left of a topic's records."""

    def empty() -> bool:
        return all(low == high for low, high in world.bounds(topic).values())

    await world.eventually(lambda: asyncio.to_thread(empty), 60)


async def opening(world: World) -> None:
    """Everything runs, and each partition has been used."""
    world.begin_all()
    await world.until_up()
    await world.until_returned(await world.place_everywhere())


# --- access control lists, from the end of the flow to its beginning


async def consumer_may_not_join(world: World, orders: Orders) -> None:
    """The consumer may not use its group."""
    world.end("consumer")
    await forbid(world, ResourceType.GROUP, world.confirm_group, AclOperation.READ)
    world.begin("consumer")
    await world.place_these(orders)
    await world.until_answered(orders)


async def consumer_says_so(world: World, orders: Orders) -> None:
    """Wait until the consumer has said what it waits for."""
    await world.until_complaining("confirm", "authoriz")
    await overdue(world, orders)


async def consumer_may(world: World) -> None:
    """The rule goes."""
    await allow(world, ResourceType.GROUP, world.confirm_group)


async def processor_may_not_join(world: World, orders: Orders) -> None:
    """The processor may not use its group any more: it is restarted, and cannot join."""
    world.end("processor")
    await forbid(world, ResourceType.GROUP, world.group, AclOperation.READ)
    world.begin("processor")
    await world.place_these(orders)
    await world.until_published(orders)


async def group_stays_empty(world: World, orders: Orders) -> None:
    """Wait until nobody is in the group, though the processor has tried."""
    await world.eventually(lambda: "Authorization" in world.running["processor"].stderr, 40)
    await world.until_group_is_empty(world.group)
    await overdue(world, orders)


async def processor_may(world: World) -> None:
    """The rule goes."""
    await allow(world, ResourceType.GROUP, world.group)


async def relay_may_not_write(world: World, orders: Orders) -> None:
    """The relay may not write to the events topic any more."""
    await forbid(world, ResourceType.TOPIC, world.events, AclOperation.WRITE)
    await world.place_these(orders)


async def relay_says_so(world: World, orders: Orders) -> None:
    """Wait until the relay has said what it waits for."""
    await world.until_complaining("relay", "grant Write")
    await overdue(world, orders)


async def relay_may(world: World) -> None:
    """The rule goes."""
    await allow(world, ResourceType.TOPIC, world.events)


# --- what the broker forgets


async def processor_gone(world: World) -> None:
    """Stop the processor and wait until its group is empty."""
    world.end("processor")
    await world.until_group_is_empty(world.group)
    await world.until_position(world.group, members=0)


async def back_to_work(world: World) -> None:
    """The processor is started again."""
    world.begin("processor")
    await world.until_joined()
    await world.until_returned(await world.place_everywhere(), 60)


async def events_expired(world: World, orders: Orders) -> None:
    """The topic keeps its records for a second; the processor was away for longer."""
    await processor_gone(world)
    await world.place_these(orders)
    await world.until_published(orders)
    await configure(world, world.events, retention_ms="1000")
    await until_forgotten(world, world.events)


async def events_kept(world: World) -> None:
    """The retention is made longer."""
    await configure(world, world.events, retention_ms="")
    await back_to_work(world)


async def returns_expired(world: World, orders: Orders) -> None:
    """The returns topic keeps its records for a second; the consumer was away for longer."""
    world.end("consumer")
    await world.place_these(orders)
    await world.until_answered(orders)
    await configure(world, world.returns, retention_ms="1000")
    await until_forgotten(world, world.returns)


async def returns_kept(world: World) -> None:
    """The retention is made longer."""
    await configure(world, world.returns, retention_ms="")
    world.begin("consumer")
    await world.until_returned(await world.place_everywhere(), 60)


# --- an outage


async def broker_killed_before_hop_3(world: World, orders: Orders) -> None:
    """Records wait for the processor; the broker dies."""
    await processor_gone(world)
    await world.place_these(orders)
    await world.until_published(orders)
    await world.until_log_position(world.events)
    await asyncio.to_thread(world.server.kill)


async def broker_away(world: World, orders: Orders) -> None:
    """Wait until relay and consumer have recorded the outage."""
    await world.eventually(
        lambda: world.pg.fetchval(
            """SELECT count(DISTINCT kind) = 2 FROM relay.outage_record
                WHERE resource = 'broker' AND to_at IS NULL"""
        ),
        60,
    )
    await overdue(world, orders)


async def broker_back(world: World) -> None:
    """The broker comes back, and the processor."""
    await asyncio.to_thread(world.server.start)
    world.begin("processor")


SCENE = Scene(
    "own broker",
    acts=(
        Act(
            (
                Fault(
                    "consumer's group is forbidden", "configuration",
                    ("confirm", "not_confirmed", "permission_denied"), consumer_may_not_join,
                    consumer_says_so, consumer_may,
                ),
                Fault(
                    "processor's group is forbidden", "configuration",
                    ("process", "not_processed", "processor_down"), processor_may_not_join,
                    group_stays_empty, processor_may,
                ),
                Fault(
                    "events topic is forbidden", "configuration",
                    ("publish", "not_published", "permission_denied"), relay_may_not_write,
                    relay_says_so, relay_may,
                ),
            ),
            come_back=True,
        ),
        Act(
            (
                Fault(
                    "events expired before they were read", "configuration",
                    ("publish", "record_missing", "record_expired"), events_expired,
                    mend=events_kept,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "returns expired before they were applied", "configuration",
                    ("return", "no_return", "record_expired"), returns_expired,
                    mend=returns_kept,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "broker away, records wait", "system",
                    ("process", "not_processed", "broker_unreachable"),
                    broker_killed_before_hop_3, broker_away, broker_back,
                    # The consumer's broker, too: it tries again every few seconds.
                    waits_at=("process", "confirm"),
                ),
                Fault(
                    "broker away, rows wait", "system",
                    ("publish", "not_published", "broker_unreachable"), settle=broker_away,
                ),
            ),
            come_back=True,
        ),
    ),
    opening=opening,
    own="broker",
)  # fmt: skip
