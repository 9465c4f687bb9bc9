"""What is said of an order without a record, where somebody else publishes."""

import asyncio
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Producer

from relay.diagnose.causes import Cause
from relay.diagnose.check.publisher import check_publisher
from relay.diagnose.session import session
from relay.diagnose.status.reading import read_status
from relay.diagnose.verdicts import Verdict
from relay.publish.ownership.lease import DUTY
from relay.repair.take_over import UnreadRecordsError, take_over
from tests.integration.witness.conftest import Lab

SEEN_AWAY = """
SELECT EXISTS (SELECT FROM relay.outage_record
                WHERE resource = 'publisher' AND kind = 'witness' AND failure_code = $1)
"""
OLD = "UPDATE relay.outbox SET created_at = created_at - interval '2 hours' WHERE id = $1"

ORDER = (
    "INSERT INTO public.orders (order_id, customer_id, items, total, currency, submitted_at)"
    " VALUES ($1::text::uuid, 'c', '[]', 1, 'EUR', now() - interval '2 hours')"
)


async def diagnosed(lab: Any, order: str) -> tuple[Verdict, Cause]:
    async with session(lab.dsn, lab.kafka, lab.flow) as opened:
        (found,) = await opened.diagnose([order])
    return found.verdict, found.cause


async def test_nobody_is_blamed_before_all_is_read_and_the_slot_proves_what_was_skipped(
    lab: Any,
) -> None:
    slot = f"slot_{lab.group.replace('-', '_')}"
    rows = await lab.fill(3)
    for row in rows:
        await lab.pg.execute(OLD, row[0])
        await lab.pg.execute(ORDER, row[2])
    await lab.pg.execute("UPDATE relay.installation SET watched_since = '2020-01-01'")
    lost = rows[2][2]
    witness = lab.witness(slot=slot)
    await lab.publish(rows[:2])
    await lab.until_entries(2)

    async def led() -> bool:
        return await lab.handed_over() == [row[0] for row in rows[:2]]

    await lab.until(led)
    assert await diagnosed(lab, lost) == (Verdict.NOT_PUBLISHED, Cause.SLOT_MISSING)
    await lab.until(lambda: lab.pg.fetchval(SEEN_AWAY, "publisher:slot_missing"))
    # The slot is made anew, behind the row's commit: what it confirms proves that it was skipped.
    await lab.pg.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)

    async def skipped() -> bool:
        return await diagnosed(lab, lost) == (Verdict.NOT_PUBLISHED, Cause.PUBLISHER_SKIPPED)

    try:
        await lab.until(skipped)
        results = {
            one.name.partition(":")[0]: one
            for one in await check_publisher(lab.pg, lab.kafka, lab.flow)
        }
        assert results["publisher.kind"].found.startswith("external")
        assert results["publisher.slot"].found == "nobody reads it"
        assert results["publisher.publication"].state == "failed"
        status = await read_status(lab.dsn, lab.kafka, lab.flow)
        publish = next(hop for hop in status.hops if hop.name == "publish")
        assert publish.waiting == 1
        assert f"slot {slot}" in publish.run_by
        assert f"nobody reads slot {slot}" in publish.note
        await lab.publish(rows[2:])
        await lab.until_entries(3)
        assert (await diagnosed(lab, lost))[1] not in (Cause.PUBLISHER_SKIPPED, Cause.RELAY_DOWN)
    finally:
        await lab.pg.execute("SELECT pg_drop_replication_slot($1)", slot)
    await witness.stop()
    await lab.pg.execute("UPDATE relay.lease SET expires_at = now() WHERE duty = $1", DUTY)
    # Without a witness nobody knows what was published since.
    late = await lab.fill(1)
    await lab.pg.execute(OLD, late[0][0])
    await lab.pg.execute(ORDER, late[0][2])
    await lab.pg.execute(
        "UPDATE relay.process_record SET heartbeat_at = heartbeat_at - interval '10 min'"
    )
    assert await diagnosed(lab, late[0][2]) == (Verdict.UNKNOWN, Cause.WITNESS_DOWN)


LOSE = """
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER lose BEFORE INSERT ON relay.delivery_ledger FOR EACH ROW EXECUTE FUNCTION lose();
"""
READ = """
SELECT coalesce(sum(next_offset), 0)::int FROM relay.consumer_offset WHERE consumer_group = $1
"""


@pytest.mark.parametrize("header", ["id", "ce_id"])
async def test_what_stands_on_kafka_was_published_whatever_the_ledger_has_lost(
    lab: Any, header: str
) -> None:
    kept, lost = await lab.fill(2)
    for row in (kept, lost):
        await lab.pg.execute(OLD, row[0])
        await lab.pg.execute(ORDER, row[2])
    await lab.pg.execute("UPDATE relay.installation SET watched_since = '2020-01-01'")
    lab.witness()
    await lab.publish([kept], header)
    await lab.until_entries(1)
    await lab.pg.execute(LOSE)
    await lab.publish([lost], header)

    async def read() -> bool:
        return bool(await lab.pg.fetchval(READ, lab.group) == 2)

    await lab.until(read)
    assert len(await lab.entries()) == 1
    # Nobody processes anything here: of both alike.
    found = await diagnosed(lab, kept[2])
    assert found[0] != Verdict.NOT_PUBLISHED
    assert await diagnosed(lab, lost[2]) == found


async def test_a_record_whose_transaction_was_aborted_is_no_publication(lab: Any) -> None:
    (lost,) = await lab.fill(1)
    await lab.pg.execute(OLD, lost[0])
    await lab.pg.execute(ORDER, lost[2])
    await lab.pg.execute("UPDATE relay.installation SET watched_since = '2020-01-01'")
    lab.witness()
    atomic = Producer(
        {"bootstrap.servers": lab.bootstrap_servers, "transactional.id": f"t-{lab.topic}"}
    )

    def abort() -> None:
        atomic.init_transactions(60)
        atomic.begin_transaction()
        atomic.produce(lab.topic, b"{}", "k", 0, headers=[("id", lost[1].encode())])
        assert atomic.flush(30) == 0
        atomic.abort_transaction(60)

    await asyncio.to_thread(abort)
    lab.send([], partition=0)  # behind it: the witness has come past both
    await lab.sent()

    async def read() -> bool:
        return bool(await lab.pg.fetchval(READ, lab.group) == 3)  # and the marker

    await lab.until(read)
    assert (await diagnosed(lab, lost[2]))[0] == Verdict.NOT_PUBLISHED


async def test_a_publisher_that_never_rests_is_judged_and_a_topic_made_anew_is_unread(
    lab: Any, topics: Any
) -> None:
    slot = f"slot_{lab.group.replace('-', '_')}"
    (lost,) = await lab.fill(1)
    await lab.pg.execute(OLD, lost[0])
    await lab.pg.execute(ORDER, lost[2])
    await lab.pg.execute("UPDATE relay.installation SET watched_since = '2020-01-01'")
    await lab.pg.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
    witness = lab.witness(slot=slot)
    resting = asyncio.Event()
    beside = await asyncpg.connect(lab.dsn)
    other = Lab(lab.dsn, beside, lab.bootstrap_servers, lab.topic, lab.tracing)

    async def publishes() -> None:
        while not resting.is_set():
            await other.publish(await other.fill(3))

    publishing = asyncio.create_task(publishes())
    try:
        # Something is always on its way; what was sent before the slot was looked at is not.
        await lab.until_some_entries()
        await lab.until(lambda: lab.pg.fetchval("SELECT EXISTS (SELECT FROM relay.wal_mark)"))
        await lab.pg.execute(
            "SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())", slot
        )
        said = [await diagnosed(lab, lost[2]) for _ in range(3)]
        assert said == [(Verdict.NOT_PUBLISHED, Cause.PUBLISHER_SKIPPED)] * 3
    finally:
        resting.set()
        await publishing
        await beside.close()
        await lab.pg.execute("SELECT pg_drop_replication_slot($1)", slot)
    rows = await lab.pg.fetchval("SELECT count(*) FROM relay.outbox")
    await lab.until_entries(rows - 1)
    await witness.stop()
    # Fewer records than the old topic had: the position says nothing of them.
    await asyncio.to_thread(topics.recreate, lab.topic)
    await lab.publish([lost])
    with pytest.raises(UnreadRecordsError):
        await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody")
    again = lab.witness()
    await lab.until_entries(rows)
    await again.stop()
    done = await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody")
    assert done is not None
    assert done.unproven == 0


async def test_what_an_open_transaction_hides_is_not_read(lab: Any) -> None:
    rows = await lab.fill(2)
    witness = lab.witness()
    await lab.publish(rows[:1])
    await lab.until_entries(1)
    hanging = Producer(
        {"bootstrap.servers": lab.bootstrap_servers, "transactional.id": lab.group,
         "transaction.timeout.ms": 60_000}
    )  # fmt: skip
    await asyncio.to_thread(hanging.init_transactions, 30)
    hanging.begin_transaction()
    for partition in range(3):
        hanging.produce(lab.topic, value=b"{}", partition=partition)
    assert await asyncio.to_thread(hanging.flush, 30) == 0
    # Behind it stands a record that nobody is given yet.
    await lab.publish(rows[1:])
    await witness.stop()
    with pytest.raises(UnreadRecordsError):
        await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody")
    await asyncio.to_thread(hanging.abort_transaction, 30)
    again = lab.witness()
    await lab.until_entries(2)
    await again.stop()
    assert await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody") is not None
