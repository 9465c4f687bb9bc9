"""Orders tables of every shape that is accepted: from the outbox row to the diagnosis."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from relay.consumers.apply.statements import column_statements
from relay.consumers.returns.packing import packed
from relay.diagnose.reconcile.findings import Tally
from relay.diagnose.reconcile.returns import reconcile_statuses
from relay.diagnose.session import session
from relay.orders.catalog import FlowTableError, as_far_as_known, orders_table, with_key_column
from relay.orders.keys import canonical_order_id
from relay.replay.candidates import canonical, count_returned
from relay.replay.follow import returned_orders
from relay.replay.missing import NotWrittenError, write_missing
from relay.runtime.flow import ApplyColumns, EventRoute, Flow, KeyType
from relay.runtime.kafka_connection import KafkaConnection


@dataclass(frozen=True)
class Key:
    """A type of keys: three ids as the database has them, and how others write the first one."""

    sql: str
    kind: KeyType
    ids: tuple[str, str, str]
    otherwise: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


A, B, C = (str(uuid4()) for _ in range(3))
KEYS = {
    "uuid": Key(
        "uuid", "uuid", (A, B, C), (A.upper(), f"{{{A}}}", A.replace("-", "")), (str(uuid4()),)
    ),
    "bigint": Key("bigint", "bigint", ("7", "-8", "9"), ("007", "+7", " 7 "), (str(2**63 - 1),)),
    "integer": Key("integer", "bigint", ("7", "8", "9"), ("007",), ("99999999999", "2147483648")),
    "smallint": Key("smallint", "bigint", ("7", "8", "9"), (), ("32768", "-99999")),
    "numeric": Key("numeric", "bigint", (str(10**30), "8", "9"), (f"0{10**30}",), ("77",)),
    "numeric(20)": Key("numeric(20)", "bigint", (str(2**64), "8", "9"), (), (str(10**300),)),
    "text": Key("text", "text", ("O-1", "O-1 ", " O-1"), (), ("o-1",)),
    "blanks": Key("text", "text", ("A B", "a\tb", "ä  ö"), (), ("A  B",)),
    "varchar": Key("varchar(5)", "text", ("O-1", "O-2", "12345"), (), ("123456", "O-1 ")),
    "char": Key("char(12)", "text", ("ORD-1", "ORD-2", "O"), ("ORD-1  ", "ORD-1       "), ("OR",)),
    "domain": Key("number_d", "bigint", ("7", "8", "9"), ("007",), ("-7", "99999999999")),
    "domain of char": Key("code_d", "text", ("ORD-1", "ORD-2", "O"), ("ORD-1       ",), ("X",)),
}
STATUSES = {
    "text": "text",
    "char": "char(12)",
    "varchar": "varchar(10)",
    "enum": '"Shop 1"."State"',
    "domain": "status_d",
    "domain of domain": "short_d",
}
TIMES = ("timestamptz", "timestamp", "date")
TYPES = """
CREATE SCHEMA "Shop 1";
CREATE TYPE "Shop 1"."State" AS ENUM ('submitted', 'processing', 'confirmed', 'rejected');
CREATE DOMAIN number_d AS integer CHECK (VALUE > 0);
CREATE DOMAIN code_d AS char(12);
CREATE DOMAIN status_d AS varchar(10)
    CHECK (VALUE IN ('submitted', 'processing', 'confirmed', 'rejected'));
CREATE DOMAIN char_d AS char(10);
CREATE DOMAIN short_d AS char_d CHECK (VALUE <> 'nonsense');
"""
# Every key with some status and some time, so that each of those is met several times.
CASES = [
    (key, status, TIMES[number % 3])
    for number, (key, status) in enumerate(zip(KEYS, [*STATUSES, *STATUSES], strict=False))
]


async def a_table(pg: asyncpg.Connection, key: str, status: str, time: str) -> None:
    """Make a table of orders, with a history, and whatever is optional."""
    await pg.execute(TYPES)
    await pg.execute(
        f"""
        CREATE TABLE "Shop 1"."Order" (
            "No" {key} PRIMARY KEY, "is" {status} NOT NULL DEFAULT 'submitted',
            made {time} NOT NULL DEFAULT (clock_timestamp() AT TIME ZONE 'UTC'),
            ended {time}, why varchar(8), version smallint NOT NULL DEFAULT 0);
        ALTER TABLE "Shop 1"."Order"
            ALTER made SET DEFAULT {
            "clock_timestamp()"
            if time == "timestamptz"
            else "(clock_timestamp() AT TIME ZONE 'Asia/Kathmandu')"
        };
        CREATE TABLE "Shop 1".steps (order_id {key}, old_status {status}, new_status {status},
                                     reason char(4), event_id text);
        """
    )


def a_flow(flow: Flow, kind: KeyType) -> Flow:
    return replace(
        flow,
        events={"order.placed": EventRoute("orders.events", deadline_seconds=0.001)},
        apply=ApplyColumns(
            table='"Shop 1"."Order"',
            key_column="No",
            key_type=kind,
            status_column="is",
            submitted_at_column="made",
            version_column="version",
            returned_at_column="ended",
            reason_column="why",
            history_table='"Shop 1".steps',
            time_zone="Asia/Kathmandu",
        ),
    )


@pytest.mark.parametrize(("name", "status", "time"), CASES)
async def test_an_order_goes_all_the_way_whatever_its_columns_are(lab, name, status, time):
    key = KEYS[name]
    # A date does not tell an order of this morning from one of the time before the watch.
    await lab.pg.execute("UPDATE relay.installation SET watched_since = now() - interval '2 days'")
    await a_table(lab.pg, key.sql, STATUSES[status], time)
    flow = a_flow(lab.flow, key.kind)
    answered, other, bypassed = key.ids
    for one in key.ids:
        await lab.pg.execute(
            f'INSERT INTO "Shop 1"."Order" ("No") VALUES ($1::text::{key.sql})', one
        )
    # Its writer spells the id in its own way.
    spelt = (key.otherwise or (answered,))[-1] if key.kind != "bigint" else answered
    for one in (spelt, other):
        await lab.pg.execute(
            "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload) "
            "VALUES ('order', $1, 'order.placed', '{}')",
            one,
        )
    returns = [*key.otherwise, answered, *key.absent]
    for number, one in enumerate(returns):
        lab.send(one, headers={"ce_id": str(number).encode()}, reason="because of it")
    lab.sent()
    lab.start(flow=flow)
    await lab.until_handled(len(returns))
    # Two at once for one order: one of them may stand aside for a moment.
    await lab.until_sql("SELECT NOT EXISTS (SELECT FROM relay.pending_return)")

    row = await lab.pg.fetchrow(
        'SELECT "is"::text, why, version, ended IS NOT NULL, '
        "abs(extract(epoch FROM ended) - extract(epoch FROM made)) < 90000 "
        f'FROM "Shop 1"."Order" WHERE "No" = $1::text::{key.sql}',
        answered,
    )
    assert tuple(row) == ("confirmed", "because ", 1, True, True)
    steps = await lab.pg.fetch(
        'SELECT order_id::text, new_status::text, reason FROM "Shop 1".steps'
    )
    assert [tuple(one) for one in steps] == [(answered, "confirmed", "beca")]
    assert await lab.column("SELECT DISTINCT aggregate_id FROM relay.inbox") == [answered]
    refused = await lab.pg.fetch("SELECT reason, count(*) FROM relay.quarantine GROUP BY 1")
    assert dict(refused) == {"unknown_order": len(key.absent)}

    kafka = KafkaConnection(lab.bootstrap_servers)
    asked = [*key.otherwise, answered, other, bypassed, *key.absent]
    async with session(lab.dsn, kafka, flow) as opened:
        found = {one.order_id: one for one in await opened.diagnose(asked)}
        waiting = {one.order_id: one.placed_at for one in await opened.open_orders()}
    assert {one: str(of.verdict) for one, of in found.items()} == {
        answered: "returned",
        other: "not_published",
        bypassed: "no_outbox_row",
        **dict.fromkeys(key.absent, "no_such_order"),
    }
    assert set(waiting) == {other, bypassed}
    late = max(abs(datetime.now(UTC) - at) for at in waiting.values())
    assert late < (timedelta(days=1, hours=1) if time == "date" else timedelta(minutes=5))

    flow = await with_key_column(lab.pg, flow)
    assert await returned_orders(lab.pg, flow, asked) == {*key.otherwise, answered}
    assert canonical(flow, key.otherwise or [answered]) == [answered]
    since = datetime.now(UTC) - timedelta(minutes=10)
    assert await count_returned(lab.pg, flow, since, None) == 1
    tally = Tally()
    await reconcile_statuses(lab.pg, flow, since, None, tally)
    assert tally.counts == {"terminal statuses with their return": 1}
    assert tally.clean
    # A raw row is never sent; what the shop's function says is.
    with pytest.raises(NotWrittenError, match="payload_function"):
        await write_missing(lab.pg, flow, [bypassed])
    await lab.pg.execute(
        "CREATE FUNCTION said(text) RETURNS json LANGUAGE sql"
        " AS $$ SELECT json_build_object('No', $1) $$"
    )
    flow = replace(flow, payload_function="public.said")
    assert await write_missing(lab.pg, flow, [bypassed]) == {}
    written = "SELECT payload->>'No' FROM relay.outbox WHERE aggregate_id = $1"
    got = str(await lab.pg.fetchval(written, bypassed))
    assert canonical_order_id(flow)(got) == bypassed


STARTED_AND_ENDED = {"submitted": 0, "confirmed": 2, "rejected": 2}
REFUSED = {
    "key of money": ({"k": "money"}, {"key_type": "bigint"}, "key_type.*is of type money; uuid, b"),
    "key of another type": ({"k": "uuid"}, {}, "is of type uuid; correct it to 'uuid'"),
    "key with a scale": ({"k": "numeric(12,2)"}, {"key_type": "bigint"}, "whole numbers"),
    "key without case": ({"k": "text COLLATE nocase"}, {}, "collation takes different ids for one"),
    "status too short": ({"s": "varchar(8)"}, {}, "status_ranks.*varying.8.; it cannot hold confi"),
    "status too short, padded": ({"s": "char(8)"}, {}, "character.8.; it cannot hold confirmed"),
    "status of one letter": ({"s": '"char"'}, {}, "status"),
    "domain without a status": ({"s": "some_d"}, {}, "some_d; it cannot hold rejected"),
    "enum without a status": ({"s": "some_e"}, {}, "some_e; it cannot hold processing"),
    "enum without a later status": (
        {"s": "some_e"},
        {"status_ranks": STARTED_AND_ENDED, "later_statuses": frozenset({"shipped"})},
        "later_statuses.*some_e; it cannot hold shipped",
    ),
    "status of a number": ({"s": "integer"}, {}, "status_column.*text or an enum is needed"),
    "time of a number": (
        {"t": "bigint"},
        {},
        "submitted_at_column.*is of type bigint; timestamptz",
    ),
    "time of a text": ({"t": "text"}, {}, "submitted_at_column.*is of type text"),
    "time of the day": ({"t": "time"}, {}, "submitted_at_column.*is of type time without"),
    "no such zone": (
        {"t": "timestamp"},
        {"time_zone": "Europe/Berln"},
        "time_zone = 'Europe/Berln'",
    ),
    "return time of a text": ({"x": "text"}, {"returned_at_column": "x"}, "returned_at_column"),
    "version of a text": ({"x": "text"}, {"version_column": "x"}, "version_column.*a number"),
    "reason of a number": ({"x": "int"}, {"reason_column": "x"}, "reason_column.*text is needed"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_work_is_refused_with_the_reason(pg, name):
    types, settings, says = REFUSED[name]
    await pg.execute(
        """
        -- As one of ICU's would be; not every build has that.
        CREATE COLLATION nocase (provider = libc, locale = 'C');
        UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'nocase';
        CREATE DOMAIN some_d AS text CHECK (VALUE <> 'rejected');
        CREATE TYPE some_e AS ENUM ('submitted', 'confirmed', 'rejected');
        """
    )
    columns = {"k": "text", "s": "text", "t": "timestamptz", "x": "text"} | types
    made = ", ".join(f"{column} {kind}" for column, kind in columns.items())
    await pg.execute(f"CREATE TABLE shop ({made})")
    names = {
        "table": "shop",
        "key_column": "k",
        "key_type": "text",
        "status_column": "s",
        "submitted_at_column": "t",
    }
    of_flow = {one: settings[one] for one in ("status_ranks", "later_statuses") if one in settings}
    settings = {one: value for one, value in settings.items() if one not in of_flow}
    flow = Flow(apply=ApplyColumns(**(names | settings)), **of_flow)
    async with pg.transaction():
        with pytest.raises(FlowTableError, match=says):
            await orders_table(pg, flow)
        # What was refused has not spoilt the caller's transaction.
        assert (await as_far_as_known(pg, flow)).apply.table == "shop"
        assert await pg.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("time", TIMES)
async def test_keys_and_times_of_every_type_are_found_by_their_index(pg, time):
    await pg.execute(TYPES)
    await pg.execute("SET enable_seqscan = off")
    for name, key in KEYS.items():
        await pg.execute('DROP TABLE IF EXISTS "Shop 1"."Order", "Shop 1".steps')
        await pg.execute(
            f'CREATE TABLE "Shop 1"."Order" ("No" {key.sql} PRIMARY KEY, "is" text, made {time});'
            'CREATE INDEX ON "Shop 1"."Order" (made)'
        )
        flow = Flow(
            apply=ApplyColumns('"Shop 1"."Order"', "No", key.kind, "is", submitted_at_column="made")
        )
        table = await orders_table(pg, flow)
        wanted = packed([key.ids[0], *key.absent])
        plan = await pg.fetch("EXPLAIN " + column_statements(table).shown, wanted)
        assert any('Index Cond: ("No"' in row[0].replace("((", "(") for row in plan), (name, plan)
        at = table.submitted
        for condition in (at.since("$1::timestamptz"), at.before("$1::timestamptz")):
            query = f"EXPLAIN SELECT FROM {table.table} o WHERE {condition}"
            plan = await pg.fetch(query, datetime.now(UTC))
            assert any("Index Cond: (made" in row[0] for row in plan), (name, plan)
