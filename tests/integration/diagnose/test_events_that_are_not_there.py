"""Orders without an outbox row: who is accused, where foreign programs wrote, deleted, restored."""

import asyncio
import json
import re
import shlex
import uuid

import psycopg
import pytest

from tests.integration.diagnose.test_returns_set_aside import take

pytestmark = pytest.mark.timeout(180)

INSERT_ORDER = """
INSERT INTO orders (order_id, customer_id, items, total, currency)
VALUES (%s, 'c-2', '[{"sku": "tea", "quantity": 1, "price": "1.00"}]', 1, 'EUR')
"""
INSERT_EVENT = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ('order', %s, 'order.placed', %s)
"""
QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}


def in_a_savepoint(database: str, payload: str) -> str:
    """Write an order as Django's nested `atomic` does, and its event under another id."""
    order = str(uuid.uuid4())
    with psycopg.connect(database) as connection:
        connection.execute(INSERT_EVENT, (f"SHOP-{order[:8]}", payload.format(order=order)))
        with connection.transaction():
            connection.execute(INSERT_ORDER, (order,))
    return order


async def test_an_order_of_a_savepoint_whose_event_names_it_in_its_payload(wiring) -> None:
    order = in_a_savepoint(wiring.database, '{{"order_id": "{order}"}}')
    assert wiring.named([order]) == [("place", "no_outbox_row", "wrong_aggregate_id")]


async def test_an_event_that_may_be_the_orders_is_not_written_a_second_time(wiring) -> None:
    order = in_a_savepoint(wiring.database, '{{"total": "9.95"}}')
    await wiring.until_overdue([order])
    assert wiring.named([order]) == [("place", "unknown", "event_unclaimed")]
    done = wiring.command("--json", "replay", "--order", order, "--write-missing")
    assert '"missing": []' in done.stdout, done.stdout + done.stderr
    assert await wiring.pg.fetchval("SELECT count(*) FROM relay.outbox") == 1
    # Once somebody has compared, what the diagnosis prints does it.
    refused = json.loads(done.stdout)["skipped"]
    assert [one["reason"] for one in refused] == ["event_unclaimed"]
    wiring.relay(**QUICK), wiring.processor(), wiring.consumer(**QUICK)
    (found,) = wiring.diagnose(shlex.split(refused[0]["next"])[2:])
    planned = wiring.command(*shlex.split(found["next"][-1])[1:])
    (line,) = re.findall(r"^ next  (relay replay resume .*)$", planned.stdout, re.MULTILINE)
    assert wiring.command(*shlex.split(line)[1:]).returncode == 0
    await wiring.until_returned([order])


async def test_an_order_that_was_changed_since_is_known_by_its_time(wiring) -> None:
    order = in_a_savepoint(wiring.database, '{{"order_id": "{order}"}}')
    for _ in range(150):
        await wiring.pg.execute("SELECT pg_current_xact_id()")
    await wiring.place(130)
    await wiring.pg.execute("UPDATE orders SET version = 2 WHERE order_id = $1::text::uuid", order)
    assert wiring.named([order]) == [("place", "no_outbox_row", "wrong_aggregate_id")]


async def test_somebody_elses_event_accuses_the_writer_all_the_same(wiring) -> None:
    (deleted,) = await wiring.place()
    await wiring.insert_event(
        f"GONE-{deleted[:8]}", "order.placed", f'{{"n": "GONE-{deleted[:8]}"}}'
    )
    (bypassed,) = [str(uuid.uuid4())]
    await wiring.insert_these([bypassed])
    assert wiring.named([bypassed]) == [("place", "no_outbox_row", "outbox_bypassed")]


async def test_an_order_whose_transaction_has_not_ended_was_not_never_committed(wiring) -> None:
    """Two-phase commit that nobody decided, and a writer that has been in its transaction long."""
    await wiring.place()
    prepared, written, neither = (str(uuid.uuid4()) for _ in range(3))
    name = f"shop-{wiring.topics.suffix}"
    observer = await wiring.login_as("relay_observer")
    undecided = [("place", "unknown", "write_undecided")]
    with psycopg.connect(wiring.database, autocommit=True) as other:
        other.execute("BEGIN")
        other.execute(INSERT_ORDER, (prepared,))
        other.execute(INSERT_EVENT, (prepared, "{}"))
        other.execute(f"PREPARE TRANSACTION '{name}'")
        try:
            with psycopg.connect(wiring.database) as writer:
                writer.execute(INSERT_ORDER, (written,))
                writer.execute(INSERT_EVENT, (written, "{}"))
                await wiring.eventually(lambda: wiring.named([prepared]) == undecided, 60)
                await wiring.place()
                # Who may not see others' sessions sees their locks.
                await wiring.eventually(
                    lambda: wiring.named([written], DATABASE_URL=observer) == undecided, 60
                )
                said = wiring.command("diagnose", written).stdout
                assert name in said, said
                assert f"pid {writer.info.backend_pid}" in said, said
                writer.rollback()
        finally:
            other.execute(f"COMMIT PREPARED '{name}'")
    assert wiring.named([prepared]) == [("publish", "not_published", "relay_down")]
    never = [("place", "no_such_order", "never_committed")]
    assert wiring.named([written]) == wiring.named([neither]) == never


async def test_ids_that_rollbacks_left_are_no_deletions(wiring) -> None:
    await wiring.place()
    with psycopg.connect(wiring.database) as connection:
        connection.execute(INSERT_EVENT, ("x", "{}"))
        connection.rollback()
    (order,) = [str(uuid.uuid4())]
    await wiring.insert_these([order])
    await wiring.place()
    assert wiring.named([order]) == [("place", "no_outbox_row", "outbox_bypassed")]


async def test_a_row_that_was_deleted_after_it_was_published(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    orders = await wiring.place(3)
    await wiring.until_published(orders)
    lost = orders[1]
    with psycopg.connect(wiring.database, autocommit=True) as connection:
        connection.execute("DELETE FROM relay.outbox WHERE aggregate_id = %s", (lost,))
    wiring.processor("--lose-order", lost)
    await wiring.until_passed(wiring.group, wiring.events)
    await wiring.until_returned([orders[0], orders[2]])

    async def overdue() -> bool:  # counted from its publication, which is all that is left of it
        return wiring.named([lost])[0][1] != "in_flight"

    await wiring.eventually(overdue, 20)
    assert wiring.named([lost]) == [("return", "no_return", "return_never_sent")]
    (found,) = wiring.diagnose([lost])
    (command,) = found["next"]
    assert command.startswith("relay replay --")
    assert command.endswith(" --write-missing")


async def test_a_return_that_waits_is_found_though_nothing_says_that_its_event_was_sent(wiring):
    """The row is deleted, and the record went with its topic: the return clears hops 1 to 4."""
    wiring.relay(**QUICK), wiring.processor()
    (order,) = await wiring.place()
    await wiring.until_published([order])
    await wiring.until_passed(wiring.group, wiring.events)
    with psycopg.connect(wiring.database, autocommit=True) as connection:
        connection.execute("DELETE FROM relay.outbox WHERE aggregate_id = %s", (order,))
    await asyncio.to_thread(wiring.topics.recreate, wiring.events, 3)
    await wiring.until_overdue([order])
    assert wiring.named([order]) == [("confirm", "not_confirmed", "consumer_down")]


@pytest.mark.parametrize("which", [1, 2], ids=["between others", "the newest"])
async def test_a_row_that_was_deleted_before_it_was_published(wiring, which) -> None:
    orders = await wiring.place(3)
    lost = orders[which]
    with psycopg.connect(wiring.database, autocommit=True) as connection:
        connection.execute("DELETE FROM relay.outbox WHERE aggregate_id = %s", (lost,))

    async def counted() -> bool:  # the statistics come after the deletion, in every release
        return bool(
            await wiring.pg.fetchval(
                """SELECT sum(pg_stat_get_tuples_deleted(inhrelid)) > 0
                     FROM pg_inherits WHERE inhparent = 'relay.outbox'::regclass"""
            )
        )

    await wiring.eventually(counted, 20)
    await wiring.until_overdue([lost])
    assert wiring.named([lost]) == [("place", "no_outbox_row", "event_deleted")]


async def test_a_trigger_is_not_blamed_for_orders_from_before_it_was_disabled(wiring) -> None:
    await wiring.pg.execute(
        """CREATE FUNCTION public.to_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
               INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
               VALUES ('order', NEW.order_id::text, 'order.placed', '{}');
               RETURN NEW;
           END $$;
           CREATE TRIGGER to_outbox AFTER INSERT ON public.orders
               FOR EACH ROW EXECUTE FUNCTION public.to_outbox()"""
    )
    replica, fine, off = (str(uuid.uuid4()) for _ in range(3))
    await wiring.pg.execute("SET session_replication_role = replica")
    await wiring.insert_these([replica])
    await wiring.pg.execute("RESET session_replication_role")
    await wiring.insert_these([fine])
    await wiring.pg.execute("ALTER TABLE public.orders DISABLE TRIGGER to_outbox")
    await wiring.insert_these([off])
    assert wiring.named([replica, off]) == [
        ("place", "no_outbox_row", "outbox_bypassed"),
        ("place", "no_outbox_row", "trigger_disabled"),
    ]


async def test_order_and_event_were_lost_in_a_restore(wiring) -> None:
    wiring.relay(**QUICK)
    (order,) = await wiring.place()
    await wiring.until_published([order])
    with psycopg.connect(wiring.database, autocommit=True) as connection:
        connection.execute("DELETE FROM orders WHERE order_id = %s", (order,))
        connection.execute("DELETE FROM relay.outbox WHERE aggregate_id = %s", (order,))
    never = str(uuid.uuid4())
    assert wiring.named([order, never]) == [
        ("place", "no_such_order", "rows_lost"),
        ("place", "no_such_order", "never_committed"),
    ]


async def test_a_ledger_that_lost_rows_accuses_no_checkpoint(wiring) -> None:
    wiring.relay(**QUICK)
    lost = await wiring.place(3)
    await wiring.until_published(lost)
    await asyncio.to_thread(take, wiring, 3)
    await wiring.place(2)
    await wiring.pg.execute("DELETE FROM relay.delivery_ledger WHERE outbox_ids && $1", [1, 2])
    await wiring.until_overdue(lost)
    assert {one[:2] for one in wiring.named(lost)} == {("return", "no_return")}
    wiring.topics.delete(wiring.events)
    found = wiring.diagnose(lost[:1])[0]
    assert (found["hop"], found["verdict"]) == ("publish", "unknown")
    assert "is not there" in str(found["evidence"])


async def test_rows_of_others_that_were_deleted_are_not_this_orders(wiring) -> None:
    wiring.relay(**QUICK)
    before = await wiring.place(2)
    bypassed = str(uuid.uuid4())
    await wiring.insert_these([bypassed])
    after = await wiring.place(2)
    await wiring.until_published([*before, *after])
    await wiring.pg.execute("DELETE FROM relay.outbox")
    await wiring.place(1)
    assert wiring.named([bypassed]) == [("place", "no_outbox_row", "outbox_bypassed")]


async def test_an_event_that_its_writer_sent_past_the_outbox(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    (other,) = await wiring.place()
    named, unnamed, never = (str(uuid.uuid4()) for _ in range(3))
    await wiring.insert_these([named, unnamed, never])
    wiring.send(wiring.events, named, b"{}", ce_id=str(uuid.uuid4()), ce_type="order.placed")
    wiring.send(wiring.events, unnamed, b"{}", ce_id="R-17")
    # Another aggregate's record of the same key is not the order's.
    wiring.send(wiring.events, never, b"{}", ce_id=str(uuid.uuid4()), ce_type="customer.renamed")
    await wiring.until_published([other])
    wiring.processor("--lose-order", named, "--lose-order", unnamed, "--lose-order", never)
    await wiring.until_passed(wiring.group, wiring.events)
    await wiring.until_overdue([named, unnamed, never])

    async def overdue() -> bool:  # counted from its record, which is all that there is of it
        return wiring.named([named])[0][1] != "in_flight"

    await wiring.eventually(overdue, 20)
    found = wiring.named([named, unnamed, never])
    assert [one[:2] for one in found] == [
        ("return", "no_return"),
        ("place", "unknown"),
        ("place", "no_outbox_row"),
    ]
    assert [one[2] for one in found[1:]] == ["event_unclaimed", "outbox_bypassed"]


async def test_an_event_of_lost_rows_is_known_by_its_own_id(wiring) -> None:
    wiring.relay(**QUICK)
    (order,) = await wiring.place()
    await wiring.until_published([order])
    event = await wiring.pg.fetchval("SELECT event_id::text FROM relay.outbox")
    with psycopg.connect(wiring.database, autocommit=True) as connection:
        connection.execute("DELETE FROM orders WHERE order_id = %s", (order,))
        connection.execute("DELETE FROM relay.outbox WHERE aggregate_id = %s", (order,))
    assert wiring.named([event]) == [("place", "no_such_order", "rows_lost")]
