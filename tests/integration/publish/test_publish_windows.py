"""What a window is for: nobody's open transaction delays others, and no row is read for ever."""

from typing import Any

import asyncpg

ROWS_AHEAD = """
INSERT INTO relay.outbox (txid, aggregate_type, aggregate_id, event_type, payload)
VALUES ('999999999999', 'order', 'ahead', 'order.placed', '{}')
"""


async def test_a_foreign_transaction_that_stays_open_delays_nobody(lab: Any) -> None:
    foreign = await asyncpg.connect(lab.dsn)
    transaction = foreign.transaction()
    await transaction.start()
    await foreign.execute("SELECT pg_current_xact_id()")
    lab.relay()
    await lab.fill(200)
    # It is still open: whoever waits for it waits for ever.
    await lab.until_published(200, 10)
    await transaction.rollback()
    await foreign.close()
    await lab.assert_published(200)


async def test_what_its_transaction_wrote_early_and_commits_late_is_not_skipped(lab: Any) -> None:
    late = await asyncpg.connect(lab.dsn)
    transaction = late.transaction()
    await transaction.start()
    # The lowest ids of all, committed after everybody else's were published.
    for number in range(3):
        await late.execute(
            "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
            " VALUES ('order', 'late', 'order.placed', json_build_object('seq', $1::int))",
            number,
        )
    lab.relay()
    await lab.fill(200)
    await lab.until_published(200, 10)
    await transaction.commit()
    await late.close()
    await lab.until_published(203, 10)
    records = [one.body["seq"] for one in await lab.read() if one.key == "late"]
    assert records == [0, 1, 2]


async def test_an_order_keeps_its_order_whatever_its_transactions_numbers_are(lab: Any) -> None:
    late = await asyncpg.connect(lab.dsn)
    transaction = late.transaction()
    await transaction.start()
    await late.execute("SELECT pg_current_xact_id()")  # the lower number, for the later event
    await lab.fill(1, orders=1)
    await late.execute(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
        " VALUES ('order', 'order-0', 'order.placed', json_build_object('seq', 1))"
    )
    await transaction.commit()
    await late.close()
    lab.relay()
    await lab.until_published(2, 10)
    assert [one.body["seq"] for one in await lab.read()] == [0, 1]


async def test_a_row_of_a_transaction_yet_to_come_is_not_read_at_every_poll(lab: Any) -> None:
    """A restored dump holds such rows: `relay rebaseline` publishes them, the window never does."""
    running = lab.relay()
    await lab.fill(50)
    await lab.until_published(50, 10)
    # Afterwards: a relay that finds one when it takes over refuses to run.
    await lab.pg.execute(ROWS_AHEAD)
    await lab.fill(100, start=50)
    await lab.until_published(100, 10)
    reads = running.service.progress.reads
    await lab.until(lambda: running.service.progress.reads > reads + 20)
    assert running.service.progress.published == 100
    assert all(one.key != "ahead" for one in await lab.read())
