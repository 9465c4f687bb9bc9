"""Where no relay runs, a replay's own publisher sends the replay's items and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from relay.publish.ownership.deference import Deference
from relay.publish.reading.replays import CONDUCTOR_NAME
from relay.replay.jobs import claim
from tests.integration.publish.test_publish_replays import ids, refused, start_job, until_sent

CHECKPOINT = "SELECT prev::text, cur::text, last_id, high_id FROM relay.checkpoint"
HOLDER = """
SELECT a.application_name FROM relay.lease AS l JOIN pg_stat_activity AS a ON a.pid = l.backend_pid
 WHERE l.duty = 'relay' AND l.released_at IS NULL AND l.expires_at > clock_timestamp()
"""


@pytest.fixture
async def conduct(database: str) -> AsyncIterator[Callable[[str], Any]]:
    """Hold what `relay replay` holds for as long as its process lives."""
    async with AsyncExitStack() as stack:

        async def one(replay_id: str) -> asyncpg.Connection:
            named = {"application_name": CONDUCTOR_NAME}
            connection = await asyncpg.connect(database, server_settings=named)
            stack.callback(connection.terminate)
            await claim(connection, UUID(replay_id))
            return connection

        yield one


async def publish_first(lab: Any, count: int, orders: int = 50) -> list[int]:
    """Publish so many events with a relay that then ends; return them."""
    await lab.fill(count, orders=orders)
    async with lab.relaying():
        await lab.until_published(count)
    return await ids(lab)


async def copies(lab: Any) -> list[str]:
    return [one.event_id for one in await lab.read() if "replay_id" in one.headers]


async def until_held_by(lab: Any, name: str) -> None:
    async def held() -> bool:
        return bool(await lab.pg.fetchval(HOLDER) == name)

    await lab.until(held)


async def event_ids(lab: Any, outbox_ids: Sequence[int]) -> list[str]:
    rows = await lab.pg.fetch(
        "SELECT event_id::text FROM relay.outbox WHERE id = ANY ($1::bigint[]) ORDER BY id",
        outbox_ids,
    )
    return [row["event_id"] for row in rows]


async def test_nothing_but_its_items_moves(lab: Any, conduct: Any) -> None:
    handed_over = await publish_first(lab, 5)
    await lab.place([f"new-{n}" for n in range(6)])
    await lab.place(["unmapped"], "order.unmapped")
    before = await lab.pg.fetchrow(CHECKPOINT)
    partitions = await lab.pg.fetch("SELECT inhrelid FROM pg_inherits ORDER BY 1")
    replay_id = await start_job(lab, handed_over[:1])
    await conduct(replay_id)
    async with lab.relaying(live=False):
        await until_sent(lab, replay_id, 1)
    assert await copies(lab) == await event_ids(lab, handed_over[:1])
    assert len(await lab.read()) == 6
    assert await lab.pg.fetchrow(CHECKPOINT) == before
    assert await lab.quarantine() == []
    assert await lab.pg.fetch("SELECT inhrelid FROM pg_inherits ORDER BY 1") == partitions
    async with lab.relaying():
        await lab.until_published(12)
    assert len(await lab.read()) == 12


async def test_in_the_midst_of_a_window_the_window_stays_as_it_was(lab: Any, conduct: Any) -> None:
    await publish_first(lab, 5)
    await lab.fill(200, start=5)
    prev = await lab.pg.fetchval("SELECT prev::text FROM relay.checkpoint")
    half = (await ids(lab))[100]
    await lab.pg.execute(
        "UPDATE relay.checkpoint SET cur = pg_current_snapshot(), last_id = $1", half
    )
    before = await lab.pg.fetchrow(CHECKPOINT)
    replay_id = await start_job(lab, (await ids(lab))[:5])
    await conduct(replay_id)
    async with lab.relaying(live=False):
        await until_sent(lab, replay_id, 5)
    assert await lab.pg.fetchrow(CHECKPOINT) == before
    assert before["prev"] == prev
    assert len(await lab.read()) == 10


async def test_a_relay_that_starts_has_the_lease_at_once_and_goes_on_with_it(
    lab: Any, conduct: Any
) -> None:
    handed_over = await publish_first(lab, 1_000)
    replay_id = await start_job(lab, handed_over, released=400)
    await conduct(replay_id)
    alone = lab.relay(live=False, page_rows=50)
    await until_sent(lab, replay_id, 400)
    async with lab.relaying():
        async with asyncio.timeout(5):
            await until_held_by(lab, "relay-run-writer")
        await lab.place(["new"])
        await lab.until_published(1_401)
        await lab.pg.execute("UPDATE relay.replay_job SET released_count = 1000")
        await until_sent(lab, replay_id, 1_000)
    found = await copies(lab)
    assert sorted(found) == sorted(await event_ids(lab, handed_over)), "each of them once"
    await alone.stop()


async def test_it_goes_on_where_the_relay_ended(lab: Any, conduct: Any) -> None:
    handed_over = await publish_first(lab, 300)
    replay_id = await start_job(lab, handed_over, released=0)
    await conduct(replay_id)
    relay = lab.relay()
    await until_held_by(lab, "relay-run-writer")
    alone = lab.relay(live=False)
    await relay.stop()
    await until_held_by(lab, "relay-replay-writer")
    await lab.place(["new"])
    await lab.pg.execute("UPDATE relay.replay_job SET released_count = 300")
    await until_sent(lab, replay_id, 300)
    await alone.stop()
    assert sorted(await copies(lab)) == sorted(await event_ids(lab, handed_over))
    assert len(await lab.read()) == 600


async def test_killed_it_repeats_a_page_at_most_and_what_it_released_stays(
    lab: Any, conduct: Any
) -> None:
    handed_over = await publish_first(lab, 500)
    replay_id = await start_job(lab, handed_over)
    conductor = await conduct(replay_id)
    sent: list[str] = []

    async def dies_third(point: str) -> None:
        if point == "after_send_before_checkpoint":
            sent.append(point)
            if len(sent) == 3:
                await killed.wait()

    killed = asyncio.Event()
    first = lab.relay(live=False, page_rows=50, test_point=dies_third)
    await until_sent(lab, replay_id, 100)
    await lab.until(lambda: len(sent) == 3)
    await first.kill()
    conductor.terminate()
    other = await start_job(lab, handed_over[:1])
    await conduct(other)
    async with lab.relaying(live=False, page_rows=50):
        await until_sent(lab, other, 1)
        state = await lab.pg.fetchrow(
            "SELECT sent_count, state FROM relay.replay_job WHERE replay_id = $1", replay_id
        )
        assert tuple(state) == (100, "running"), "nobody conducts it, so nothing of it is sent"
        await conduct(replay_id)
        await until_sent(lab, replay_id, 500)
    of_it = [one.event_id for one in await lab.read() if one.headers.get("replay_id") == replay_id]
    assert set(of_it) == set(await event_ids(lab, handed_over))
    assert len(of_it) <= 550


async def test_two_at_once_send_each_item_once(lab: Any, conduct: Any) -> None:
    handed_over = await publish_first(lab, 600)
    one, two = handed_over[:300], handed_over[300:]
    jobs = [await start_job(lab, one), await start_job(lab, two)]
    for replay_id in jobs:
        await conduct(replay_id)
    async with lab.relaying(live=False, page_rows=40), lab.relaying(live=False, page_rows=40):
        for replay_id in jobs:
            await until_sent(lab, replay_id, 300)
    assert sorted(await copies(lab)) == sorted(await event_ids(lab, handed_over))
    assert await lab.published() == 1_200


async def test_what_leaves_quarantine_waits_for_a_relay(lab: Any, conduct: Any) -> None:
    handed_over = await publish_first(lab, 5)
    [parked] = await lab.place(["order-0"], "order.late")
    async with lab.relaying():
        await lab.until(lab.quarantine)
    await lab.pg.execute("UPDATE relay.quarantine SET state = 'release_requested'")
    replay_id = await start_job(lab, [*handed_over, parked])
    await conduct(replay_id)
    events = {"order.placed": lab.topic, "order.late": lab.topic}
    async with lab.relaying(live=False, events=events):
        await until_sent(lab, replay_id, 6)
    assert await refused(lab, replay_id) == {parked: "parked"}
    assert [row["state"] for row in await lab.quarantine()] == ["release_requested"]
    assert len(await lab.read()) == 10
    async with lab.relaying(events=events):
        await lab.until_published(11)
    assert [row["state"] for row in await lab.quarantine()] == ["released"]


def test_a_relay_that_takes_nothing_is_passed_over_once() -> None:
    now = 0.0
    deference = Deference(0, clock=lambda: now)
    assert deference.decide(set(), held=False), "nobody is there"
    assert not deference.decide(set(), held=True), "another holds it"
    assert not deference.decide({7}, held=False)
    now = 9.0
    assert not deference.decide({7}, held=True), "it took it"
    now = 20.0
    assert not deference.decide({7}, held=False), "its time begins anew"
    now = 31.0
    assert deference.decide({7}, held=False), "it is frozen"
    assert not deference.decide({7, 8}, held=False), "another relay came"
