"""Whatever id a person has in hand leads to the order, or nobody says that there is none."""

import json
import uuid

import pytest

pytestmark = pytest.mark.timeout(180)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
LOOKUP = {
    "RELAY_FLOW_COLUMNS": json.dumps(
        {"table": "public.orders", "lookup_columns": ["order_number", "customer_id"]}
    )
}
RETURN = """
INSERT INTO relay.inbox (event_id, aggregate_id, causation_id, status, outcome, content_hash,
                         consumer_group, topic, partition, record_offset, recorded_at)
VALUES ('/fulfilment/eu/R-77', $1, $2, 'processing', 'applied', '', $3, $4, 0, 7, now())
"""
REFUSED = """
INSERT INTO relay.quarantine (kind, reason, aggregate_id, event_id, consumer_group, topic,
                              partition, record_offset, record_value)
VALUES ('return', 'conflict', $1, 'R-99', $2, $3, 0, 9, 'x') RETURNING quarantine_id::text
"""


@pytest.fixture
async def shop(wiring):
    await wiring.pg.execute("ALTER TABLE orders ADD order_number text")
    await wiring.pg.execute("CREATE INDEX ON orders (order_number)")
    await wiring.pg.execute("CREATE INDEX ON orders (customer_id)")
    wiring.environment |= LOOKUP
    return wiring


async def numbered(shop, order, number):
    await shop.pg.execute(
        "UPDATE orders SET order_number = $2 WHERE order_id = $1::text::uuid", order, number
    )


def led_to(shop, given, **env):
    return [(one["order_id"], one["found_as"]) for one in shop.diagnose([given], **env)]


async def test_a_customers_order_number(shop) -> None:
    order, other = await shop.place(2)
    await numbered(shop, order, "A-17")
    assert led_to(shop, "A-17") == [(order, "order_number")]
    (found,) = shop.diagnose(["A-17"])
    assert found["asked"] == "A-17"
    done = shop.command("diagnose", "A-17")
    assert f"A-17 is order_number: order {order}" in done.stdout
    assert order in shop.command("trace", "A-17").stdout
    await numbered(shop, other, "A-17")
    assert {one for one, _ in led_to(shop, "A-17")} == {order, other}
    assert shop.command("diagnose", "A-17").stdout.count("(A-17 is order_number)") == 2
    assert shop.command("trace", "A-17").returncode == 2
    assert {one for one, _ in led_to(shop, "c-1")} == {order, other}
    assert led_to(shop, order) == [(order, None)]


async def test_ids_of_events_traces_returns_and_of_what_is_in_quarantine(shop) -> None:
    (order,) = await shop.place()
    row = await shop.pg.fetchrow("SELECT id, event_id::text FROM relay.outbox")
    await shop.pg.execute(RETURN, order, row["event_id"], shop.confirm_group, shop.returns)
    held = await shop.pg.fetchval(REFUSED, order, shop.confirm_group, shop.returns)
    (traced,) = [str(uuid.uuid4())]
    await shop.insert_these([traced])
    await shop.pg.execute(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, traceparent)"
        " VALUES ('order', $1, 'order.placed', '{}', $2)",
        traced,
        f"00-{TRACE}-00f067aa0ba902b7-01",
    )
    for given, what in {
        row["event_id"]: "event id",
        row["event_id"].upper(): "event id",
        row["event_id"].replace("-", ""): "event id",
        str(row["id"]): "outbox id",
        "R-77": "id of a return",
        "/fulfilment/eu/R-77": "id of a return",
        "R-99": "id of what is in quarantine or overdue",
    }.items():
        assert led_to(shop, given) == [(order, what)], given
    if held != str(row["id"]):
        assert led_to(shop, held) == [(order, "id of what is in quarantine or overdue")]
    assert led_to(shop, TRACE.upper()) == [(traced, "trace id")]
    assert led_to(shop, TRACE) == [(traced, "trace id")]


async def test_the_place_of_a_record(shop) -> None:
    first, second = await shop.place(2)
    row = await shop.pg.fetchval("SELECT id FROM relay.outbox WHERE aggregate_id = $1", second)
    await shop.pg.execute(
        "INSERT INTO relay.delivery_ledger (epoch, topic, partition, base_offset, record_count,"
        " outbox_ids, id_range) VALUES (1, $1, 2, 40, 3, ARRAY[0, $2, 0], int8range(0, 9, '[]'))",
        shop.events, row,
    )  # fmt: skip
    event = await shop.pg.fetchval(
        "SELECT event_id::text FROM relay.outbox WHERE aggregate_id = $1", first
    )
    await shop.pg.execute(RETURN, first, event, shop.confirm_group, shop.returns)
    await shop.pg.fetchval(REFUSED, first, shop.confirm_group, shop.returns)
    assert led_to(shop, f"{shop.events}[2]@41") == [(second, "place of a record")]
    assert led_to(shop, f"{shop.returns}[0]@7") == [(first, "place of a return")]
    assert led_to(shop, f"{shop.returns}[0]@9") == [(first, "place of a record")]
    for nowhere in (f"{shop.events}[2]@43", f"{shop.events}[1]@41", f"{shop.returns}[0]@8"):
        (found,) = shop.diagnose([nowhere])
        assert (found["verdict"], found["cause"]) == ("unknown", "not_an_order"), nowhere


async def test_another_aggregates_id_is_no_lost_order(shop) -> None:
    customer, never = str(uuid.uuid4()), str(uuid.uuid4())
    event = await shop.pg.fetchval(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
        " VALUES ('customer', $1, 'customer.renamed', '{}') RETURNING event_id::text",
        customer,
    )
    unknown = ("place", "unknown", "not_an_order")
    assert shop.named([customer, event, never]) == [
        unknown,
        unknown,
        ("place", "no_such_order", "never_committed"),
    ]
    (found, _) = shop.diagnose([customer, event])
    assert any("aggregate of type customer" in one["found"] for one in found["evidence"])
    done = shop.command("close", customer, "--reason", "x")
    assert done.returncode == 3


async def test_an_orders_id_that_is_anothers_number(shop) -> None:
    await shop.pg.execute(
        "CREATE TABLE shop_orders (id bigint PRIMARY KEY, number bigint,"
        " status text DEFAULT 'submitted', at timestamptz DEFAULT now())"
    )
    await shop.pg.execute("INSERT INTO shop_orders VALUES (17, 900), (18, 17)")
    columns = {"table": "public.shop_orders", "key_column": "id", "key_type": "bigint"}
    columns |= {"submitted_at_column": "at", "lookup_columns": ["number"]}
    env = {"RELAY_FLOW_COLUMNS": json.dumps(columns)}
    assert led_to(shop, "17", **env) == [("17", None), ("18", "number")]
    assert led_to(shop, "0900", **env) == [("17", "number")]
    assert shop.named(["5"], **env) == [("place", "no_such_order", "never_committed")]


async def test_what_may_not_be_looked_at_is_said(shop) -> None:
    never = str(uuid.uuid4())
    reader = await shop.login_as("relay_observer")
    await shop.pg.execute("GRANT SELECT (order_id, status, submitted_at) ON orders TO public")
    (found,) = shop.diagnose([never], DATABASE_URL=reader)
    assert (found["verdict"], found["cause"]) == ("unknown", "permission_denied")


async def test_the_check_names_columns_that_have_no_index(shop) -> None:
    def checked(column):
        wanted = {"RELAY_FLOW_COLUMNS": json.dumps({"lookup_columns": [column]})}
        done = shop.command("--json", "check", **wanted)
        checks = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
        return checks["orders.lookup_columns"]["state"]

    states = [checked(one) for one in ("order_number", "traceparent", "items", "nowhere")]
    assert states == ["ok", "warning", "failed", "failed"]


async def test_many_numbers_together_leave_none_out(shop) -> None:
    many, number = await shop.place(101), "A-1"
    first, *_ = await shop.place(1)
    for order in many:
        await shop.pg.execute(
            "UPDATE orders SET customer_id = 'c-9' WHERE order_id::text = $1", order
        )
    await shop.pg.execute(
        "UPDATE orders SET submitted_at = now() - interval '1 h' WHERE order_id::text = $1", first
    )
    await numbered(shop, first, number)
    asked = {one["asked"]: one["order_id"] for one in shop.diagnose(["c-9", number])}
    assert asked[number] == first
