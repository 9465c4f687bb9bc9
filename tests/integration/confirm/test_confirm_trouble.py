"""Hop 5: a database that refuses, a database and a broker that go away."""

import asyncio
import signal
from dataclasses import replace

import asyncpg
import pytest

from relay.runtime.backoff import Backoff
from relay.runtime.shutdown import stop_on_signals

REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.customer_id = 'poison' THEN
        {what}
    END IF;
    RETURN NEW;
END $$;
CREATE {kind} refuse {when} UPDATE ON orders {deferred} FOR EACH ROW EXECUTE FUNCTION refuse();
"""
RAISE = "RAISE EXCEPTION 'not this one' USING ERRCODE = '23514';"
TRIGGERS = [
    pytest.param(
        {"what": RAISE, "kind": "TRIGGER", "when": "BEFORE", "deferred": ""}, id="at once"
    ),
    pytest.param(
        {
            "what": RAISE,
            "kind": "CONSTRAINT TRIGGER",
            "when": "AFTER",
            "deferred": "DEFERRABLE INITIALLY DEFERRED",
        },
        id="at commit",
    ),
]


@pytest.mark.parametrize("trigger", TRIGGERS)
async def test_one_return_that_the_database_refuses_stops_nobody(lab, trigger):
    orders = await lab.place(200)
    bad = orders[77]
    await lab.pg.execute("UPDATE orders SET customer_id = 'poison' WHERE order_id = $1", bad)
    await lab.pg.execute(REFUSE.format(**trigger))
    for order in orders:
        lab.send(order, partition=1)
    lab.sent()
    lab.start()
    await lab.until_handled(200)
    expected = ["confirmed"] * 200
    expected[77] = "submitted"
    assert await lab.statuses(orders) == expected
    row = await lab.pg.fetchrow("SELECT * FROM relay.quarantine")
    assert (row["reason"], row["aggregate_id"]) == ("apply_failed", bad)
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.inbox") == 199


async def test_a_missing_permission_is_waited_out_and_fills_no_quarantine(lab):
    name = "c" + lab.flow.confirm_group.rpartition("-")[2]
    await lab.pg.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE relay_confirmer")
    try:
        await lab.pg.execute("REVOKE UPDATE (status) ON orders FROM relay_confirmer")
        orders = await lab.place(30)
        for order in orders:
            lab.send(order)
        lab.sent()
        running = lab.start(dsn=lab.dsn_as(name, "x"))

        async def says_so():
            return "42501" in (running.service.waiting_for or "")  # in any language

        await lab.until(says_so)
        assert await lab.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 0
        await lab.pg.execute("GRANT UPDATE (status) ON orders TO relay_confirmer")
        await lab.until_handled(30)
        assert set(await lab.statuses(orders)) == {"confirmed"}
        assert await lab.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 0
        await running.stop()
    finally:
        await lab.pg.execute(f"DROP OWNED BY {name}")
        await lab.pg.execute(f"DROP ROLE {name}")


GERMAN = "RAISE EXCEPTION 'keine Berechtigung für Tabelle orders' USING ERRCODE = '42501';"


async def test_a_refusal_in_another_language_is_an_outage_with_its_code(lab):
    (order,) = await lab.place(1)
    await lab.pg.execute("UPDATE orders SET customer_id = 'poison'")
    await lab.pg.execute(
        REFUSE.format(what=GERMAN, kind="TRIGGER", when="BEFORE", deferred=""),
    )
    lab.send(order)
    lab.sent()
    # Refused several times, each time on a new connection, which proves nothing.
    running = lab.start(replace(lab.session(), blocked_backoff=Backoff(0.01, 0.05)))
    await lab.until_sql(
        "SELECT count(*) > 0 FROM relay.process_record WHERE failure_code = 'sqlstate:42501'"
    )
    await lab.until_sql("SELECT count(*) > 0 FROM relay.outage_record")  # written after it
    seen = await lab.pg.fetch("SELECT resource, to_at, failure_code FROM relay.outage_record")
    assert [tuple(row) for row in seen] == [("database", None, "sqlstate:42501")]
    await lab.pg.execute("DROP TRIGGER refuse ON orders")
    await lab.until_handled(1)
    await lab.until_sql("SELECT count(*) > 0 FROM relay.outage_record WHERE to_at > from_at")
    await lab.until_sql("SELECT bool_and(failure_code IS NULL) FROM relay.process_record")
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.outage_record") == 1
    await running.stop()


async def test_refused_one_after_the_other_it_is_not_the_returns(lab):
    orders = await lab.place(60)
    await lab.pg.execute("UPDATE orders SET customer_id = 'poison'")
    await lab.pg.execute(REFUSE.format(**TRIGGERS[0].values[0]))
    for order in orders:
        lab.send(order)
    lab.sent()
    running = lab.start()

    async def blocked():
        return running.service.state == "blocked"

    await lab.until(blocked)
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 20
    assert "20 returns in a row" in running.service.waiting_for
    await lab.pg.execute("DROP TRIGGER refuse ON orders")
    await lab.until_handled(60)
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 20
    assert (await lab.statuses(orders)).count("confirmed") == 40


async def test_the_database_restarts(lab, private_postgres, private_database):
    other = await lab.elsewhere(private_database)
    orders = await other.place(20)
    for order in orders[:10]:
        other.send(order)
    other.sent()
    # A database that is away is asked again soon, however long one that refuses is left alone.
    running = other.start(replace(other.session(), blocked_backoff=Backoff(600, 600)))
    await other.until_handled(10)
    await other.pg.close()
    private_postgres.kill()

    async def waits():
        return running.service.state == "waiting"

    await other.until(waits)
    for order in orders[10:]:
        other.send(order)
    other.sent()
    private_postgres.start()
    await other.connect()
    await other.until_handled(20)
    assert set(await other.statuses(orders)) == {"confirmed"}
    assert await other.pg.fetchval("SELECT count(*) FROM order_status_history") == 20
    await other.until_sql(
        "SELECT count(*) > 0 FROM relay.outage_record WHERE resource = 'database' "
        "AND kind = 'confirm' AND to_at > from_at"
    )
    await other.pg.close()


async def test_it_stops_in_the_middle_of_a_batch_though_the_database_is_frozen(
    lab, private_postgres, private_database
):
    other = await lab.elsewhere(private_database)
    (order,) = await other.place()
    locker = await asyncpg.connect(private_database)
    await locker.execute("BEGIN; LOCK TABLE relay.inbox IN ACCESS EXCLUSIVE MODE")
    running = other.start()
    other.send(order)
    other.sent()
    await other.until_sql(
        "SELECT count(*) > 0 FROM pg_stat_activity"
        " WHERE application_name = 'relay-confirm' AND wait_event_type = 'Lock'"
    )
    private_postgres.pause()
    await running.stop()
    private_postgres.resume()
    await locker.close()
    other.start()
    await other.until_confirmed(order)
    await other.pg.close()


async def test_the_broker_restarts(lab, private_kafka):
    other = await lab.elsewhere(bootstrap_servers=private_kafka.bootstrap_servers)
    orders = await other.place(40)
    for order in orders[:20]:
        other.send(order)
    other.sent()
    running = other.start(other.session(stall_seconds=2.0))
    await other.until_handled(20)
    private_kafka.kill()
    await other.until_sql("SELECT count(*) > 0 FROM relay.outage_record WHERE resource = 'broker'")
    assert running.service.state == "waiting"
    private_kafka.start()
    for order in orders[20:]:
        other.send(order)
    await asyncio.to_thread(other.sent)
    await other.until_handled(40)
    assert set(await other.statuses(orders)) == {"confirmed"}
    assert await other.pg.fetchval("SELECT count(*) FROM order_status_history") == 40
    await other.until_sql(
        "SELECT count(*) > 0 FROM relay.outage_record WHERE resource = 'broker' AND to_at > from_at"
    )


async def test_it_waits_for_a_broker_that_was_never_there(lab):
    running = lab.start(bootstrap_servers="127.0.0.1:9")

    async def says_so():
        return "broker" in (running.service.waiting_for or "")

    await lab.until(says_so)
    await running.stop()
    row = await lab.pg.fetchrow("SELECT * FROM relay.process_record WHERE kind = 'confirm'")
    assert row["stopped_at"] is not None


async def test_sigterm_finishes_the_batch_and_says_goodbye(lab):
    orders = await lab.place(500)
    for order in orders:
        lab.send(order)
    lab.sent()
    running = lab.start(lab.session(batch_records=20))
    with stop_on_signals() as stop:
        running.service.stop = stop
        await lab.until_handled(50)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 5)
    await running.stop()
    handled = await lab.pg.fetchval("SELECT sum(next_offset)::int FROM relay.consumer_offset")
    applied = (await lab.statuses(orders)).count("confirmed")
    assert handled == applied == await lab.pg.fetchval("SELECT count(*) FROM relay.inbox")
    row = await lab.pg.fetchrow("SELECT * FROM relay.process_record WHERE kind = 'confirm'")
    assert row["stopped_at"] is not None


async def test_the_process_record_says_what_it_does(lab):
    orders = await lab.place(3)
    running = lab.start(replace(lab.session()))
    for order in orders:
        lab.send(order)
    lab.send(orders[0], "nonsense")
    lab.sent()
    await lab.until_handled(4)
    await running.stop()
    detail = await lab.pg.fetchval(
        "SELECT detail::text FROM relay.process_record WHERE kind = 'confirm'"
    )
    assert '"applied": 3' in detail
    assert '"unknown_status": 1' in detail
    assert lab.flow.confirm_group in detail
