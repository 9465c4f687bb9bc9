"""What no command could look at is said, and is never "none": without a right, a server."""

import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from relay.cli.errors import FAILURE, FOUND

pytestmark = pytest.mark.timeout(120)

DEADLINE = {"RELAY_FLOW_EVENTS": '{"order.placed":{"deadline_seconds":0.001}}'}
NOBODY = "127.0.0.1:1"
DATABASE_AWAY = {"DATABASE_URL": f"postgresql://nobody@{NOBODY}/nothing"}
KAFKA_AWAY = {"KAFKA_BOOTSTRAP_SERVERS": NOBODY}
COMMANDS = {
    "incidents": ("incidents",),
    "unreturned": ("unreturned",),
    "triage": ("diagnose",),
    "diagnose": ("diagnose", "{order}"),
    "trace": ("trace", "{order}"),
    "reconcile": ("reconcile",),
    "quarantine": ("quarantine", "list"),
    "replay": ("replay", "--order", "{order}"),
    "check": ("check",),
    "probe": ("probe", "--within", "1"),
}
LEDGER = """
INSERT INTO relay.delivery_ledger
    (epoch, topic, partition, base_offset, record_count, outbox_ids, id_range)
VALUES (1, 'orders.events', 0, 0, 1, ARRAY[$1::bigint], int8range($1, $1, '[]'))
"""


@pytest.fixture
async def order(pg: asyncpg.Connection) -> str:
    """An overdue order whose event was published, as the ledger says."""
    order = str(uuid.uuid4())
    await pg.execute(
        "INSERT INTO orders (order_id, customer_id, items, total, currency)"
        " VALUES ($1::text::uuid, 'c', '[]', 1, 'EUR')",
        order,
    )
    outbox_id = await pg.fetchval(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
        " VALUES ('order', $1, 'order.placed', '{}') RETURNING id",
        order,
    )
    await pg.execute(LEDGER, outbox_id)
    return order


@pytest.fixture
async def observer(database: str, pg: asyncpg.Connection) -> AsyncIterator[str]:
    """The address of a login that may look at the relay's own tables, and at no others."""
    name = f"reader_{uuid.uuid4().hex[:10]}"
    await pg.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE relay_observer")
    parts = urlsplit(database)
    yield urlunsplit(parts._replace(netloc=f"{name}:x@{parts.netloc.rpartition('@')[2]}"))
    await pg.execute(f"DROP OWNED BY {name}")
    await pg.execute(f"DROP ROLE {name}")


@pytest.fixture
def run_without(
    order: str, observer: str, relay_command: Callable[..., Any]
) -> Callable[[str, str], Any]:
    """Run a command under --json without the `database`, the `broker` or the `rights`."""
    away = {"database": DATABASE_AWAY, "broker": KAFKA_AWAY, "rights": {"DATABASE_URL": observer}}

    def run(name: str, without: str) -> Any:
        words = [word.format(order=order) for word in COMMANDS[name]]
        return relay_command(*words, "--json", env=DEADLINE | away[without])

    return run


# What holds the quarantine is the database alone, and an observer may list it.
NEED_NO_MORE = {("quarantine", "broker"), ("quarantine", "rights")}
CASES = [
    (name, without)
    for name in COMMANDS
    for without in ("database", "broker", "rights")
    if (name, without) not in NEED_NO_MORE
]


@pytest.mark.parametrize(("name", "without"), CASES)
def test_what_could_not_be_looked_at_is_never_none(
    name: str, without: str, kafka_bootstrap: str, run_without: Callable[[str, str], Any]
) -> None:
    done = run_without(name, without)
    assert done.returncode in (FAILURE, FOUND), (done.stdout, done.stderr)
    if done.returncode == FAILURE:
        said = json.loads(done.stderr.splitlines()[-1])
        assert said["code"]
        assert said["message"]
    if done.returncode == FOUND or done.stdout:
        json.loads(done.stdout)


@pytest.mark.parametrize("name", ["diagnose", "triage", "unreturned", "trace"])
def test_without_the_broker_an_overdue_order_is_unknown(
    name: str, kafka_bootstrap: str, run_without: Callable[[str, str], Any]
) -> None:
    answer = json.loads(run_without(name, "broker").stdout)
    (found,) = [answer] if name == "trace" else answer["orders"]
    assert found["verdict"] == "unknown"
    assert NOBODY.split(":", maxsplit=1)[0] in json.dumps(found)


def test_a_plan_that_nobody_could_make_is_not_an_empty_one(
    kafka_bootstrap: str, run_without: Callable[[str, str], Any]
) -> None:
    done = run_without("replay", "broker")
    plan = json.loads(done.stdout)
    assert (plan["events"], plan["orders_not_judged"]) == (0, 1)
    assert json.loads(done.stderr)["code"] == "not_looked"
