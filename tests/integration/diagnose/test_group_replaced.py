"""The processor's group was renamed: what lies between the two groups is lost, and only that."""

import asyncio
import json
from uuid import uuid4

import pytest
from aiokafka.partitioner import murmur2

from tests.foreign_processor import foreign_processor
from tests.integration.diagnose.test_returns_set_aside import take

pytestmark = pytest.mark.timeout(300)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}


def of_two_partitions() -> list[str]:
    """Make order ids that Kafka's partitioner sends to partitions 0 and 1 of 3."""
    found: dict[int, str] = {}
    while len(found) < 2:
        one = str(uuid4())
        partition = (murmur2(one.encode()) & 0x7FFFFFFF) % 3
        if partition < 2:
            found[partition] = one
    return list(found.values())


async def test_orders_between_two_groups_are_lost_and_the_old_one_is_not_to_be_started(
    wiring,
) -> None:
    wiring.relay(**QUICK), wiring.consumer()
    with foreign_processor(wiring, wiring.group):
        before = await wiring.place_everywhere()
        await wiring.until_returned(before, 60)
        await wiring.until_position(wiring.group, 1)
    await wiring.until_group_is_empty(wiring.group)
    lost = await wiring.place_everywhere() + await wiring.place(6)
    await wiring.until_published(lost, 60)
    # Somebody who reads everything and answers nothing is no processor.
    with foreign_processor(wiring, f"audit-{wiring.topics.suffix}", answers=lambda _key: False):
        await wiring.until_passed(f"audit-{wiring.topics.suffix}", wiring.events)
        await wiring.until_overdue(lost)
        named = set(wiring.named(lost))
        assert named == {("process", "not_processed", "processor_down")}
        green = f"{wiring.group}-green"
        with foreign_processor(wiring, green, from_the_end=True):
            # To one partition nothing newer comes.
            newer = of_two_partitions()
            await wiring.place_these(newer)
            await wiring.until_returned(newer, 60)
            await wiring.eventually(
                lambda: asyncio.to_thread(lambda: len(wiring.committed(green, wiring.events)) >= 2),
                40,
            )
            found = await asyncio.to_thread(wiring.diagnose, lost)
            said = {(one["hop"], one["verdict"], one["cause"]) for one in found}
            assert said == {("process", "not_processed", "group_replaced")}
            assert green in json.dumps(found)
            assert all(one["next"][0].startswith("relay replay ") for one in found)
            done = await asyncio.to_thread(
                wiring.command, "replay", "--execute", "--reason", "renamed", "--yes", "--json"
            )
            assert done.returncode == 0, done.stdout + done.stderr
            await wiring.until_returned(lost, 60)


async def test_the_new_group_is_known_though_its_clock_is_hours_behind(wiring) -> None:
    """A return that names no event answers its order's only one, whatever its record's time."""
    wiring.relay(**QUICK), wiring.consumer()
    with foreign_processor(wiring, wiring.group):
        await wiring.until_returned(await wiring.place_everywhere(), 60)
        await wiring.until_position(wiring.group, 1)
    await wiring.until_group_is_empty(wiring.group)
    lost = await wiring.place_everywhere()
    await wiring.until_published(lost, 60)
    green = f"{wiring.group}-green"
    with foreign_processor(wiring, green, from_the_end=True, clock_seconds=-7200):
        await wiring.until_returned(await wiring.place_everywhere(), 60)
        await wiring.until_overdue(lost)
        named = await asyncio.to_thread(wiring.named, lost)
    assert set(named) == {("process", "not_processed", "group_replaced")}


async def test_what_the_group_answered_and_never_committed_was_answered_by_no_other(wiring) -> None:
    """Its returns are applied when it has gone: the consumer was away. Nobody took its place."""
    wiring.relay(**QUICK)
    consumer = wiring.consumer()
    with foreign_processor(wiring, wiring.group):
        await wiring.until_returned(await wiring.place_everywhere(), 60)
        await wiring.until_position(wiring.group, 1)
        consumer.terminate()
    with foreign_processor(wiring, wiring.group, **{"enable.auto.commit": False}):
        await wiring.until_position(wiring.group, 1)
        answered = await wiring.place_everywhere()
        await wiring.eventually(
            lambda: asyncio.to_thread(lambda: sum(wiring.ends(wiring.returns).values()) >= 6), 40
        )
    await wiring.until_group_is_empty(wiring.group)
    await wiring.until_position(wiring.group, 0)
    wiring.consumer()
    await wiring.until_returned(answered, 60)
    waiting = await wiring.place_everywhere()
    await wiring.until_published(waiting, 60)
    await wiring.until_overdue(waiting)
    assert set(wiring.named(waiting)) == {("process", "not_processed", "processor_down")}
    # Whoever moves its offset now passes over what was answered, too: the rest was skipped.
    wiring.skip_to_end(wiring.group, wiring.events)
    await wiring.until_position(wiring.group, 0)
    with foreign_processor(wiring, wiring.group):
        await wiring.until_returned(await wiring.place_everywhere(), 60)
        named = await asyncio.to_thread(wiring.named, waiting)
    assert set(named) == {("return", "no_return", "offsets_skipped")}


async def test_what_the_new_group_left_unanswered_is_lost_at_the_return(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer()
    with foreign_processor(wiring, wiring.group):
        await wiring.until_returned(await wiring.place_everywhere(), 60)
        await wiring.until_position(wiring.group, 1)
    await wiring.until_group_is_empty(wiring.group)
    # Who answered within the second in which it left cannot be told.
    await wiring.until_position(wiring.group, 0)
    first = await wiring.place(2)
    mute: set[str] = set()
    green = f"{wiring.group}-green"
    with foreign_processor(wiring, green, answers=lambda key: key not in mute):
        await wiring.until_returned(first, 60)
        unanswered = [str(uuid4()) for _ in range(2)]
        mute.update(unanswered)
        await wiring.place_these(unanswered)
        await wiring.until_returned(await wiring.place_everywhere(), 60)
        await wiring.until_passed(green, wiring.events)
        await wiring.until_overdue(unanswered)
        named = await asyncio.to_thread(wiring.named, unanswered)
    assert {(hop, verdict) for hop, verdict, _cause in named} == {("return", "no_return")}


async def test_a_processor_that_reads_a_mirror_is_not_said_to_read_another_topic(wiring) -> None:
    mirror = wiring.topics.create("mirror.orders.events", 2)
    wiring.relay()
    lost = await wiring.place(2)
    await wiring.until_published(lost, 90)
    rows = await wiring.pg.fetch(
        "SELECT aggregate_id, event_id::text FROM relay.outbox ORDER BY id"
    )
    for order, event in rows:
        wiring.send(mirror, order, b"{}", ce_id=event)
    await asyncio.to_thread(take, wiring, 2, mirror)
    await wiring.until_overdue(lost)
    assert {one[:2] for one in wiring.named(lost)} == {("return", "no_return")}


async def test_what_a_mirror_has_been_read_of_does_not_wait_for_the_processor(wiring) -> None:
    mirror = wiring.topics.create("mirror.orders.events", 2)
    wiring.relay(), wiring.consumer()
    orders = await wiring.place(3)
    await wiring.until_published(orders, 90)
    rows = await wiring.pg.fetch(
        "SELECT aggregate_id, event_id::text FROM relay.outbox ORDER BY id"
    )
    for order, event in rows:
        wiring.send(mirror, order, b"{}", ce_id=event)
    await asyncio.to_thread(take, wiring, 3, mirror)
    waiting = json.loads(wiring.command("status", "--json").stdout)["hops"]["process"]["waiting"]
    assert waiting == 3, "nobody was answered: the events may be what it ought to read"
    wiring.send(wiring.returns, orders[0], b'{"status": "confirmed"}')
    await wiring.until_returned(orders[:1], 60)
    wiring.send(mirror, orders[1], b"{}", ce_id=rows[1][1])
    waiting = json.loads(wiring.command("status", "--json").stdout)["hops"]["process"]["waiting"]
    assert waiting == 1
