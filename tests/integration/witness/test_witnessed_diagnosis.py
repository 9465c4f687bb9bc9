"""What is said of an order without a record, where somebody else publishes."""

from typing import Any

from relay.diagnose.causes import Cause
from relay.diagnose.check.publisher import check_publisher
from relay.diagnose.session import session
from relay.diagnose.status.reading import read_status
from relay.diagnose.verdicts import Verdict
from relay.publish.ownership.lease import DUTY

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
    # The slot is made anew, behind the row's commit: what it confirms proves that it was skipped.
    await lab.pg.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)

    async def skipped() -> bool:
        return await diagnosed(lab, lost) == (Verdict.NOT_PUBLISHED, Cause.PUBLISHER_SKIPPED)

    try:
        await lab.until(skipped)
        results = {
            one.name.partition(":")[0]: one for one in await check_publisher(lab.pg, lab.flow)
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
