"""Hop 5: what becomes of returns, on real PostgreSQL and Kafka."""

import asyncio
import json
import uuid
from dataclasses import replace

import asyncpg
import pytest

from relay.kafka.unreadable import PREFIX_BYTES
from relay.orders.catalog import FlowTableError, orders_table
from relay.runtime.database import connect
from relay.runtime.flow import ApplyColumns, ApplyFunction, Observe
from tests.patience import patience


async def test_a_return_is_applied_with_history_inbox_and_offset(lab):
    (order,) = await lab.place()
    lab.start()
    lab.send(order, reason="paid", headers={"ce_id": b"r-1", "ce_source": b"/processor"})
    lab.sent()
    await lab.until_confirmed(order)
    row = await lab.pg.fetchrow("SELECT * FROM orders WHERE order_id = $1", order)
    assert (row["version"], row["return_reason"]) == (2, "paid")
    assert row["returned_at"] is not None
    inbox = await lab.pg.fetchrow("SELECT * FROM relay.inbox")
    assert inbox["event_id"] == "/processor/r-1"
    assert (inbox["aggregate_id"], inbox["status"]) == (order, "confirmed")
    assert (inbox["old_status"], inbox["new_status"]) == ("submitted", "confirmed")
    assert (inbox["outcome"], inbox["consumer_group"]) == ("applied", lab.flow.confirm_group)
    history = await lab.pg.fetchrow("SELECT * FROM order_status_history")
    assert (str(history["order_id"]), history["event_id"]) == (order, "/processor/r-1")
    offset = await lab.pg.fetchrow("SELECT * FROM relay.consumer_offset WHERE next_offset > 0")
    assert offset["partition"] == inbox["partition"]
    assert offset["next_offset"] == inbox["record_offset"] + 1
    assert offset["last_record_offset"] == inbox["record_offset"]


async def test_a_foreign_return_needs_only_a_key_and_a_status(lab):
    (order,) = await lab.place()
    lab.raw(order.upper().encode(), b'{"status": "confirmed", "more": {"a": [1]}}')
    lab.sent()
    lab.start()
    await lab.until_confirmed(order)
    inbox = await lab.pg.fetchrow("SELECT * FROM relay.inbox")
    place = f"{lab.topic}-{inbox['partition']}-{inbox['record_offset']}"
    assert (inbox["event_id"], inbox["aggregate_id"]) == (place, order)


async def test_the_folded_batch_is_the_same_as_one_by_one(lab):
    orders = await lab.place(3)
    plans = {
        orders[0]: ["processing", "confirmed"],
        orders[1]: ["confirmed", "processing"],
        orders[2]: ["processing", "rejected", "confirmed", "rejected"],
    }
    for order, plan in plans.items():
        for status in plan:
            lab.send(order, status)
    lab.sent()
    lab.start()
    await lab.until_handled(8)
    assert await lab.statuses(orders) == ["confirmed", "confirmed", "rejected"]
    steps = {
        order: await lab.column(
            "SELECT new_status FROM order_status_history WHERE order_id = $1 ORDER BY history_id",
            order,
        )
        for order in orders
    }
    assert steps[orders[0]] == ["processing", "confirmed"]
    assert steps[orders[1]] == ["confirmed"]
    assert steps[orders[2]] == ["processing", "rejected"]
    versions = await lab.column("SELECT version FROM orders WHERE order_id = $1", orders[0])
    assert versions == [3]
    outcomes = await lab.column(
        "SELECT outcome FROM relay.inbox WHERE aggregate_id = $1 ORDER BY record_offset", orders[1]
    )
    assert outcomes == ["applied", "no_change"]
    refused = await lab.pg.fetchrow("SELECT * FROM relay.quarantine")
    assert (refused["reason"], refused["aggregate_id"]) == ("conflict", orders[2])


MALFORMED = [
    (b"", "no value"),
    (b"\xff\xfe\x00 not JSON", "not JSON"),
    (b'{"order_id": "%s", "status": "confirmed"', "not JSON"),
    (b'["%s", "confirmed"]', "a JSON object is needed"),
    (b'"confirmed"', "a JSON object is needed"),
    (b'{"order_id": "%s"}', "no status"),
    (b'{"order_id": "%s", "status": null}', "no status"),
    (b'{"order_id": "%s", "status": {"a": 1}}', "no status"),
    (b'{"order_id": "not a uuid", "status": "confirmed"}', "no order id"),
    (b'{"order_id": "a\\u0000b", "status": "confirmed"}', "no order id"),
    (b'{"order_id": {"a": "%s"}, "status": "confirmed"}', "no order id"),
    (b'{"order_id": 7, "status": "confirmed"}', "no order id"),
    (b'{"order_id": true, "status": "confirmed"}', "no order id"),
    (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "not JSON"),
    (b'{"status": "confirmed", "a": "' + b"x" * 70_000 + b'"}', "bytes"),
    (b'{"order_id": "%s", "status": NaN}', "not JSON"),
]


async def test_malformed_returns_are_quarantined_as_they_came_and_nobody_waits(lab):
    good = await lab.place(2)
    lab.send(good[0])
    sent = []
    for value, _ in MALFORMED:
        whole = value % good[0].encode() if b"%s" in value else value
        sent.append(whole)
        lab.raw(None, whole, partition=0, headers=[("ce_id", b"\xff"), ("h", None), ("h", b"2")])
    lab.send(good[1])
    lab.sent()
    lab.start(flow=replace(lab.flow, max_return_bytes=50_000))
    await lab.until_handled(len(MALFORMED) + 2)
    assert await lab.statuses(good) == ["confirmed", "confirmed"]
    rows = await lab.pg.fetch("SELECT * FROM relay.quarantine ORDER BY record_offset")
    kept = [row for row in rows if row["partition"] == 0]
    assert len(kept) == len(MALFORMED)
    for row, (_, detail), value in zip(kept, MALFORMED, sent, strict=True):
        assert (row["kind"], row["reason"], row["state"]) == ("return", "malformed", "held")
        assert detail in row["detail"]
        assert (row["record_value"] or b"") == value[:PREFIX_BYTES]
        assert row["kept"] == ("whole" if len(value) <= 50_000 else "part")
        assert row["whole_bytes"] in (None, len(value))
        assert row["record_key"] is None
        assert json.loads(row["record_headers"]) == [["ce_id", "/w=="], ["h", None], ["h", "Mg=="]]


async def test_unknown_status_unknown_order_and_a_status_without_rank(lab):
    known, cancelled = await lab.place(2)
    await lab.pg.execute("ALTER TABLE orders DROP CONSTRAINT orders_status_check")
    await lab.pg.execute("UPDATE orders SET status = 'cancelled' WHERE order_id = $1", cancelled)
    stranger = str(uuid.uuid4())
    lab.send(known, "shipped")
    lab.send(stranger)
    lab.send(cancelled)
    lab.sent()
    lab.start()
    await lab.until_handled(3)
    rows = await lab.pg.fetch("SELECT aggregate_id, reason, detail FROM relay.quarantine")
    found = {row["aggregate_id"]: (row["reason"], row["detail"]) for row in rows}
    assert found[known][0] == "unknown_status"
    assert "7 characters" in found[known][1]
    assert found[stranger][0] == "unknown_order"
    assert found[cancelled][0] == "conflict"
    assert await lab.statuses([known, cancelled]) == ["submitted", "cancelled"]


async def test_nothing_in_a_reason_or_header_stops_a_return(lab):
    orders = await lab.place(4)
    lab.send(orders[0], reason="a\u0000b\u001fc\u001ed")
    lab.send(orders[1], reason={"code": [1, {"deep": "x" * 5000}]})
    lab.send(orders[2], reason="", headers={"ce_id": b"x" * 5000, "traceparent": b"\x00\xff"})
    lab.send(orders[3], headers={"ce_id": b"a\x1fb", "ce_causationid": b"\x00"})
    lab.sent()
    lab.start()
    await lab.until_handled(4)
    assert await lab.statuses(orders) == ["confirmed"] * 4
    reasons = await lab.column("SELECT return_reason FROM orders WHERE order_id = $1", orders[0])
    assert reasons == ["a�b�c�d"]
    assert await lab.pg.fetchval("SELECT max(length(reason)) FROM relay.inbox") == 2000
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.inbox WHERE reason IS NULL") == 2
    places = await lab.column("SELECT event_id FROM relay.inbox")
    assert all(place.startswith(lab.topic) for place in places)


async def test_copies_are_handled_once_in_a_batch_and_across_batches(lab):
    first, second = await lab.place(2)
    headers = {"ce_id": b"r-1", "ce_source": b"/p"}
    value = json.dumps({"order_id": first, "status": "processing"}).encode()
    for _ in range(3):
        lab.send(first, value=value, headers=headers)
    lab.sent()
    running = lab.start()
    await lab.until_handled(3)
    for _ in range(3):
        lab.send(first, value=value, headers=headers)
    lab.send(second)
    lab.sent()
    await lab.until_handled(7)
    assert await lab.column("SELECT event_id FROM relay.inbox WHERE aggregate_id = $1", first) == [
        "/p/r-1"
    ]
    assert await lab.statuses([first, second]) == ["processing", "confirmed"]
    assert await lab.pg.fetchval("SELECT count(*) FROM order_status_history") == 2
    await running.stop()
    assert running.service.report.counts["copy"] == 5
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 0


async def test_one_identity_with_other_content_is_another_return(lab):
    orders = await lab.place(3)
    lab.start()
    for order in orders:
        lab.send(order, headers={"ce_id": b"always-the-same", "ce_source": b"/p"})
        lab.sent()
    await lab.until_handled(3)
    assert await lab.statuses(orders) == ["confirmed"] * 3
    names = await lab.column("SELECT event_id FROM relay.inbox")
    assert sum(name == "/p/always-the-same" for name in names) == 1
    places = await lab.column(
        "SELECT topic || '-' || partition || '-' || record_offset FROM relay.inbox"
    )
    assert len(set(names) & set(places)) == 2


async def test_a_copy_of_what_would_now_conflict_is_still_a_copy(lab):
    (order,) = await lab.place()
    headers = {"ce_id": b"r", "ce_source": b"/p"}
    value = json.dumps({"order_id": order, "status": "confirmed"}).encode()
    lab.send(order, value=value, headers=headers)
    lab.sent()
    lab.start()
    await lab.until_handled(1)
    await lab.pg.execute("UPDATE orders SET status = 'rejected' WHERE order_id = $1", order)
    lab.send(order, value=value, headers=headers)
    lab.sent()
    await lab.until_handled(2)
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 0
    assert await lab.statuses([order]) == ["rejected"]


async def test_a_locked_order_waits_alone_and_its_returns_stay_in_order(lab):
    locked, *others = await lab.place(50)
    blocker = await asyncpg.connect(lab.dsn)
    try:
        async with blocker.transaction():
            await blocker.execute("SELECT FROM orders WHERE order_id = $1 FOR UPDATE", locked)
            running = lab.start()
            for status in ("processing", "confirmed"):
                lab.send(locked, status, headers={"ce_id": status.encode(), "ce_source": b"/p"})
                for order in others:
                    lab.send(order, status)
                lab.sent()
                await lab.until_sql(
                    "SELECT count(*) = $1 FROM orders WHERE status = $2", len(others), status
                )
            await lab.until_sql("SELECT count(*) = 2 FROM relay.pending_return")
            await lab.until_sql("SELECT max(attempts) > 2 FROM relay.pending_return")
            assert running.service.report.waiting == 2
        await lab.until_confirmed(locked)
    finally:
        await blocker.close()
    assert await lab.column(
        "SELECT new_status FROM order_status_history WHERE order_id = $1 ORDER BY history_id",
        locked,
    ) == ["processing", "confirmed"]
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.pending_return") == 0
    inbox = await lab.pg.fetchrow("SELECT * FROM relay.inbox WHERE event_id = '/p/confirmed'")
    assert inbox["outcome"] == "applied"


async def test_a_later_return_waits_behind_an_earlier_one_though_its_order_is_free(lab):
    (order,) = await lab.place()
    # Not set from outside once it waits: a retry under way would set it again.
    await lab.pg.execute("""
        CREATE FUNCTION much_later() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN new.retry_at = now() + interval ''1 hour''; RETURN new; END';
        CREATE TRIGGER much_later BEFORE INSERT OR UPDATE ON relay.pending_return
            FOR EACH ROW EXECUTE FUNCTION much_later()""")
    blocker = await asyncpg.connect(lab.dsn)
    try:
        async with blocker.transaction():
            await blocker.execute("SELECT FROM orders WHERE order_id = $1 FOR UPDATE", order)
            lab.start()
            lab.send(order, "processing")
            lab.sent()
            await lab.until_sql("SELECT count(*) = 1 FROM relay.pending_return")
    finally:
        await blocker.close()
    lab.send(order, "confirmed")
    lab.sent()
    await lab.until_sql("SELECT count(*) = 2 FROM relay.pending_return")
    assert await lab.statuses([order]) == ["submitted"]
    await lab.pg.execute("DROP TRIGGER much_later ON relay.pending_return")
    await lab.pg.execute("UPDATE relay.pending_return SET retry_at = now()")
    await lab.until_confirmed(order)
    steps = await lab.column("SELECT new_status FROM order_status_history ORDER BY history_id")
    assert steps == ["processing", "confirmed"]


async def test_a_child_row_being_inserted_does_not_make_an_order_wait(lab):
    (order,) = await lab.place()
    await lab.pg.execute("CREATE TABLE line (order_id uuid NOT NULL REFERENCES orders (order_id))")
    writer = await asyncpg.connect(lab.dsn)
    try:
        async with writer.transaction():
            await writer.execute("INSERT INTO line VALUES ($1)", order)
            lab.send(order)
            lab.sent()
            lab.start()
            await lab.until_confirmed(order)
            assert await lab.pg.fetchval("SELECT count(*) FROM relay.pending_return") == 0
    finally:
        await writer.close()


async def test_a_released_return_is_decided_again(lab):
    order = str(uuid.uuid4())
    lab.send(order, headers={"ce_id": b"early", "ce_source": b"/p"})
    lab.sent()
    lab.start()
    await lab.until_sql("SELECT count(*) = 1 FROM relay.quarantine WHERE state = 'held'")
    release = "UPDATE relay.quarantine SET state = 'release_requested'"
    await lab.pg.execute(release)
    # Still unknown: it is held again, the same row.
    await lab.until_sql("SELECT seen_count = 2 FROM relay.quarantine WHERE state = 'held'")
    await lab.pg.execute(
        "INSERT INTO orders (order_id, customer_id, items, total, currency) "
        "VALUES ($1, 'c', '[]', 1, 'EUR')",
        order,
    )
    await lab.pg.execute(release)
    await lab.until_confirmed(order)
    row = await lab.pg.fetchrow("SELECT * FROM relay.quarantine")
    assert (row["state"], row["seen_count"]) == ("released", 2)
    assert await lab.column("SELECT event_id FROM relay.inbox") == ["/p/early"]


async def test_kafkas_committed_offset_follows_for_lag_tools(lab):
    orders = await lab.place(20)
    for order in orders:
        lab.send(order)
    lab.sent()
    running = lab.start()
    await lab.until_handled(20)
    await running.stop()
    assert await lab.committed() == await lab.offsets()


# ---------------------------------------------------------------------------- flows of other shapes


async def test_a_table_with_a_bigint_key_an_enum_and_names_that_need_quotes(lab):
    await lab.pg.execute(
        """
        CREATE SCHEMA "Shop 1";
        CREATE TYPE "Shop 1".state AS ENUM ('new', 'work', 'yes', 'no');
        CREATE TABLE "Shop 1"."a.b" (
            "No" bigint PRIMARY KEY, "select" "Shop 1".state NOT NULL DEFAULT 'new',
            made timestamptz NOT NULL DEFAULT now());
        INSERT INTO "Shop 1"."a.b" ("No") SELECT generate_series(1, 5);
        """
    )
    flow = replace(
        lab.flow,
        initial_status="new",
        status_ranks={"new": 0, "work": 1, "yes": 2, "no": 2},
        terminal_statuses=frozenset({"yes", "no"}),
        status_aliases={"ACCEPTED": "yes", "2": "no"},
        apply=ApplyColumns(
            table='"Shop 1"."a.b"',
            key_column="No",
            key_type="bigint",
            status_column="select",
            submitted_at_column="made",
        ),
    )
    lab.raw(b"1", b'{"status": "ACCEPTED"}')
    lab.raw(b"x", b'{"order_id": 2, "status": 2}')
    lab.raw(b"x", b'{"order_id": "0003", "status": "work"}')
    lab.raw(b"x", b'{"order_id": 99999999999999999999, "status": "work"}')
    lab.raw(b"x", b'{"order_id": 77, "status": "yes"}')
    lab.sent()
    lab.start(flow=flow)
    await lab.until_handled(5)
    rows = await lab.pg.fetch('SELECT "No", "select"::text FROM "Shop 1"."a.b"')
    assert dict(rows) == {1: "yes", 2: "no", 3: "work", 4: "new", 5: "new"}
    reasons = await lab.column("SELECT reason FROM relay.quarantine ORDER BY reason")
    assert reasons == ["malformed", "unknown_order"]


async def test_a_text_key_of_any_text(lab):
    await lab.pg.execute(
        "CREATE TABLE t (k varchar(200) PRIMARY KEY, s text DEFAULT 'submitted', "
        "submitted_at timestamptz DEFAULT now())"
    )
    keys = ["Ä'; DROP TABLE t; --", '{"a", NULL}', "NULL", "ord,er", " spaced ", "\\x41"]
    await lab.pg.execute("INSERT INTO t (k) SELECT unnest($1::text[])", keys)
    flow = replace(
        lab.flow,
        apply=ApplyColumns(table="t", key_column="k", key_type="text", status_column="s"),
    )
    for key in keys:
        lab.send(key)
    lab.sent()
    lab.start(flow=flow)
    await lab.until_handled(len(keys))
    assert await lab.column("SELECT DISTINCT s FROM t") == ["confirmed"]


FUNCTION = """
CREATE FUNCTION apply_return(order_id text, status text, reason text, return_id text, payload json)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    old text;
BEGIN
    SELECT o.status INTO old FROM orders o WHERE o.order_id = $1::uuid FOR UPDATE NOWAIT;
    IF payload ->> 'poison' IS NOT NULL THEN
        RAISE EXCEPTION 'poison %', payload ->> 'poison';
    END IF;
    IF array_position('{submitted,processing,confirmed}', old)
       < array_position('{submitted,processing,confirmed}', $2) THEN
        UPDATE orders o SET status = $2 WHERE o.order_id = $1::uuid;
    END IF;
    RETURN old;
END $$;
"""


async def test_returns_are_applied_by_a_function(lab):
    await lab.pg.execute(FUNCTION)
    orders = await lab.place(30)
    flow = replace(lab.flow, apply=ApplyFunction("apply_return"))
    blocker = await asyncpg.connect(lab.dsn)
    try:
        async with blocker.transaction():
            await blocker.execute("SELECT FROM orders WHERE order_id = $1 FOR UPDATE", orders[7])
            for order in orders:
                lab.send(order, "processing")
                if order == orders[3]:
                    lab.send(order, poison="yes")
                lab.send(order)
            lab.send(str(uuid.uuid4()))
            lab.sent()
            lab.start(flow=flow)
            await lab.until_handled(62)
            expected = ["confirmed"] * 30
            expected[7] = "submitted"
            assert await lab.statuses(orders) == expected
        await lab.until_confirmed(orders[7])
    finally:
        await blocker.close()
    reasons = await lab.pg.fetch("SELECT reason, detail FROM relay.quarantine ORDER BY reason")
    assert [row["reason"] for row in reasons] == ["apply_failed", "unknown_order"]
    assert "poison yes" in reasons[0]["detail"]
    steps = await lab.column(
        "SELECT new_status FROM relay.inbox WHERE aggregate_id = $1 ORDER BY record_offset",
        orders[7],
    )
    assert steps == ["processing", "confirmed"]


async def test_observing_writes_no_order(lab):
    (order,) = await lab.place()
    flow = replace(lab.flow, apply=Observe())
    for status in ("processing", "confirmed", "rejected", "confirmed"):
        lab.send(order, status)
    lab.sent()
    lab.start(flow=flow)
    await lab.until_handled(4)
    rows = await lab.pg.fetch(
        "SELECT outcome, old_status, new_status FROM relay.inbox ORDER BY record_offset"
    )
    assert [tuple(row) for row in rows] == [
        ("observed", "submitted", "processing"),
        ("observed", "processing", "confirmed"),
        ("no_change", "confirmed", "confirmed"),
    ]
    assert await lab.column("SELECT reason FROM relay.quarantine") == ["conflict"]
    assert await lab.statuses([order]) == ["submitted"]


WRONG = [
    ({"table": "nowhere"}, "no such table"),
    ({"table": "a b c("}, "table"),
    ({"key_column": "id"}, "key_column"),
    ({"key_type": "bigint"}, "uuid"),
    ({"status_column": "total"}, "numeric"),
    ({"version_column": "nope"}, "version_column"),
    ({"history_table": "public.orders"}, "history_table"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG)
async def test_names_that_the_database_does_not_have_end_it_at_start(lab, changes, says):
    flow = replace(lab.flow, apply=ApplyColumns(**changes))
    with pytest.raises(FlowTableError, match=says):
        async with asyncio.timeout(20 * patience()):
            await lab.start(flow=flow).task


@pytest.mark.parametrize("function", ["nothing_here", "pg_sleep", "x y"])
async def test_a_function_that_does_not_fit_ends_it_at_start(lab, function):
    with pytest.raises(FlowTableError, match="function"):
        async with asyncio.timeout(20 * patience()):
            await lab.start(flow=replace(lab.flow, apply=ApplyFunction(function))).task


PARTITIONED = """
ALTER TABLE public.orders RENAME TO orders_before;
CREATE TABLE public.orders (LIKE public.orders_before INCLUDING DEFAULTS, PRIMARY KEY (order_id))
    PARTITION BY HASH (order_id);
CREATE TABLE public.orders_0 PARTITION OF public.orders FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.orders_1 PARTITION OF public.orders FOR VALUES WITH (MODULUS 2, REMAINDER 1)
"""
# Each change of status moves the row to another partition.
MOVING = """
ALTER TABLE public.orders RENAME TO orders_before;
CREATE TABLE public.orders (
    LIKE public.orders_before INCLUDING DEFAULTS, PRIMARY KEY (order_id, status)
) PARTITION BY LIST (status);
CREATE TABLE public.orders_new PARTITION OF public.orders FOR VALUES IN ('submitted');
CREATE TABLE public.orders_rest PARTITION OF public.orders DEFAULT
"""
INHERITED = "CREATE TABLE public.orders_old () INHERITS (public.orders)"
VIEW = """
ALTER TABLE public.orders RENAME TO orders_stored;
CREATE VIEW public.orders AS SELECT * FROM public.orders_stored
"""


@pytest.mark.parametrize(
    "shape", [PARTITIONED, MOVING, INHERITED, VIEW], ids=["parts", "moving", "heirs", "view"]
)
async def test_orders_may_stand_in_several_tables(lab, shape):
    await lab.pg.execute(shape)
    assert (await orders_table(lab.pg, lab.flow)).has_places is False
    orders = await lab.place(40)
    lab.start()
    for order in orders:
        lab.send(order, "processing")
    lab.sent()
    await lab.until_handled(40)
    for order in orders[::2]:
        lab.send(order)
    lab.sent()
    await lab.until_handled(60)
    assert await lab.statuses(orders) == ["confirmed", "processing"] * 20
    changes = "SELECT count(*) FROM public.order_status_history"
    assert await lab.pg.fetchval(changes) == 60
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 0


# A login with rights on columns sees a row's place if it was granted that, too.
@pytest.mark.parametrize("sees_places", [True, False])
async def test_least_privilege_is_enough(lab, sees_places):
    await lab.pg.execute("SET ROLE NONE")
    name = f"c{uuid.uuid4().hex[:12]}"
    await lab.pg.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE relay_confirmer")
    try:
        if not sees_places:
            await lab.pg.execute("REVOKE SELECT (ctid) ON public.orders FROM relay_confirmer")
        orders = await lab.place(3)
        lab.send(orders[0])
        lab.send(orders[1], "nonsense")
        lab.send(orders[2], "processing")
        lab.sent()
        login = await connect(lab.dsn_as(name, "x"), "test")
        assert (await orders_table(login, lab.flow)).has_places is sees_places
        await login.close()
        running = lab.start(dsn=lab.dsn_as(name, "x"))
        await lab.until_handled(3)
        assert await lab.statuses(orders) == ["confirmed", "submitted", "processing"]
        await running.stop()
    finally:
        await lab.pg.execute(f"DROP OWNED BY {name}")
        await lab.pg.execute(f"DROP ROLE {name}")
