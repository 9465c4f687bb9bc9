"""`relay init` beside shops that nobody here wrote: their tables, their words, their rights."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

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
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_left(init, shop, tmp_path, arguments, says) -> None:
    done = init("--apply", *arguments)
    assert done.returncode in {1, 2}
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    with psycopg.connect(shop) as connection:
        assert connection.execute("SELECT to_regnamespace('relay')").fetchone() == (None,)


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
