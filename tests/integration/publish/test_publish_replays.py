"""What is sent again goes the same way as everything else, and overtakes nothing."""

import uuid
from collections.abc import Sequence
from typing import Any

from relay.publish.reading.replays import PART_ITEMS


async def start_job(
    lab: Any, outbox_ids: Sequence[int], *, topic: str | None = None, released: int | None = None
) -> str:
    """Store a running job, as `relay replay` does."""
    replay_id = str(uuid.uuid4())
    await lab.pg.execute(
        "INSERT INTO relay.replay_job (replay_id, selection, plan, item_count, released_count,"
        "                              state, started_at, target_topic)"
        " VALUES ($1, '{}', '{}', $2, $3, 'running', clock_timestamp(), $4)",
        replay_id,
        len(outbox_ids),
        len(outbox_ids) if released is None else released,
        topic,
    )
    for number, first in enumerate(range(0, len(outbox_ids), PART_ITEMS)):
        part = list(outbox_ids[first : first + PART_ITEMS])
        await lab.pg.execute(
            "INSERT INTO relay.replay_part VALUES ($1, $2, $3)", replay_id, number, part
        )
    return replay_id


async def until_sent(lab: Any, replay_id: str, count: int) -> None:
    async def sent() -> bool:
        found = await lab.pg.fetchval(
            "SELECT sent_count FROM relay.replay_job WHERE replay_id = $1", replay_id
        )
        return bool(found >= count)

    await lab.until(sent)


async def refused(lab: Any, replay_id: str) -> dict[int, str]:
    rows = await lab.pg.fetch(
        "SELECT outbox_id, reason FROM relay.replay_refused WHERE replay_id = $1", replay_id
    )
    return dict(rows)


async def ids(lab: Any) -> list[int]:
    rows = await lab.pg.fetch("SELECT id FROM relay.outbox ORDER BY id")
    return [row["id"] for row in rows]


async def test_a_replayed_record_is_the_same_but_for_its_replay_id(lab: Any) -> None:
    await lab.pg.execute(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, headers,"
        "                          traceparent, tracestate)"
        " VALUES ('order', 'a', 'order.placed', '{\"n\": 1}', '{\"tenant\": \"t\"}',"
        "         '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 'k=v')"
    )
    await lab.fill(2_500)
    async with lab.relaying():
        await lab.until_published(2_501)
        replay_id = await start_job(lab, await ids(lab))
        await until_sent(lab, replay_id, 2_501)
    records = await lab.read()
    first = [one for one in records if "replay_id" not in one.headers]
    again = [one for one in records if one.headers.get("replay_id") == replay_id]
    assert (len(first), len(again)) == (2_501, 2_501)
    as_sent = {one.event_id: (one.key, one.value, one.partition, one.headers) for one in first}
    for one in again:
        headers = {name: text for name, text in one.headers.items() if name != "replay_id"}
        assert as_sent[one.event_id] == (one.key, one.value, one.partition, headers)


async def test_the_ledger_knows_each_copy_by_its_offset(lab: Any) -> None:
    await lab.fill(300)
    async with lab.relaying():
        await lab.until_published(300)
        replay_id = await start_job(lab, await ids(lab))
        await until_sent(lab, replay_id, 300)
    rows = await lab.pg.fetch(
        "SELECT partition, base_offset + n - 1 AS at, e.event_id::text"
        "  FROM relay.delivery_ledger, unnest(outbox_ids) WITH ORDINALITY AS i (id, n)"
        "  JOIN relay.outbox e USING (id) WHERE replay_id = $1",
        replay_id,
    )
    copies = {(one.partition, one.offset): one.event_id for one in await lab.read()
              if "replay_id" in one.headers}  # fmt: skip
    assert {(row["partition"], row["at"]): row["event_id"] for row in rows} == copies
    assert len(copies) == 300


async def test_only_what_was_released_is_sent(lab: Any) -> None:
    await lab.fill(100)
    async with lab.relaying():
        await lab.until_published(100)
        replay_id = await start_job(lab, await ids(lab), released=7)
        await until_sent(lab, replay_id, 7)
        await lab.fill(200, start=100)
        await lab.until_published(200)
        copies = [one for one in await lab.read() if "replay_id" in one.headers]
        assert [one.body["seq"] for one in sorted(copies, key=lambda one: one.body["seq"])] == list(
            range(7)
        )
        await lab.pg.execute("UPDATE relay.replay_job SET state = 'paused', released_count = 100")
        await lab.fill(300, start=200)
        await lab.until_published(300)
        assert len([one for one in await lab.read() if "replay_id" in one.headers]) == 7
        await lab.pg.execute("UPDATE relay.replay_job SET state = 'running'")
        await until_sent(lab, replay_id, 100)


async def test_another_topic_is_no_publication(lab: Any, topics: Any) -> None:
    other = topics.create("orders.catchup", 2)
    await lab.fill(50)
    async with lab.relaying():
        await lab.until_published(50)
        replay_id = await start_job(lab, await ids(lab), topic=other)
        await until_sent(lab, replay_id, 50)
    assert {one.headers["replay_id"] for one in await lab.read(other)} == {replay_id}
    assert len(await lab.read(other)) == 50
    assert len(await lab.read()) == 50


async def test_a_topic_that_is_missing_stops_the_replay_and_nobody_else(lab: Any) -> None:
    await lab.fill(50)
    async with lab.relaying():
        await lab.until_published(50)
        replay_id = await start_job(lab, await ids(lab), topic="there.is.no.such.topic")

        async def paused() -> Any:
            return await lab.pg.fetchrow(
                "SELECT sent_count, trouble FROM relay.replay_job"
                " WHERE replay_id = $1 AND state = 'paused'",
                replay_id,
            )

        found = await lab.until(paused)
        assert found["sent_count"] == 0
        assert "there.is.no.such.topic" in found["trouble"]
        await lab.fill(100, start=50)
        await lab.until_published(100)


async def test_what_is_gone_or_waits_in_quarantine_is_refused(lab: Any) -> None:
    await lab.fill(10, orders=1)
    [parked] = await lab.place(["order-0"], "order.unmapped")
    [behind] = await lab.place(["order-0"])
    async with lab.relaying():

        async def held() -> bool:
            return len(await lab.quarantine()) == 2

        await lab.until(held)
        known = await ids(lab)
        replay_id = await start_job(lab, [*known[:10], parked, behind, 999_999_999])
        await until_sent(lab, replay_id, 13)
    assert await refused(lab, replay_id) == {
        parked: "parked",
        behind: "parked",
        999_999_999: "gone",
    }
    assert len([one for one in await lab.read() if "replay_id" in one.headers]) == 10


async def test_a_row_the_relay_has_not_come_to_is_not_sent_by_a_replay(lab: Any) -> None:
    await lab.fill(10)
    async with lab.relaying():
        await lab.until_published(10)
        # Written in a transaction that lies ahead: what a restored database holds.
        await lab.pg.execute(
            "INSERT INTO relay.outbox (txid, aggregate_type, aggregate_id, event_type, payload)"
            " VALUES ('999999999999', 'order', 'ahead', 'order.placed', '{}')"
        )
        known = await ids(lab)
        replay_id = await start_job(lab, known)
        await until_sent(lab, replay_id, 11)
        assert await refused(lab, replay_id) == {known[-1]: "not_published"}
    assert all(one.key != "ahead" for one in await lab.read())


async def test_a_record_that_the_other_topic_does_not_take_is_refused_alone(
    lab: Any, topics: Any
) -> None:
    small = topics.create("orders.small", 1, max_message_bytes="2000")
    await lab.fill(10)
    large = await lab.pg.fetchval(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
        " VALUES ('order', 'large', 'order.placed', to_json(repeat('x', 5000))) RETURNING id"
    )
    async with lab.relaying():
        await lab.until_published(11)
        replay_id = await start_job(lab, await ids(lab), topic=small)
        await until_sent(lab, replay_id, 11)
        assert await refused(lab, replay_id) == {large: "too_large"}
        # Its own topic takes it still.
        again = await start_job(lab, [large])
        await until_sent(lab, again, 1)
    assert len(await lab.read(small)) == 10
    assert [one.key for one in await lab.read() if "replay_id" in one.headers] == ["large"]
