"""`relay check` names each thing that a wrong configuration can break, and writes nothing else."""

import json
from dataclasses import replace
from types import MappingProxyType

import pytest
from confluent_kafka import Producer

from relay.diagnose.check.result import State
from relay.diagnose.watch.overdue import find_open
from relay.runtime.flow import ApplyColumns, EventRoute, Flow
from relay.runtime.kafka_connection import KafkaConnection


async def test_a_fresh_installation_fails_for_an_unsafe_server_alone(check, flow, topics):
    report = await check()
    bad = {n for n, s in report.states.items() if s in (State.FAILED, State.UNKNOWN)}
    # The tests' common PostgreSQL does not wait for its disk, which no production may do.
    assert bad == {"database.fsync"}
    group = f"kafka.group:{flow.processor_groups[0]}"
    assert report.states[group] is State.WARNING
    # From the first event on, one that nobody processes is a failure.
    producer = Producer({"bootstrap.servers": topics.bootstrap_servers})
    producer.produce(flow.events_topic, b"{}")
    assert producer.flush(30) == 0
    assert (await check()).states[group] is State.FAILED


@pytest.mark.parametrize(
    ("harm", "name", "state"),
    [
        (
            "ALTER TABLE relay.outbox ALTER COLUMN id SET CACHE 50",
            "outbox.sequence_cache",
            "failed",
        ),
        ("REVOKE INSERT (payload) ON relay.outbox FROM relay_writer", "outbox.append", "failed"),
        (
            "REVOKE INSERT (payload) ON relay.outbox FROM relay_writer",
            "place.grants:relay_writer",
            "failed",
        ),
        ("GRANT INSERT ON relay.outbox TO relay_writer", "place.grants:relay_writer", "warning"),
        ("GRANT SELECT ON relay.inbox TO PUBLIC", "access.public", "failed"),
        ("ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY", "orders.row_security", "warning"),
        ("DROP INDEX public.orders_unreturned", "orders.overdue_index", "warning"),
        ("ALTER TABLE public.orders DROP CONSTRAINT orders_pkey", "orders.key", "failed"),
        ("ALTER TABLE public.orders DROP COLUMN return_reason", "orders.columns", "failed"),
        ("DROP TABLE public.orders", "orders.table", "failed"),
        ("DROP INDEX relay.outbox_aggregate", "database.schema_drift", "failed"),
        (
            "ALTER TABLE relay.quarantine DROP CONSTRAINT quarantine_state_check",
            "database.schema_drift",
            "failed",
        ),
        (
            "DROP INDEX public.orders_unreturned;CREATE INDEX ON public.orders (submitted_at)",
            "orders.overdue_index",
            "warning",
        ),
        (
            "DROP INDEX public.orders_unreturned;"
            "CREATE INDEX ON public.orders (status, submitted_at)",
            "orders.overdue_index",
            "ok",
        ),
        (
            "ALTER DEFAULT PRIVILEGES IN SCHEMA relay GRANT SELECT ON TABLES TO PUBLIC",
            "access.default_privileges:postgres",
            "warning",
        ),
        (
            "UPDATE relay.checkpoint SET prev = '9000000000:9000000000:'",
            "publish.checkpoint",
            "failed",
        ),
        ("UPDATE relay.checkpoint SET system_identifier = 1", "publish.checkpoint", "failed"),
        ("UPDATE relay.checkpoint SET home = '1/1'", "publish.checkpoint", "failed"),
        (
            "ALTER TABLE public.orders DROP CONSTRAINT orders_status_check,"
            " ADD CONSTRAINT few CHECK (status IN ('submitted', 'confirmed'))",
            "orders.statuses:few",
            "failed",
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            "CREATE TRIGGER t BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION f();"
            "ALTER TABLE public.orders DISABLE TRIGGER t",
            "orders.trigger:public.orders.t",
            "failed",
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END';"
            "CREATE TRIGGER t BEFORE INSERT ON relay.outbox FOR EACH ROW EXECUTE FUNCTION f()",
            "outbox.append",
            "failed",
        ),
        (
            "ALTER TABLE public.orders ADD CONSTRAINT late CHECK (version > 0) NOT VALID",
            "orders.constraint:public.orders.late",
            "warning",
        ),
        (
            "INSERT INTO relay.outbox"
            " (aggregate_type, aggregate_id, event_type, payload, created_at)"
            " VALUES ('order', '1', 'order.placed', '{}', '2001-01-01')",
            "outbox.default_partition",
            "warning",
        ),
        (
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off',"
            " current_database()); END $$",
            "place.synchronous_commit",
            "failed",
        ),
    ],
)
async def test_what_is_wrong_in_the_database_is_named(check, pg, harm, name, state):
    await pg.execute(harm)
    report = await check()
    assert report.states[name] == state


async def test_nothing_of_a_fresh_installation_s_own_tables_is_to_be_mended(check):
    report = await check()
    assert not [name for name in report.states if name.startswith("orders.constraint:")]


async def test_a_trigger_or_constraint_that_is_gone_is_shown_as_changed(check, pg, be_healthy):
    await pg.execute(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER audit BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION f()"
    )
    await check()
    await be_healthy()
    await pg.execute(
        "DROP TRIGGER audit ON public.orders;"
        "ALTER TABLE public.orders DROP CONSTRAINT orders_customer_id_idempotency_key_key"
    )
    changed = {change.name: change for change in (await check()).changed}
    assert "orders.audit" in changed["orders.triggers"].before
    assert "orders.audit" not in changed["orders.triggers"].now
    assert "idempotency_key" in changed["orders.constraints"].before
    assert "idempotency_key" not in changed["orders.constraints"].now


async def test_the_index_that_is_printed_is_the_one_that_serves_the_unreturned(
    check, pg, eventually
):
    await pg.execute("DROP INDEX public.orders_unreturned")
    report = await check()
    fix = next(r.fix for r in report.results if r.name == "orders.overdue_index")
    await pg.execute(fix)
    assert (await check()).states["orders.overdue_index"] == State.OK
    await pg.execute(
        "INSERT INTO public.orders (order_id, customer_id, items, total, currency, status,"
        " submitted_at) SELECT gen_random_uuid(), 'c', '[]', 1, 'EUR', CASE WHEN g % 1000 = 0"
        " THEN 'submitted' ELSE 'confirmed' END, now() - make_interval(secs => g)"
        " FROM generate_series(1, 50000) AS g"
    )
    await pg.execute("ANALYZE public.orders")
    await pg.execute("UPDATE relay.installation SET watched_since = now() - interval '90 days'")
    executed = []
    pg.add_query_logger(executed.append)
    found = await find_open(pg, Flow(), since=None, at_most=1000)
    assert 40 <= len(found) <= 50
    asked, *_ = await eventually(lambda: [r for r in executed if "o.submitted_at" in r.query])
    lines = await pg.fetch(f"EXPLAIN {asked.query}", *asked.args)
    plan = "\n".join(line[0] for line in lines)
    assert "Seq Scan on orders" not in plan, plan
    assert "orders_submitted_at_idx" in plan, plan


async def test_missing_partitions_are_named(check, pg):
    for name in await pg.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        " WHERE inhparent = 'relay.outbox'::regclass AND inhrelid::regclass::text ~ '_p[0-9]{8}$'"
    ):
        await pg.execute(f"DROP TABLE {name['name']}")
    assert (await check()).states["outbox.partitions"] == State.FAILED


async def test_a_missing_schema_is_one_failure_with_its_command(check, empty_database):
    checked = await check(dsn=empty_database)
    assert checked.states["database.schema"] == State.FAILED
    assert checked.fix("database.schema") == "relay migrate"


async def test_an_unreachable_database_or_broker_is_one_failure_each(check):
    checked = await check(
        dsn="postgresql://nobody@127.0.0.1:1/none",
        kafka=KafkaConnection("127.0.0.1:1"),
        environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    )
    assert checked.states == {
        "database.connection": State.FAILED,
        "kafka.connection": State.FAILED,
        "traces.exporter": State.WARNING,
    }


async def test_what_is_wrong_with_topics_is_named(check, flow, topics):
    compacted = topics.create("compacted", cleanup_policy="compact")
    short = topics.create("short", retention_ms="60000", max_message_bytes="2000")
    events = MappingProxyType(
        {"order.placed": EventRoute(short, 900.0), "order.other": EventRoute("no.such.topic")}
    )
    report = await check(replace(flow, events=events, returns_topic=compacted))
    seen = report.states
    assert seen["kafka.topic:no.such.topic"] == State.FAILED
    assert seen[f"kafka.cleanup:{compacted}"] == State.FAILED
    assert seen[f"kafka.retention:{short}"] == State.FAILED
    assert seen[f"kafka.max_message_bytes:{short}"] == State.WARNING
    missing = next(r for r in report.results if r.name == "kafka.topic:no.such.topic")
    assert "--create --topic no.such.topic" in missing.fix


async def test_an_inbox_that_forgets_returns_that_can_come_again_is_named(check, flow, topics):
    name = f"kafka.inbox:{flow.returns_topic}"
    assert (await check(inbox_days=60)).states[name] == State.OK
    report = await check(inbox_days=59)
    assert report.states[name] == State.WARNING
    assert report.fix(name) == "RELAY_MAINTENANCE_INBOX_DAYS=60"
    for_ever = topics.create("for.ever", retention_ms="-1")
    states = (await check(replace(flow, returns_topic=for_ever))).states
    assert states[f"kafka.inbox:{for_ever}"] == State.WARNING


async def test_wrong_columns_and_key_type_are_named(check, flow):
    columns = ApplyColumns(key_type="bigint", status_column="state")
    seen = (await check(replace(flow, apply=columns))).states
    assert seen["orders.columns"] == State.FAILED
    seen = (await check(replace(flow, apply=ApplyColumns(key_type="bigint")))).states
    assert seen["orders.types"] == State.FAILED


async def test_changes_since_the_last_healthy_run_are_shown(check, pg, flow, topics, be_healthy):
    # Healthy once: the group that has never read is somebody else's until then.
    healthy = await check()
    await be_healthy()
    await pg.execute("ALTER TABLE relay.outbox ALTER COLUMN id SET CACHE 20")
    topics.delete(flow.returns_topic)
    report = await check()
    changed = {change.name: change for change in report.changed}
    assert changed["outbox.sequence_cache"].before == "ok: 1"
    assert changed[f"kafka.topic:{flow.returns_topic}"].now == "failed: does not exist"
    assert healthy.changed == ()
    assert "clock.database" not in changed


async def test_it_writes_nothing_but_its_outcome(check, pg):
    tables = await pg.fetch(
        "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n"
        " ON n.oid = c.relnamespace WHERE n.nspname IN ('relay', 'public') AND c.relkind = 'r'"
        " AND c.relname <> 'check_run'"
    )

    async def contents():
        return {
            t["name"]: await pg.fetchval(
                f"SELECT md5(coalesce(string_agg(x::text, ''), '')) FROM {t['name']} x"
            )
            for t in tables
        }

    before = await contents()
    await check()
    assert await contents() == before
    assert await pg.fetchval("SELECT count(*) FROM relay.check_run") == 1


def test_the_command_prints_json_and_exits_with_3_when_something_failed(
    database, kafka_bootstrap, relay_command
):
    done = relay_command("check", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 3
    assert told["healthy"] is False
    assert {"name", "state", "found", "fix"} == told["checks"][0].keys()


def test_the_command_says_what_to_do(database, kafka_bootstrap, relay_command):
    done = relay_command("check", env={"RELAY_FLOW_EVENTS_TOPIC": "no.such.topic"})
    assert done.returncode == 3
    assert done.stdout.startswith("NOT HEALTHY: ")
    assert "--create --topic no.such.topic" in done.stdout
