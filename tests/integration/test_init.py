"""`relay init` beside shops that nobody here wrote: their tables, their words, their rights."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pexpect
import psycopg
import pytest

RelayCommand = Callable[..., subprocess.CompletedProcess[str]]

SHOP = """
    CREATE SCHEMA shop;
    CREATE TYPE shop.state AS ENUM ('NEW', 'ACCEPTED', 'DECLINED', 'SHIPPED');
    CREATE TABLE shop."Order" (
        "Id" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "orderNumber" text UNIQUE NOT NULL,
        state shop.state NOT NULL DEFAULT 'NEW', total numeric(12, 2),
        "createdAt" timestamptz NOT NULL DEFAULT now());
    CREATE TABLE shop."OrderLine" (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        "orderId" uuid NOT NULL REFERENCES shop."Order", title text NOT NULL);
    INSERT INTO shop."Order" ("orderNumber", state, "createdAt")
        VALUES ('A-1', 'SHIPPED', now() - interval '9 days');
"""


@pytest.fixture
def shop(empty_database: str) -> str:
    with psycopg.connect(empty_database) as connection:
        connection.execute(SHOP)
    return empty_database


@pytest.fixture
def init(shop, kafka_bootstrap, topics, relay_command: RelayCommand, tmp_path: Path):
    """`relay init` in a folder of its own, with topics and groups of its own."""
    names = (
        "--events-topic", f"events.{topics.suffix}", "--returns-topic", f"returns.{topics.suffix}",
        "--processor-group", f"p-{topics.suffix}", "--confirm-group", f"c-{topics.suffix}",
    )  # fmt: skip
    env = {"DATABASE_URL": shop, "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        settings = str(tmp_path / "relay.toml")
        return relay_command("--config", settings, "init", *names, *arguments, env=env)

    return run


def test_a_shop_is_set_up_from_nothing_and_the_check_is_green(init, shop, tmp_path, topics) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS init_shop; CREATE ROLE init_shop LOGIN")
        try:
            done = init(
                "--order-service", "init_shop", "--trigger", "--payload-column", "orderNumber",
                "--payload-column", "total", "--partitions", "2", "--apply",
            )  # fmt: skip
            # The servers of the tests have no fsync, and that is all that is wrong with them.
            failed = [line for line in done.stdout.splitlines() if line.startswith((" NO", " ??"))]
            assert [line.split()[1] for line in failed] == ["database.fsync:"], done.stdout
            assert "orders.overdue_index" not in done.stdout
            connection.execute("GRANT USAGE ON SCHEMA shop TO init_shop")
            connection.execute('GRANT SELECT, INSERT ON shop."Order" TO init_shop')
            connection.execute("SET ROLE init_shop")
            connection.execute(
                'INSERT INTO shop."Order" ("orderNumber", total) VALUES (\'A-2\', 9.90)'
            )
            connection.execute("RESET ROLE")
            rows = connection.execute(
                "SELECT aggregate_type, event_type, payload FROM relay.outbox"
            ).fetchall()
        finally:
            connection.execute("DROP OWNED BY init_shop; DROP ROLE init_shop")
    assert rows == [("order", "order.placed", {"orderNumber": "A-2", "total": "9.90"})]
    flow = tomllib.loads((tmp_path / "relay.toml").read_text())["flow"]["orders"]
    assert flow["status_ranks"] == {"NEW": 0, "ACCEPTED": 10, "DECLINED": 10}
    assert flow["status_aliases"] == {"confirmed": "ACCEPTED", "rejected": "DECLINED"}
    assert flow["later_statuses"] == ["SHIPPED"]
    assert flow["columns"]["lookup_columns"] == ["orderNumber"]
    assert init("--trigger", "--payload-column", "total", "--apply").returncode == 3, "again"
    for name in ("events", "returns"):
        topics._made.append(f"{name}.{topics.suffix}")


def test_without_apply_the_database_stays_as_it_is(init, shop, tmp_path) -> None:
    done = init()
    assert done.returncode == 0, done.stderr
    assert 'GRANT UPDATE (state) ON shop."Order" TO relay_confirmer;' in done.stdout
    with psycopg.connect(shop) as connection:
        assert connection.execute("SELECT to_regnamespace('relay')").fetchone() == (None,)
    before = (tmp_path / "relay.toml").read_text()
    refused = init("--initial", "ACCEPTED", "--final", "DECLINED")
    assert (refused.returncode, "--force" in refused.stderr) == (2, True)
    assert (tmp_path / "relay.toml").read_text() == before
    assert list(tmp_path.glob(".relay*")) == []
    assert init("--initial", "ACCEPTED", "--final", "DECLINED", "--force").returncode == 0
    assert json.loads(init("--force", "--json").stdout)["settings"].endswith("relay.toml")


PARTITIONED = """
    CREATE TABLE shop.sales_order (
        id bigint GENERATED ALWAYS AS IDENTITY, status text NOT NULL DEFAULT 'new',
        region text, created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, created_at)
    ) PARTITION BY RANGE (created_at);
    CREATE TABLE shop.sales_2026 PARTITION OF shop.sales_order
        FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE shop.sales_rest PARTITION OF shop.sales_order DEFAULT;
"""
AWAITING = """
    SELECT n.nspname || '.' || c.relname FROM pg_index i
      JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE i.indisvalid AND c.relname LIKE '%awaits_return' ORDER BY 1
"""


def test_a_partitioned_table_is_set_up_without_stopping_its_writers(
    init, shop, topics, relay_command, tmp_path
) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute(PARTITIONED)
        # What an index that was interrupted leaves: it is of no use, and costs every writer.
        connection.execute(
            "INSERT INTO shop.sales_rest (region, id, created_at) OVERRIDING SYSTEM VALUE"
            " VALUES ('a', -1, '2001-01-01'), ('a', -2, '2001-01-01')"
        )
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(
                "CREATE UNIQUE INDEX CONCURRENTLY sales_rest_awaits_return"
                " ON shop.sales_rest (region)"
            )
        done = init(
            "--table", "shop.sales_order", "--trigger", "--payload-column", "region",
            "--partitions", "1", "--apply",
        )  # fmt: skip
        for name in ("events", "returns"):
            topics._made.append(f"{name}.{topics.suffix}")
        found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(" NO")]
        assert found == ["database.fsync:"], done.stdout + done.stderr
        assert " orders." not in done.stdout, "nothing to look at"
        names = [row[0] for row in connection.execute(AWAITING)]
        parts = ("2026", "order", "rest")
        assert names == [f"shop.sales_{one}_awaits_return" for one in parts]
        connection.execute("INSERT INTO shop.sales_order (region) VALUES ('b')")
        rows = connection.execute("SELECT aggregate_id, payload FROM relay.outbox").fetchall()
        assert rows == [("1", {"region": "b"})]
    flow = tomllib.loads((tmp_path / "relay.toml").read_text())["flow"]["orders"]
    assert flow["columns"]["key_column"] == "id"


def test_orders_divided_by_status_have_no_trigger(init, shop, tmp_path) -> None:
    """An order that changes its status moves, and fires as a new one does."""
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE shop.moving_order (id bigint, status text DEFAULT 'new', region text,"
            " created_at timestamptz, PRIMARY KEY (id, status, region)) PARTITION BY LIST (status);"
            " CREATE TABLE shop.moving_new PARTITION OF shop.moving_order FOR VALUES IN ('new')"
            " PARTITION BY LIST (region)"
        )
        made = ("--table", "shop.moving_order", "--trigger", "--payload-column", "region")
        done = init(*made)
        assert done.returncode == 1
        assert "divided by status: an order that changes" in done.stderr, done.stderr
        assert list(tmp_path.iterdir()) == []
        connection.execute("DROP TABLE shop.moving_order")
        connection.execute(
            "CREATE TABLE shop.moving_order (id bigint, status text DEFAULT 'new', region text,"
            " created_at timestamptz, PRIMARY KEY (id, region)) PARTITION BY LIST (region)"
        )
        done = init(*made)
        assert done.returncode == 0, done.stderr
        assert "-- The table is divided by region. An UPDATE that changes it" in done.stdout
        assert "WHERE o.id = order_id::text::bigint" in done.stdout, "by the key's index"


PAYMENTS = """
    CREATE TABLE shop.payment (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        status text NOT NULL DEFAULT 'requested', created_at timestamptz NOT NULL DEFAULT now());
"""


def test_a_second_flow_is_added_to_the_file_and_set_up(init, shop, tmp_path, topics) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute(PAYMENTS)
        assert init("--apply", "--events-since", "2026-11-01T08:00:00Z").returncode in {0, 3}
        first = (tmp_path / "relay.toml").read_text()
        second = (
            "--flow", "payments", "--aggregate-type", "payment", "--table", "shop.payment",
            "--event-type", "payment.requested", "--final", "paid", "--final", "refused",
        )  # fmt: skip
        # Topics and groups are each flow's own: two that share one are refused.
        refused = init(*second, "--apply")
        assert refused.returncode == 1, refused.stdout
        assert "orders" in refused.stderr
        assert (tmp_path / "relay.toml").read_text() == first
        own = (
            "--events-topic", f"payments.{topics.suffix}",
            "--returns-topic", f"paid.{topics.suffix}",
            "--processor-group", f"psp-{topics.suffix}", "--confirm-group", f"pay-{topics.suffix}",
        )  # fmt: skip
        done = init(*second, *own, "--partitions", "1", "--apply")
        topics._made += [
            f"{one}.{topics.suffix}" for one in ("events", "returns", "payments", "paid")
        ]
        failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(" NO")]
        assert failed == ["database.fsync:"], done.stdout + done.stderr
        rights = (
            "SELECT has_column_privilege('relay_confirmer', 'shop.payment', 'status', 'UPDATE')"
        )
        assert connection.execute(rights).fetchone() == (True,)
    text = (tmp_path / "relay.toml").read_text()
    assert text.startswith(first)
    flows = tomllib.loads(text)["flow"]
    assert list(flows) == ["orders", "payments"]
    assert flows["orders"]["events_since"] == "2026-11-01T08:00:00+00:00"
    again = init(*second, *own, "--force")
    assert (again.returncode, "take it out" in again.stderr) == (2, True)
    assert (tmp_path / "relay.toml").read_text() == text


ODD = """
    CREATE TABLE shop.tenant_order (tenant int, number text, status text, created_at timestamptz,
        PRIMARY KEY (tenant, number));
    CREATE TABLE shop.keyless (id bigint, status text, created_at timestamptz);
    CREATE VIEW shop.order_view AS SELECT "Id" AS id, state, "createdAt" AS created_at
        FROM shop."Order";
"""
_GENERATED = "GENERATED ALWAYS AS (tenant::text || '-' || number::text) STORED"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--table", "shop.tenant_order"], "primary key of shop.tenant_order is (tenant, number)"),
        (["--table", "shop.tenant_order"], f"ADD COLUMN order_key text {_GENERATED}"),
        (["--table", "shop.tenant_order", "--key", "number"],
         "CREATE UNIQUE INDEX CONCURRENTLY ON shop.tenant_order (number)"),
        (["--table", "shop.keyless"], "shop.keyless has no primary key"),
        (["--table", "shop.order_view"], "shop.order_view is a view: which column"),
    ],
)  # fmt: skip
def test_what_a_key_lacks_is_named_with_what_mends_it(
    init, shop, tmp_path, arguments, says
) -> None:
    with psycopg.connect(shop) as connection:
        connection.execute(ODD)
    done = init("--apply", *arguments)
    assert done.returncode == 1
    assert says in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_was_said_to_make_of_a_composite_key_and_a_view_works(init, shop, tmp_path) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute(ODD)
        connection.execute(
            f"ALTER TABLE shop.tenant_order ADD COLUMN order_key text {_GENERATED},"
            " ADD UNIQUE (order_key)"
        )
        assert init("--table", "shop.tenant_order", "--key", "order_key").returncode == 0
        done = init(
            "--table", "shop.order_view", "--key", "id", "--force", "--no-topics", "--apply"
        )
        assert " orders." not in done.stdout, done.stdout
        assert (tmp_path / "relay.toml").exists()


UNFIT = """
    CREATE TABLE shop.odd (id bigint PRIMARY KEY, aggregatetype text, aggregateid text, type text,
        payload xml, doc json, state text, created_at timestamp);
    CREATE VIEW shop.odd_view AS SELECT * FROM shop.odd;
    CREATE FUNCTION shop.f(text, text, text, text, json) RETURNS int LANGUAGE sql AS 'SELECT 1';
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--table", "orders"], "no such table; there are"),
        (["--initial", "LOST"], "cannot hold LOST"),
        (["--function", "f"], "--returns function"),
        (["--trigger"], "--payload"),
        (["--trigger", "--payload", "shop.event_of"], "no function shop.event_of(text)"),
        (["--trigger", "--payload-column", "prize"], "no column prize"),
        (["--mirror", "shop.outbox"], "no such table"),
        (["--services", "nobody_at_all"], "CREATE ROLE nobody_at_all LOGIN"),
        (["--deadline", "-1"], "deadline_seconds"),
        (["--time-zone", "Mars/Olympus", "--table", "shop.odd"], "time_zone = 'Mars/Olympus'"),
        (["--lookup", "doc", "--table", "shop.odd"], "doc is of type json; text, a number or uuid"),
        (["--returns", "function", "--function", "shop.f"], "no function shop.f(text, text, text"),
        (["--mirror", "shop.odd_view"], "is no table: name the one behind it"),
        (["--mirror", "shop.odd"], "shop.odd.payload is of type xml: text, json, jsonb"),
        (["--initial", "NEW", "--final", "NEW"], "initial_status 'NEW' is terminal"),
        (["--events-topic", "bad topic"], "is no topic's name"),
        (["--alias", "yes=MAYBE"], "needs a new word for a status with a rank"),
        (["--events-since", "yesterday"], "is neither a time nor like 90m"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_left(init, shop, tmp_path, arguments, says) -> None:
    with psycopg.connect(shop) as connection:
        connection.execute(UNFIT)
    done = init("--apply", *arguments)
    assert done.returncode in {1, 2}
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    with psycopg.connect(shop) as connection:
        assert connection.execute("SELECT to_regnamespace('relay')").fetchone() == (None,)


def test_who_may_not_and_a_broker_that_is_away_are_named_and_nothing_is_left(
    shop, relay_command, tmp_path
) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute(
            "DROP ROLE IF EXISTS init_nobody; CREATE ROLE init_nobody LOGIN PASSWORD 'x'"
        )
        try:
            for nobody, broker, says in (
                ("init_nobody:x", "127.0.0.1:1", "the login init_nobody: permission denied for"),
                (None, "127.0.0.1:1", "error[kafka_connection]"),
            ):
                url = (
                    shop
                    if nobody is None
                    else shop.replace(urlsplit(shop).netloc.split("@")[0], nobody)
                )
                done = relay_command(
                    "--config", str(tmp_path / "relay.toml"), "init", "--apply",
                    env={"DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": broker},
                )  # fmt: skip
                assert done.returncode == 1
                assert says in done.stderr, done.stderr
                assert (
                    nobody is None or "hint: set DATABASE_URL to a login that owns" in done.stderr
                )
                assert list(tmp_path.iterdir()) == []
                assert connection.execute("SELECT to_regnamespace('relay')").fetchone() == (None,)
        finally:
            connection.execute("DROP ROLE init_nobody")


def test_at_a_terminal_each_question_has_its_proposal(shop, topics, tmp_path) -> None:
    settings = tmp_path / "relay.toml"
    asked = pexpect.spawn(
        str(Path(sys.executable).with_name("relay")), ["--config", str(settings), "init"],
        env=os.environ | {"DATABASE_URL": shop}, encoding="utf-8", timeout=120,
        dimensions=(50, 200),
    )  # fmt: skip
    answers = {
        "the orders' table": "", "an order's id is in": "", "its status is in": "",
        "when it was placed is in": "", "the status of a new order": "",
        "statuses on the way": "SHIPPED", "statuses that end the wait": "ACCEPTED, DECLINED",
        "event types": "order.placed, order.changed", "topic of the events": f"e.{topics.suffix}",
        "topic of the returns": "", "consumer group of the order processor": "billing, stock",
    }  # fmt: skip
    for question, answer in answers.items():
        asked.expect_exact(question)
        asked.expect_exact("]: ")
        asked.sendline(answer)
    asked.expect(pexpect.EOF)
    asked.close()
    assert asked.exitstatus == 0
    flow = tomllib.loads(settings.read_text())["flow"]["orders"]
    assert flow["status_ranks"] == {"NEW": 0, "SHIPPED": 10, "ACCEPTED": 20, "DECLINED": 20}
    assert flow["processor_groups"] == ["billing", "stock"]
    assert list(flow["events"]) == ["order.placed", "order.changed"]
    assert (flow["events_topic"], flow["columns"]["table"]) == (
        f"e.{topics.suffix}",
        'shop."Order"',
    )
