"""`relay status` on a real database and broker: what waits where, cheap however much is kept."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import asyncpg
from confluent_kafka import Consumer, Producer, TopicPartition

from relay.diagnose.status.counts import COUNTED, read_counts
from relay.diagnose.status.evidence import Waiting
from relay.runtime.database import connect
from relay.runtime.flow import Flow, Observe
from relay.runtime.process import ProcessRecord

RelayCommand = Callable[..., subprocess.CompletedProcess[str]]

ROWS = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'order', 'none', 'order.placed', '{}' FROM generate_series(1, $1::int)
"""
ORDER = """
WITH placed AS (
    INSERT INTO public.orders (order_id, customer_id, items, total, currency, submitted_at)
    VALUES (gen_random_uuid(), 'c', '[]', 1, 'EUR', clock_timestamp()) RETURNING order_id)
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'order', order_id::text, 'order.placed', '{}' FROM placed WHERE $1
"""


async def publish(pg: asyncpg.Connection) -> Waiting:
    found = (await read_counts(pg, Flow())).publish
    assert isinstance(found, Waiting)
    return found


async def test_rows_to_publish_between_windows(pg: asyncpg.Connection, database: str) -> None:
    assert await publish(pg) == Waiting(0)
    await pg.execute(ROWS, 3)
    other = await asyncpg.connect(database)
    transaction = other.transaction()
    await transaction.start()
    await other.execute(ROWS, 2)
    assert (await publish(pg)).count == 3
    # The checkpoint passes the three; the open transaction is in progress in it.
    await pg.execute("UPDATE relay.checkpoint SET prev = pg_current_snapshot()")
    await pg.execute(ROWS, 1)
    await transaction.commit()
    await other.close()
    found = await publish(pg)
    assert found.count == 3
    assert found.oldest_at == await pg.fetchval(
        "SELECT min(created_at) FROM relay.outbox, relay.checkpoint"
        " WHERE NOT pg_visible_in_snapshot(txid, prev)"
    )


async def test_rows_to_publish_inside_a_window(pg: asyncpg.Connection) -> None:
    await pg.execute(ROWS, 10)
    await pg.execute(
        "UPDATE relay.checkpoint SET cur = pg_current_snapshot(),"
        " last_id = (SELECT min(id) + 5 FROM relay.outbox)"
    )
    assert (await publish(pg)).count == 4
    await pg.execute(ROWS, 2)
    assert (await publish(pg)).count == 6


async def test_a_backlog_beyond_counting_is_estimated_in_a_moment(pg: asyncpg.Connection) -> None:
    rows = 3 * COUNTED
    await pg.execute(ROWS, rows)
    found = await publish(pg)
    assert not found.exact
    assert abs(found.count - rows) <= rows * 0.01


async def test_orders_without_their_event_and_open_orders(pg: asyncpg.Connection) -> None:
    await pg.executemany(ORDER, [(True,), (True,), (False,)])
    counts = await read_counts(pg, Flow())
    assert isinstance(counts.open_orders, Waiting)
    assert isinstance(counts.without_event, Waiting)
    assert (counts.open_orders.count, counts.without_event.count) == (3, 1)
    await pg.execute("UPDATE public.orders SET status = 'confirmed'")
    counts = await read_counts(pg, Flow())
    assert counts.open_orders == Waiting(0)
    assert (await read_counts(pg, Flow(apply=Observe()))).open_orders is None


async def test_orders_from_before_we_watched_do_not_count(pg: asyncpg.Connection) -> None:
    await pg.execute(ORDER, True)
    await pg.execute("UPDATE relay.installation SET watched_since = clock_timestamp()")
    assert (await read_counts(pg, Flow())).open_orders == Waiting(0)


async def test_the_observer_may_read_all_of_it(pg: asyncpg.Connection) -> None:
    await pg.execute(ORDER, True)
    await pg.execute("SET ROLE relay_observer")
    counts = await read_counts(pg, Flow())
    assert isinstance(counts.publish, Waiting)
    assert isinstance(counts.open_orders, Waiting)
    assert counts.held == {}
    assert isinstance(counts.processes, tuple)
    assert isinstance(counts.rates, dict)


async def test_a_part_that_may_not_be_read_leaves_the_others(pg: asyncpg.Connection) -> None:
    await pg.execute("REVOKE SELECT ON relay.quarantine_summary FROM relay_observer")
    await pg.execute("SET ROLE relay_observer")
    counts = await read_counts(pg, Flow())
    assert not isinstance(counts.held, dict)
    assert counts.publish == Waiting(0)


async def test_rates_are_of_the_last_minute(pg: asyncpg.Connection) -> None:
    await pg.execute(ROWS, 120)
    await pg.execute(
        "INSERT INTO relay.delivery_ledger (epoch, topic, partition, base_offset, record_count,"
        " outbox_ids, id_range, published_at) SELECT 1, 'orders.events', 0, 0, 60,"
        " array_agg(n), '[1,60]', at FROM generate_series(1, 60) n,"
        " (VALUES (clock_timestamp()), (clock_timestamp() - interval '2 minutes')) v (at)"
        " GROUP BY at"
    )
    rates = (await read_counts(pg, Flow())).rates
    assert rates == {"place": 2.0, "publish": 1.0, "confirm": 0.0}


async def test_canaries_are_in_no_rate_and_in_no_queue(pg: asyncpg.Connection) -> None:
    await pg.execute(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
        " SELECT t, 'c', t, '{}' FROM unnest(ARRAY['relay.probe', 'relay.canary']) AS t,"
        " generate_series(1, 30)"
    )
    await pg.execute(
        "INSERT INTO relay.delivery_ledger (epoch, topic, partition, base_offset, record_count,"
        " outbox_ids, id_range) SELECT 1, 'orders.events', 0, 0, 90, array_agg(n), '[1,90]'"
        " FROM generate_series(1, 90) n"
    )
    await pg.execute(
        "INSERT INTO relay.probe_run (probe_id, aggregate_id, topic)"
        " SELECT gen_random_uuid(), n, 'orders.events' FROM generate_series(1, 30) n"
    )
    counts = await read_counts(pg, Flow())
    assert counts.rates == {"place": 0.0, "publish": 1.0, "confirm": 0.0}
    assert counts.publish == Waiting(0)


async def test_how_it_stands_as_json(
    pg: asyncpg.Connection, topics: Any, kafka_bootstrap: str, relay_command: RelayCommand
) -> None:
    events = topics.create("orders.events", partitions=2)
    returns = topics.create("orders.returns", partitions=2)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    for number in range(5):
        producer.produce(events, value=b"{}", partition=number % 2)
        producer.produce(returns, value=b"{}", partition=number % 2)
    producer.flush(20)
    group = f"processor.{topics.suffix}"
    consumer = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": group})
    consumer.commit(offsets=[TopicPartition(events, 0, 2)], asynchronous=False)
    consumer.close()
    await pg.execute(
        "INSERT INTO relay.consumer_offset (consumer_group, topic, partition, next_offset)"
        " VALUES ('order-confirmation', $1, 0, 3)",
        returns,
    )
    await pg.execute(ORDER, True)
    process = ProcessRecord("confirm")
    await process.heartbeat(pg, {"state": "active"})

    shown = relay_command(
        "status",
        "--json",
        env={
            "RELAY_FLOW_EVENTS_TOPIC": events,
            "RELAY_FLOW_RETURNS_TOPIC": returns,
            "RELAY_FLOW_PROCESSOR_GROUPS": group,
        },
    )
    assert shown.returncode == 0
    found = json.loads(shown.stdout)
    hops = found["hops"]
    assert {name: hop["waiting"] for name, hop in hops.items()} == {
        "place": 0,
        "publish": 1,
        "process": 3,
        "return": 0,
        "confirm": 2,
    }
    for name in ("publish", "process", "confirm"):
        assert 0 <= hops[name]["oldest_age_seconds"] < 120
    assert hops["process"]["run_by"] == (
        f"group {group}: a reader that assigns its partitions itself, in no group"
    )
    assert (hops["confirm"]["healthy"], hops["publish"]["healthy"]) == (True, False)
    (seen,) = found["processes"]
    assert (seen["kind"], seen["alive"], seen["instance"]) == ("confirm", True, process.instance)
    assert found["next"] == ["relay check"]


def test_it_answers_with_everything_away(relay_command: RelayCommand) -> None:
    away = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    shown = relay_command("status", "--json", env=away)
    assert shown.returncode == 1
    found = json.loads(shown.stdout)
    assert [hop["waiting"] for hop in found["hops"].values()] == [None] * 5
    assert len(found["missing"]) == 2
    plain = relay_command("status", env=away)
    assert plain.returncode == 1
    assert "next: relay check" in plain.stdout


async def test_a_database_that_somebody_made_read_only_is_said_to_be_so(
    pg: asyncpg.Connection, database: str
) -> None:
    await pg.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on',"
        " current_database()); END $$"
    )
    connection = await connect(database, "relay-test", require_primary=False)
    assert (await read_counts(connection, Flow())).read_only
    assert not (await read_counts(pg, Flow())).read_only
    await connection.close()
