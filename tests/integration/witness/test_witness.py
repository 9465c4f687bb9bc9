"""A witness accounts for every record once, and the checkpoint follows what is proven."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from relay.publish.maintenance.partition_days import keep_partitions
from relay.publish.options import PublishOptions
from relay.publish.service import RelayService
from relay.repair.adoption import adopt
from relay.repair.take_over import TooMuchUnprovenError, UnreadRecordsError, take_over
from relay.runtime.publisher_record import ExternalPublisherError, PublisherActiveError
from relay.witness.ledger import LateRows


def places(entries: list[asyncpg.Record]) -> set[tuple[int, int]]:
    return {(one["partition"], one["record_offset"]) for one in entries}


async def unmatched(lab: Any) -> list[str]:
    rows = await lab.pg.fetch("SELECT reason FROM relay.unmatched_record ORDER BY 1")
    return [row["reason"] for row in rows]


async def test_each_record_is_proof_once_and_the_checkpoint_leaves_out_what_has_none(
    lab: Any,
) -> None:
    rows = await lab.fill(40)
    lost, sent = rows[7], rows[:7] + rows[8:]
    await lab.publish(sent[:20])
    await lab.publish(sent[20:], header="ce_id", quoted=True)
    await lab.publish(sent[:3])  # a publisher that crashed sends again
    lab.send([])
    lab.send([("id", b"order-7")])
    lab.send([("id", b"01890a5d-ac96-774b-bcce-b302099a8057")])
    lab.send([("ce_id", sent[0][1].encode()), ("relay_epoch", b"9"), ("replay_id", b"x")])
    await lab.sent()
    witness = lab.witness()
    entries = await lab.until_entries(42)
    assert len(places(entries)) == 42
    assert {one["id"] for one in entries} == {one[0] for one in sent}
    assert await unmatched(lab) == ["no_id", "no_id", "no_row"]
    proven = [one[0] for one in sent]

    async def followed() -> bool:
        return bool(await lab.handed_over() == proven)

    await lab.until(followed)
    # A record of a row whose commit becomes visible later is matched then.
    late = await lab.pg.fetchrow(
        "INSERT INTO relay.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)"
        " VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 'order', 'late', 'order.placed', '{}')"
        " RETURNING id"
    )
    await lab.until_entries(43)
    assert await unmatched(lab) == ["no_id", "no_id"]
    proven.append(late["id"])
    await lab.until(followed)
    await witness.stop()
    assert lost[0] not in await lab.handed_over()


async def test_records_whose_rows_never_come_keep_no_other_waiting(lab: Any) -> None:
    await lab.pg.execute(
        "INSERT INTO relay.unmatched_record (topic, partition, record_offset, event_id,"
        " recorded_at, reason, retry_until)"
        " SELECT $1, 0, n, gen_random_uuid(), now(), 'no_row', now() + '1 hour'"
        " FROM generate_series(1, 5) AS n",
        lab.topic,
    )
    await lab.pg.execute(
        "INSERT INTO relay.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)"
        " SELECT event_id, 'order', 'late', 'order.placed', '{}' FROM relay.unmatched_record"
        " WHERE record_offset = 5"
    )
    late_rows = LateRows(lab.topic, limit=2)
    assert [await late_rows.match(lab.pg) for _ in range(3)] == [0, 0, 1]
    (entry,) = await lab.pg.fetch("SELECT topic, base_offset FROM relay.delivery_ledger")
    assert tuple(entry) == (lab.topic, 5)
    assert [await late_rows.match(lab.pg) for _ in range(4)] == [0, 0, 0, 0]
    assert len(await unmatched(lab)) == 4


async def test_a_record_whose_day_was_dropped_is_not_waited_for(lab: Any) -> None:
    noon = datetime.now(UTC).replace(hour=12, minute=0) - timedelta(days=5)
    await lab.pg.execute("SELECT relay.create_partition($1)", noon.date())
    old = await lab.pg.fetchval(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, created_at)"
        " VALUES ('order', 'old', 'order.placed', '{}', $1) RETURNING event_id::text",
        noon,
    )
    await lab.pg.execute("UPDATE relay.checkpoint SET prev = pg_current_snapshot()")
    report = await keep_partitions(lab.pg, days_ahead=1, keep_days=2, attempts=5)
    assert len(report.dropped) == 1
    # The day's own record comes again (a publisher that was set back); others name no row at all.
    at = int(noon.timestamp() * 1000)
    lab.send([("id", old.encode())], timestamp=at)
    lab.send([("id", str(uuid.uuid4()).encode())], timestamp=at + 1)
    lab.send([("id", str(uuid.uuid4()).encode())])
    await lab.sent()
    witness = lab.witness()
    await lab.until(lambda: lab.pg.fetchval("SELECT count(*) = 3 FROM relay.unmatched_record"))
    aside = await lab.pg.fetch(
        "SELECT reason, retry_until IS NOT NULL AS waited_for, event_id::text = $1 AS is_old"
        " FROM relay.unmatched_record ORDER BY recorded_at",
        old,
    )
    assert [tuple(row) for row in aside] == [
        ("row_dropped", False, True), ("row_dropped", False, False), ("no_row", True, False),
    ]  # fmt: skip
    assert witness.service.report.counts == {"row_dropped": 2, "no_row": 1}
    assert await lab.entries() == []
    await witness.stop()


async def test_a_relay_is_refused_and_takes_over_exactly_what_has_no_record(lab: Any) -> None:
    rows = await lab.fill(12)
    await lab.publish(rows[:9])
    witness = lab.witness()
    await lab.until_entries(9)
    relay = RelayService(
        lab.dsn,
        lab.kafka,
        [lab.flow],
        PublishOptions(),
        lab.tracing,
        asyncio.Event(),
    )
    with pytest.raises(ExternalPublisherError):
        await relay.run()
    with pytest.raises(PublisherActiveError):
        await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody")
    await witness.stop()
    # The publisher was still at it: what nobody has read would be sent again.
    await lab.publish(rows[9:10])
    with pytest.raises(UnreadRecordsError):
        await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody")
    again = lab.witness()
    await lab.until_entries(10)
    await again.stop()
    # A checkpoint that cannot leave out all of them would send published rows again.
    with pytest.raises(TooMuchUnprovenError):
        await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody", most_unproven=1)
    done = await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody")
    assert done is not None
    assert done.unproven == 2
    assert await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody") is None
    relay = RelayService(
        lab.dsn,
        lab.kafka,
        [lab.flow],
        PublishOptions(),
        lab.tracing,
        asyncio.Event(),
    )
    task = asyncio.create_task(relay.run())
    entries = await lab.until_entries(12)
    assert {one["id"] for one in entries} == {one[0] for one in rows}
    relay.stop.set()
    await task
    assert relay.progress.published == 2
    assert [row["action"] for row in await lab.pg.fetch("SELECT action FROM relay.audit_log")] == [
        "publisher_changed", "publisher_changed",
    ]  # fmt: skip


async def test_witnesses_that_are_killed_and_a_topic_made_anew_lose_and_double_nothing(
    lab: Any, topics: Any
) -> None:
    rows = await lab.fill(300)
    first, second = lab.witness(), lab.witness()
    await lab.publish(rows[:150])

    async def some() -> bool:
        return len(await lab.entries()) > 0

    await lab.until(some)
    await first.kill()
    await lab.publish(rows[150:])
    entries = await lab.until_entries(300)
    assert len(places(entries)) == 300
    assert {one["id"] for one in entries} == {one[0] for one in rows}

    async def leads() -> bool:
        return bool(await lab.handed_over() == [one[0] for one in rows])

    await lab.until(leads)  # the other one has the lease by now
    await asyncio.to_thread(topics.recreate, lab.topic)
    more = await lab.fill(5)
    await lab.publish(more)
    entries = await lab.until_entries(305)
    assert {one["id"] for one in entries} == {one[0] for one in rows + more}
    gaps = await lab.pg.fetch("SELECT DISTINCT reason FROM relay.offset_gap")
    assert [row["reason"] for row in gaps] == ["topic_recreated"]
    await second.stop()


async def test_rows_older_than_the_topics_records_are_adopted(lab: Any) -> None:
    old = await lab.fill(6)
    newer = await lab.fill(4)
    await lab.publish(newer[:3])
    await lab.pg.execute(
        "UPDATE relay.outbox SET created_at = created_at - interval '1 day' WHERE id = ANY ($1)",
        [one[0] for one in old],
    )
    before = await lab.pg.fetchval("SELECT created_at FROM relay.outbox WHERE id = $1", newer[0][0])
    done = await adopt(lab.dsn, lab.kafka, [lab.flow], "somebody", before=before)
    assert done.rows == 6
    assert await lab.handed_over() == [one[0] for one in old]
    witness = lab.witness()
    await lab.until_entries(3)
    proven = [one[0] for one in old + newer[:3]]

    async def followed() -> bool:
        return bool(await lab.handed_over() == proven)

    await lab.until(followed)
    await witness.stop()
