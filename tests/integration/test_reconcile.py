"""`relay reconcile` proves, or lists: rows, records and statuses made by the real services."""

import json
import uuid
from dataclasses import replace

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from relay.diagnose.reconcile.findings import Difference
from relay.diagnose.reconcile.open_cases import OpenCases
from relay.diagnose.reconcile.reconciliation import Range, reconcile
from relay.runtime.flow import EventRoute, Flow
from relay.runtime.kafka_connection import KafkaConnection

ORDERS = 50
PLACE = """
WITH placed AS (
    INSERT INTO orders (order_id, customer_id, items, total, currency)
    SELECT gen_random_uuid(), 'ada', '[]', 1, 'EUR' FROM generate_series(1, $1::int)
    RETURNING order_id)
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'order', order_id::text, 'order.placed', '{}' FROM placed RETURNING aggregate_id
"""


@pytest.fixture
def flow(topics):
    events, returns = topics.create("orders.events"), topics.create("orders.returns")
    return Flow(
        events={"order.placed": EventRoute(events, 900.0)},
        events_topic=events,
        returns_topic=returns,
        confirm_group=f"confirm-{topics.suffix}",
    )


@pytest.fixture
def services(flow):
    return {
        "RELAY_FLOW_EVENTS_TOPIC": flow.events_topic,
        "RELAY_FLOW_RETURNS_TOPIC": flow.returns_topic,
        "RELAY_FLOW_CONFIRM_GROUP": flow.confirm_group,
        "RELAY_METRICS_ENABLED": "false",
    }


@pytest.fixture
def produce(kafka_bootstrap):
    producer = Producer({"bootstrap.servers": kafka_bootstrap})

    def send(topic, key, value, headers=None, partition=None):
        where = {} if partition is None else {"partition": partition}
        producer.produce(topic, key=key, value=value, headers=headers or [], **where)
        assert producer.flush(10) == 0

    return send


@pytest.fixture
async def returned(pg, database, flow, services, produce, relay_process, eventually):
    """Fifty orders that went the whole way, and the services stopped again."""
    running = [relay_process(name, env=services) for name in ("run", "confirm")]
    orders = [row["aggregate_id"] for row in await pg.fetch(PLACE, ORDERS)]

    async def published():
        return await pg.fetchval("SELECT sum(record_count) FROM relay.delivery_ledger") == ORDERS

    await eventually(published, 30)
    for order in orders:
        produce(flow.returns_topic, order, '{"status": "confirmed"}')

    async def confirmed():
        return await pg.fetchval("SELECT count(*) FROM orders WHERE status = 'confirmed'") == ORDERS

    await eventually(confirmed, 30)
    assert [process.terminate() for process in running] == [0, 0]
    return orders


@pytest.fixture
def compare(database, kafka_bootstrap, flow):
    async def run(within=None, flow=flow):
        return await reconcile(database, KafkaConnection(kafka_bootstrap), flow, within or Range())

    return run


async def test_a_whole_night_in_order_is_proven(returned, compare):
    done = await compare()
    assert done.proven
    assert done.tally.counts == {
        "rows whose record is there": ORDERS,
        "returns decided on": ORDERS,
        "terminal statuses with their return": ORDERS,
    }


async def test_each_difference_is_listed(returned, compare, pg, flow, produce):
    # A failover took a row back: its record is a ghost.
    ghost = str(uuid.uuid4())
    produce(flow.events_topic, "ghost", "{}", [("ce_id", ghost)])
    # Somebody moved the checkpoint past a row that was never sent.
    lost = await pg.fetchval(PLACE, 1)
    await pg.execute("UPDATE relay.checkpoint SET prev = pg_current_snapshot()")
    # Two rows with one event_id.
    twin = await pg.fetchval("SELECT event_id FROM relay.outbox WHERE aggregate_id = $1", lost)
    await pg.execute(
        "INSERT INTO relay.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)"
        " VALUES ($1, 'order', 'twin', 'order.placed', '{}')",
        twin,
    )
    # A return that the consumer skipped.
    produce(flow.returns_topic, lost, '{"status": "confirmed"}', partition=0)
    await pg.execute("UPDATE relay.consumer_offset SET next_offset = 1000")
    # A status set by hand.
    by_hand = await pg.fetchval(
        "INSERT INTO orders (order_id, customer_id, items, total, currency, status)"
        " VALUES (gen_random_uuid(), 'bob', '[]', 1, 'EUR', 'rejected') RETURNING order_id::text"
    )
    done = await compare()
    found = {(f.difference, f.subject) for f in done.tally.findings}
    assert found == {
        (Difference.RECORD_WITHOUT_ROW, "ghost"),
        (Difference.RECORD_MISSING, lost),
        (Difference.DUPLICATE_EVENT_ID, lost),
        (Difference.RETURN_WITHOUT_STATUS, lost),
        (Difference.STATUS_WITHOUT_RETURN, by_hand),
        (Difference.ORDER_GONE, "twin"),
    }


async def test_a_record_sent_twice_or_with_an_unknown_offset_is_proven(
    returned, compare, pg, flow, produce
):
    row = await pg.fetchrow("SELECT event_id::text, aggregate_id FROM relay.outbox LIMIT 1")
    produce(flow.events_topic, row["aggregate_id"], "{}", [("ce_id", row["event_id"])])
    await pg.execute("UPDATE relay.delivery_ledger SET base_offset = NULL WHERE partition = 0")
    done = await compare()
    assert done.proven
    assert done.tally.counts["rows whose record is there"] == ORDERS
    assert done.tally.counts["records sent more than once"] == 1


async def test_rows_not_handed_over_wait_and_parked_ones_are_counted(returned, compare, pg):
    parked = await pg.fetchval(PLACE, 1)
    await pg.execute(PLACE, 1)
    await pg.execute(
        "INSERT INTO relay.quarantine (kind, reason, aggregate_id, outbox_id)"
        " SELECT 'event', 'too_large', aggregate_id, id FROM relay.outbox WHERE aggregate_id = $1",
        parked,
    )
    done = await compare()
    assert done.tally.clean
    assert not done.proven
    assert done.open_cases == {"events in quarantine": OpenCases(1, (parked,))}
    assert done.tally.counts["rows waiting for the relay"] == 1
    assert done.tally.counts["rows parked"] == 1


async def test_what_is_open_is_listed_and_an_overwritten_status_is_found(
    returned, compare, pg, services, relay_command
):
    await pg.execute(
        "INSERT INTO relay.quarantine (kind, reason, topic, partition, record_offset)"
        " VALUES ('return', 'malformed', 'orders.returns', 0, 1)"
    )
    done = await compare()
    assert done.tally.clean
    assert (done.proven, done.open_cases) == (
        False,
        {"refused returns in quarantine": OpenCases(1)},
    )
    said = relay_command("reconcile", env=services)
    assert said.returncode == 3
    assert said.stdout.startswith("OPEN: ")
    await pg.execute(
        "UPDATE orders SET status = 'submitted' WHERE order_id = $1::text::uuid", returned[0]
    )
    done = await compare()
    assert done.tally.found == {Difference.STATUS_OVERWRITTEN: 1}


async def test_rows_that_somebody_deleted_are_no_rows_outside_of_the_range(returned, compare, pg):
    """The first and the last of all, too: what is left of the ids says nothing of its ends."""
    gone = {returned[0], returned[20], returned[-1]}
    await pg.execute("DELETE FROM relay.outbox WHERE aggregate_id = ANY ($1)", list(gone))
    done = await compare()
    assert not done.proven
    assert {(one.difference, one.subject) for one in done.tally.findings} == {
        (Difference.RECORD_WITHOUT_ROW, order) for order in gone
    }
    assert all("was deleted" in one.detail for one in done.tally.findings)
    # A day that maintenance dropped took its rows along as it should.
    await pg.execute(
        """INSERT INTO relay.dropped_partition (partition_name, from_at, to_at, row_count)
           VALUES ('outbox_today', now() - interval '1 day', now() + interval '1 day', 3)"""
    )
    done = await compare()
    assert done.proven
    assert done.tally.counts["records of rows whose day was dropped"] == len(gone)


async def test_a_return_that_waits_for_an_order_without_a_row_is_found(
    returned, compare, pg, flow, produce
):
    order = returned[3]
    await pg.execute("DELETE FROM relay.inbox WHERE aggregate_id = $1", order)
    await pg.execute("DELETE FROM orders WHERE order_id = $1::uuid", order)
    produce(flow.returns_topic, order, '{"status": "confirmed"}')
    done = await compare()
    assert not done.proven
    assert done.tally.counts["returns waiting for the consumer"] == 1
    assert (Difference.ORDER_GONE, order) in {
        (one.difference, one.subject) for one in done.tally.findings
    }


async def test_an_order_whose_row_was_deleted_before_any_return_came_is_found(
    returned, compare, pg
):
    """Whatever the spelling of its event: and not where somebody has closed it."""
    lost, loud, closed = returned[3], returned[4], returned[5]
    await pg.execute("DELETE FROM relay.inbox WHERE aggregate_id = ANY ($1)", [lost, loud, closed])
    await pg.execute("DELETE FROM orders WHERE order_id = ANY ($1::text[]::uuid[])", [lost, closed])
    await pg.execute(
        "UPDATE relay.outbox SET aggregate_id = upper(aggregate_id) WHERE aggregate_id = ANY ($1)",
        [lost, loud],
    )
    await pg.execute(
        """INSERT INTO relay.overdue (aggregate_id, event_id, event_type, placed_at, deadline_at,
                                      hop, verdict, cause, closed_at, closed_as, closed_by,
                                      closed_why)
           VALUES ($1, 'e', 'order.placed', now(), now(), 'return', 'no_return',
                   'return_never_sent', now(),
                   'closed', 'ana', 'refunded')""",
        closed,
    )
    done = await compare()
    assert not done.proven
    gone = [one for one in done.tally.findings if one.difference is Difference.ORDER_GONE]
    assert [one.subject for one in gone] == [lost]


async def test_records_past_retention_are_not_called_proven_or_lost(
    returned, compare, pg, flow, topics
):
    ends = await pg.fetch(
        "SELECT partition, max(base_offset + record_count) AS top FROM relay.delivery_ledger"
        " GROUP BY partition"
    )
    admin = AdminClient({"bootstrap.servers": topics.bootstrap_servers})
    cuts = [TopicPartition(flow.events_topic, row["partition"], row["top"]) for row in ends]
    for future in admin.delete_records(cuts).values():
        future.result(10)
    done = await compare()
    assert done.proven
    assert done.tally.counts["rows past the topic's retention (cannot be proven)"] == ORDERS


async def test_a_recreated_topic_has_lost_its_records(returned, compare, flow, topics):
    topics.delete(flow.events_topic)
    done = await compare(flow=replace(flow, events={"order.placed": EventRoute("gone", 900.0)}))
    assert done.tally.found == {Difference.RECORD_MISSING: ORDERS}


async def test_a_range_of_ids_or_of_time_looks_at_no_more(returned, compare, pg):
    first = await pg.fetchval("SELECT min(id) FROM relay.outbox")
    done = await compare(Range(first_id=first, last_id=first + 9))
    assert done.proven
    assert done.tally.counts["rows whose record is there"] == 10
    middle = await pg.fetchval("SELECT created_at FROM relay.outbox ORDER BY id OFFSET 20 LIMIT 1")
    done = await compare(Range(since=middle))
    assert done.proven
    assert done.tally.counts["rows whose record is there"] == await pg.fetchval(
        "SELECT count(*) FROM relay.outbox WHERE created_at >= $1", middle
    )


def test_the_command_prints_its_proof(returned, services, relay_command):
    done = relay_command("reconcile", env=services)
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        f"PROVEN: {ORDERS} rows have their record, {ORDERS} returns were decided on, "
        f"{ORDERS} terminal statuses have their return; nothing is open",
    )
    assert json.loads(relay_command("reconcile", "--json", env=services).stdout)["proven"] is True
