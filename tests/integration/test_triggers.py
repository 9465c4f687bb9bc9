"""The printed triggers: whatever a shop does in a transaction, order and event go together."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from relay.diagnose.check.database_facts import gather_database
from relay.diagnose.check.database_rules import judge_database
from relay.runtime.database import connect

RelayCommand = Callable[..., subprocess.CompletedProcess[str]]

SHOP = """
    CREATE TABLE public.orders (id bigint PRIMARY KEY, state text NOT NULL DEFAULT 'new',
                                total numeric(12, 2), at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE public.lines (order_id bigint NOT NULL, sku text NOT NULL);
    CREATE FUNCTION public.order_event(order_id text) RETURNS jsonb LANGUAGE sql STABLE AS $$
        SELECT jsonb_build_object('id', o.id, 'total', o.total::text, 'lines',
                   (SELECT jsonb_agg(l.sku ORDER BY l.sku) FROM public.lines l
                     WHERE l.order_id = o.id))
          FROM public.orders o WHERE o.id = order_id::bigint AND o.total >= 0 $$;
"""
SETTINGS = """
    [flow.orders]
    initial_status = "new"
    [flow.orders.status_ranks]
    new = 0
    done = 1
    [flow.orders.columns]
    table = "public.orders"
    key_column = "id"
    key_type = "bigint"
    status_column = "state"
    submitted_at_column = "at"
"""


@pytest.fixture
def shop(empty_database: str, relay_command: RelayCommand, tmp_path: Path):
    """A connection to a shop with the schema, and a way to print its triggers."""
    settings = tmp_path / "relay.toml"
    settings.write_text(SETTINGS)
    env = {"DATABASE_URL": empty_database, "RELAY_CONFIG": str(settings)}
    assert relay_command("migrate", env=env).returncode == 0
    with psycopg.connect(empty_database) as connection:
        connection.execute(SHOP)
        connection.commit()
        yield connection, lambda *arguments: relay_command("trigger", *arguments, env=env)


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def outbox(connection: psycopg.Connection) -> list[tuple]:
    connection.commit()
    rows = connection.execute(
        "SELECT aggregate_id, event_type, payload FROM relay.outbox ORDER BY id"
    ).fetchall()
    connection.commit()
    return rows


def test_an_order_has_its_event_however_it_is_written(shop) -> None:
    connection, trigger = shop
    connection.execute(printed(trigger(
        "orders", "--payload", "public.order_event", "--on-status", "done=order.done"
    )))  # fmt: skip
    connection.commit()
    # Lines that come after the order are in its payload.
    connection.execute("INSERT INTO orders (id, total) VALUES (1, 9.90)")
    connection.execute("INSERT INTO lines VALUES (1, 'tea'), (1, 'cup')")
    # Rolled back to a savepoint, and deleted again: these two never were.
    connection.execute("SAVEPOINT s; INSERT INTO orders (id, total) VALUES (2, 1)")
    connection.execute("ROLLBACK TO s; INSERT INTO orders (id, total) VALUES (3, 1)")
    connection.execute("DELETE FROM orders WHERE id = 3")
    # Within a savepoint that is released, and changed before the commit.
    connection.execute("SAVEPOINT t; INSERT INTO orders (id, total) VALUES (4, 1); RELEASE t")
    connection.execute("UPDATE orders SET total = 2 WHERE id = 4")
    assert outbox(connection) == [
        ("1", "order.placed", {"id": 1, "total": "9.90", "lines": ["cup", "tea"]}),
        ("4", "order.placed", {"id": 4, "total": "2.00", "lines": None}),
    ]
    connection.execute("INSERT INTO orders (id, total) VALUES (5, 1)")
    connection.rollback()
    connection.execute("INSERT INTO orders (id, total) SELECT g, 1 FROM generate_series(10, 209) g")
    connection.execute("INSERT INTO orders (id, total) VALUES (1, 5) ON CONFLICT DO NOTHING")
    connection.execute("UPDATE orders SET state = 'done' WHERE id IN (1, 10)")
    connection.execute("UPDATE orders SET state = 'done' WHERE id = 1")  # it was already
    rows = outbox(connection)[2:]
    assert [row[0] for row in rows if row[1] == "order.placed"] == [*map(str, range(10, 210))]
    assert sorted(row[0] for row in rows if row[1] == "order.done") == ["1", "10"]


def test_an_order_without_a_payload_is_not_placed(shop) -> None:
    connection, trigger = shop
    connection.execute(printed(trigger("orders", "--payload", "public.order_event")))
    connection.commit()
    connection.execute("INSERT INTO orders (id, total) VALUES (1, -1)")
    with pytest.raises(psycopg.errors.RaiseException, match="order 1: its payload function"):
        connection.commit()
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM orders").fetchone() == (0,)


async def test_a_trigger_that_is_switched_off_is_found(shop, empty_database: str) -> None:
    connection, trigger = shop
    connection.execute(
        "CREATE TABLE public.outbox (id uuid, aggregatetype text, aggregateid text, type text,"
        " payload jsonb)"
    )
    connection.commit()
    connection.execute(printed(trigger("orders", "--payload", "public.order_event")))
    connection.execute(printed(trigger("mirror", "public.outbox")))
    connection.execute("ALTER TABLE orders DISABLE TRIGGER USER")
    connection.execute("ALTER TABLE outbox DISABLE TRIGGER USER")
    connection.commit()
    own = await connect(empty_database, "test")
    try:
        facts = await gather_database(own, ("relay.outbox", "public.orders"))
    finally:
        await own.close()
    assert {one.name: one.state for one in judge_database(facts) if "disabled" in one.found} == {
        "orders.trigger:public.orders.orders_placed_to_outbox": "failed",
        "orders.trigger:public.outbox.outbox_to_relay": "failed",
    }


@pytest.mark.parametrize("payload", ["jsonb", "json", "text", "bytea", "varchar(99)"])
def test_an_outbox_of_debeziums_shape_is_copied_though_its_rows_are_deleted(shop, payload) -> None:
    connection, trigger = shop
    connection.execute(
        f'CREATE TABLE public."Outbox" (id uuid PRIMARY KEY, "aggregateType" varchar(255),'
        f" aggregateid bigint, kind text, payload {payload})"
    )
    connection.commit()
    without = trigger("mirror", 'public."Outbox"')
    assert (without.returncode, "--column aggregatetype=" in without.stderr) == (1, True)
    connection.execute(printed(trigger(
        "mirror", 'public."Outbox"', "--column", "aggregatetype=aggregateType", "--column",
        "type=kind",
    )))  # fmt: skip
    connection.commit()
    event_id = "0191e3c0-7f5e-7bd1-a6b0-3a1d0f6f9a52"
    connection.execute(
        "INSERT INTO \"Outbox\" VALUES (%s, 'order', 7, 'order.placed', %s)",
        (event_id, '{"a": 1}' if payload != "bytea" else b'{"a": 1}'),
    )
    connection.execute('DELETE FROM "Outbox"')
    connection.execute(
        "INSERT INTO \"Outbox\" VALUES (gen_random_uuid(), 'order', 7, 'gone', NULL)"
    )
    assert outbox(connection) == [("7", "order.placed", {"a": 1}), ("7", "gone", None)]
    found = connection.execute("SELECT event_id::text FROM relay.outbox ORDER BY id").fetchone()
    assert found == (event_id,)


def test_an_outbox_of_bytes_is_copied_byte_for_byte_once_it_is_said_what_they_are(shop) -> None:
    connection, trigger = shop
    connection.execute(
        "CREATE SCHEMA avro; CREATE TABLE avro.outbox (id uuid PRIMARY KEY DEFAULT"
        " gen_random_uuid(), aggregatetype text, aggregateid text, type text, payload bytea)"
    )
    add = "INSERT INTO avro.outbox (aggregatetype, aggregateid, type, payload) VALUES"
    framed = b"\x00\x00\x00\x00\x07{'\xff"
    connection.execute(f"{add} ('order', '1', 'order.placed', %s)", (framed,))
    connection.commit()
    unsaid = trigger("mirror", "avro.outbox")
    assert (unsaid.returncode, "--content-type" in unsaid.stderr) == (1, True)
    odd = trigger("mirror", "avro.outbox", "--content-type", "it's")
    assert (odd.returncode, "application/avro" in odd.stderr) == (1, True)
    avro = "application/vnd.confluent.avro"
    connection.execute(printed(trigger("mirror", "avro.outbox", "--content-type", avro)))
    connection.commit()
    connection.execute(f"{add} ('order', '2', 'order.placed', %s)", (framed,))
    connection.execute(f"{add} ('order', '3', 'gone', NULL)")
    connection.execute("DELETE FROM avro.outbox")
    rows = connection.execute(
        "SELECT payload_bytes, payload::text, content_type FROM relay.outbox ORDER BY id"
    ).fetchall()
    assert rows == [(framed, None, avro), (None, "null", avro)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["orders"], "payload"),
        (["orders", "--payload", "public.lines"], "no function public.lines(text)"),
        (["orders", "--payload", 'a "b'], "no function"),
        (["orders", "--payload", "public.order_event", "--no-placed"], "neither"),
        (["orders", "--payload-column", "id", "--on-status", "done"], "NAME=VALUE"),
        (["mirror", "public.nothing"], "no table public.nothing"),
        (["mirror", "relay.outbox"], "the relay's own"),
        (["mirror", "public.lines", "--column", "typ=x"], "the names are"),
        (
            ["mirror", "public.lines", "--content-type", "application/avro"]
            + [
                word
                for name in ("aggregatetype", "aggregateid", "type", "payload")
                for word in ("--column", f"{name}=sku")
            ],
            "is text",
        ),
    ],
)
def test_what_cannot_be_is_named(shop, arguments, says) -> None:
    done = shop[1](*arguments)
    assert done.returncode in {1, 2, 3}
    assert says in done.stderr
