"""Orders that no return is applied to (`observe`, `function`): their table is looked at."""

import json
import uuid

import psycopg
import pytest

pytestmark = pytest.mark.timeout(180)

COLUMNS = {"RELAY_FLOW_COLUMNS": json.dumps({"table": "public.orders"})}
QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}
FUNCTION = """
CREATE FUNCTION public.apply_return(text, text, text, text, jsonb) RETURNS text
LANGUAGE sql AS $$ SELECT 'applied' $$
"""


@pytest.fixture(params=["observe", "function"])
def mode(request, wiring):
    wiring.environment["RELAY_FLOW_APPLY"] = request.param
    if request.param == "function":
        wiring.environment["RELAY_FLOW_FUNCTION"] = "public.apply_return"
    return request.param


def data(wiring, *words, **env):
    done = wiring.command("--json", *words, **env)
    assert done.returncode in (0, 3), done.stderr
    return json.loads(done.stdout)


def checked(wiring, **env):
    return {one["name"]: one for one in data(wiring, "check", **env)["checks"]}


async def test_without_a_table_nobody_says_that_there_is_no_such_order(wiring, mode) -> None:
    await wiring.place()
    bypassed, never = str(uuid.uuid4()), str(uuid.uuid4())
    await wiring.insert_these([bypassed])
    await wiring.until_overdue([bypassed])
    unknown = ("place", "unknown", "orders_not_named")
    assert wiring.named([bypassed, never]) == [unknown, unknown]
    (found, _) = wiring.diagnose([bypassed, never])
    assert any("[flow.NAME.columns]" in one["found"] for one in found["evidence"])
    assert checked(wiring)["orders.table"]["state"] == "warning"
    told = data(wiring, "reconcile")
    assert not told["proven"]
    assert any("no setting says" in one for one in told["not_looked_at"])


async def test_with_a_table_hop_1_is_judged_in_every_command(wiring, mode) -> None:
    (placed,) = await wiring.place()
    bypassed, never = str(uuid.uuid4()), str(uuid.uuid4())
    await wiring.insert_these([bypassed])
    await wiring.until_overdue([bypassed, placed])
    assert wiring.named([bypassed, never], **COLUMNS) == [
        ("place", "no_outbox_row", "outbox_bypassed"),
        ("place", "no_such_order", "never_committed"),
    ]
    listed = data(wiring, "unreturned", **COLUMNS)["orders"]
    assert {one["order_id"]: one["hop"] for one in listed} == {bypassed: "place", placed: "publish"}
    told = data(wiring, "incidents", **COLUMNS)
    assert told["single_orders"] + sum(one["orders"] for one in told["incidents"]) == 2
    assert data(wiring, "reconcile", **COLUMNS)["found"] == {"order_without_event": 1}
    assert data(wiring, "status", **COLUMNS)["hops"]["place"]["waiting"] == 1
    assert checked(wiring, **COLUMNS)["orders.table"]["state"] == "ok"


async def test_an_order_that_was_only_observed_is_returned(wiring) -> None:
    wiring.environment |= {"RELAY_FLOW_APPLY": "observe"} | COLUMNS
    wiring.relay(**QUICK), wiring.processor(), wiring.consumer(**QUICK)
    (order,) = await wiring.place()

    async def noted():
        return await wiring.pg.fetchval("SELECT count(*) FROM relay.inbox") == 1

    await wiring.eventually(noted, 60)
    await wiring.until_overdue([order])
    # Somebody else moves the status, or nobody: what the consumer noted is the proof.
    assert wiring.named([order])[0][:2] == (None, "returned")
    assert data(wiring, "unreturned")["orders"] == []
    with psycopg.connect(wiring.database, autocommit=True) as connection:
        connection.execute("DELETE FROM orders WHERE order_id = %s", (order,))
    assert wiring.named([order]) == [("place", "no_such_order", "order_deleted")]


async def test_a_column_that_is_only_written_is_refused_where_none_is(wiring) -> None:
    wrong = {"RELAY_FLOW_COLUMNS": json.dumps({"version_column": "version"})}
    done = wiring.command("status", RELAY_FLOW_APPLY="observe", **wrong)
    assert done.returncode == 1
    assert "version_column: written only" in done.stderr
