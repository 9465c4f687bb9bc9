"""`relay run` and `relay confirm` as processes: ready, metered, on record, drained by SIGTERM."""

import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import httpx
import psycopg
import pytest
from confluent_kafka import Producer

Eventually = Callable[..., Awaitable[Any]]
StartRelay = Callable[..., Any]

ORDER = """
WITH placed AS (
    INSERT INTO public.orders (order_id, customer_id, items, total, currency)
    VALUES (gen_random_uuid(), 'c', '[]', 1, 'EUR') RETURNING order_id
), event AS (
    INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
    SELECT 'order', order_id::text, 'order.placed', '{}' FROM placed)
SELECT order_id::text FROM placed
"""
INSERT = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'order', n::text, 'order.placed', '{}' FROM generate_series(1, $1::int) n
"""


@pytest.fixture
def environment(topics: Any) -> dict[str, str]:
    return {
        "RELAY_FLOW_EVENTS_TOPIC": topics.create("orders.events"),
        "RELAY_FLOW_RETURNS_TOPIC": topics.create("orders.returns"),
        "RELAY_FLOW_CONFIRM_GROUP": f"confirm.{topics.suffix}",
        "RELAY_FLOW_PROCESSOR_GROUPS": f"processor.{topics.suffix}",
        "RELAY_METRICS_PORT": "0",
    }


def port(process: Any) -> int | None:
    """The port that the log says; every line of the log is JSON."""
    for line in process.stderr.splitlines():
        entry = json.loads(line)
        if entry["message"] == "listening":
            return int(entry["port"])
    return None


async def get(process: Any, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{port(process)}{path}")


async def ready(process: Any) -> bool:
    return port(process) is not None and (await get(process, "/readyz")).status_code == 200


@pytest.mark.parametrize(("command", "kind"), [("run", "relay"), ("confirm", "confirm")])
async def test_a_service_from_start_to_sigterm(
    pg: asyncpg.Connection,
    relay_process: StartRelay,
    eventually: Eventually,
    environment: dict[str, str],
    command: str,
    kind: str,
) -> None:
    process = relay_process(command, env={**environment, "RELAY_LOG_LEVEL": "INFO"})
    await eventually(lambda: ready(process), 40)
    assert (await get(process, "/livez")).status_code == 200
    assert f'kind="{kind}"' in (await get(process, "/metrics")).text
    row = await eventually(
        lambda: pg.fetchrow("SELECT * FROM relay.process_record WHERE kind = $1", kind)
    )
    assert row["instance"].endswith(f":{process.pid}")

    assert process.terminate() == 0
    row = await pg.fetchrow("SELECT * FROM relay.process_record WHERE kind = $1", kind)
    assert (row["stop_reason"], row["stopped_at"] is None) == ("SIGTERM", False)
    assert "Traceback" not in process.stderr
    lines = [json.loads(line) for line in process.stderr.splitlines()]
    assert {line["instance"] for line in lines} == {row["instance"]}
    assert {line["version"] for line in lines} == {row["version"]}
    said = {line["message"]: line for line in lines}
    settings = said["starting"]["settings"]
    assert settings["database.url"] == {"value": "[hidden]", "from": "DATABASE_URL"}
    assert settings["metrics.port"] == {"value": "0", "from": "RELAY_METRICS_PORT"}
    assert said["stop_requested"]["signal"] == "SIGTERM"
    assert lines[-1]["message"] == "stopped"
    assert lines[-1]["reason"] == "SIGTERM"


async def test_rows_are_published_and_counted(
    pg: asyncpg.Connection,
    relay_process: StartRelay,
    eventually: Eventually,
    environment: dict[str, str],
) -> None:
    await pg.execute(INSERT, 50)
    process = relay_process("run", env=environment)
    ledger = "SELECT sum(record_count) = 50 FROM relay.delivery_ledger"
    await eventually(lambda: pg.fetchval(ledger), 40)
    topic = environment["RELAY_FLOW_EVENTS_TOPIC"]

    async def counted() -> bool:
        text = (await get(process, "/metrics")).text
        return f'relay_events_published_total{{topic="{topic}"}} 50.0' in text

    await eventually(counted)


@pytest.fixture
def login(postgres_url: str, database: str) -> Iterator[Callable[[str], str]]:
    """Make a login with one of our roles, and return its URL of the test's database."""
    made: list[str] = []

    def make(role: str) -> str:
        name = f"login_{uuid4().hex[:12]}"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'login' IN ROLE {role}")
        made.append(name)
        parts = urlsplit(database)
        return urlunsplit(parts._replace(netloc=f"{name}:login@{parts.netloc.split('@')[-1]}"))

    yield make
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP ROLE {name}")


async def test_each_service_needs_no_more_than_its_role(
    pg: asyncpg.Connection,
    relay_process: StartRelay,
    eventually: Eventually,
    environment: dict[str, str],
    kafka_bootstrap: str,
    login: Callable[[str], str],
) -> None:
    order = await pg.fetchval(ORDER)
    urls = {"run": login("relay_publisher"), "confirm": login("relay_confirmer")}
    services = {
        name: relay_process(name, env={**environment, "DATABASE_URL": url})
        for name, url in urls.items()
    }
    for process in services.values():
        await eventually(lambda process=process: ready(process), 40)
    ledger = "SELECT count(*) = 1 FROM relay.delivery_ledger"
    await eventually(lambda: pg.fetchval(ledger), 30)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    answer = {"order_id": order, "status": "confirmed", "reason": None}
    producer.produce(environment["RELAY_FLOW_RETURNS_TOPIC"], json.dumps(answer), key=order)
    producer.flush(20)
    status = "SELECT status = 'confirmed' FROM public.orders"
    await eventually(lambda: pg.fetchval(status), 30)
    # Maintenance, heartbeats, positions and the watchdog have each had their first turn by then.
    for table in ("process_record", "position", "maintenance", "inbox"):
        count = f"SELECT count(*) > 0 FROM relay.{table}"
        await eventually(lambda count=count: pg.fetchval(count), 30)
    for process in services.values():
        assert process.terminate() == 0
        assert "permission denied" not in process.stderr


async def test_a_relay_without_its_broker_is_alive_and_not_ready(
    relay_process: StartRelay, eventually: Eventually, environment: dict[str, str], database: str
) -> None:
    env = {**environment, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    process = relay_process("run", env=env)

    async def waits_for_it() -> bool:
        if port(process) is None:
            return False
        answer = await get(process, "/readyz")
        return answer.status_code == 503 and "broker" in answer.text

    await eventually(waits_for_it, 40)
    assert (await get(process, "/livez")).status_code == 200
    assert process.terminate() == 0


async def test_a_second_relay_stands_by_on_another_port(
    pg: asyncpg.Connection,
    relay_process: StartRelay,
    eventually: Eventually,
    environment: dict[str, str],
) -> None:
    env = {name: text for name, text in environment.items() if name != "RELAY_METRICS_PORT"}
    processes = [relay_process("run", env=env) for _ in range(2)]
    for process in processes:
        await eventually(lambda process=process: ready(process), 40)
    assert port(processes[0]) != port(processes[1])
    states = {json.dumps((await get(p, "/readyz")).json()["checks"]["state"]) for p in processes}
    assert states == {'"active"', '"standby"'}


async def test_a_port_that_was_asked_for_and_is_taken_is_an_error(
    relay_process: StartRelay, eventually: Eventually, environment: dict[str, str], database: str
) -> None:
    first = relay_process("run", env=environment)
    await eventually(lambda: port(first), 40)
    taken = {**environment, "RELAY_METRICS_PORT": str(port(first))}
    second = relay_process("run", env=taken)
    assert second.wait(40) == 1
    assert '"code": "endpoint"' in second.stderr
    assert "RELAY_METRICS_PORT" in second.stderr


@pytest.mark.parametrize(
    "command", ["run", "confirm", "witness", "watchdog", "web", "probe --every 1"]
)
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"RELAY_METRICS_HOST": "192.0.2.1"}, "cannot listen on 192.0.2.1:0"),
        ({"RELAY_WATCH_ROUND_SECONDS": "soon"}, "RELAY_WATCH_ROUND_SECONDS"),
    ],
)
async def test_the_last_words_of_every_service_are_json_too(
    relay_process: StartRelay,
    environment: dict[str, str],
    database: str,
    command: str,
    wrong: dict[str, str],
    said: str,
) -> None:
    """A setting that says nothing, and an address that is not this machine's."""
    env = {**environment, "RELAY_WEB_PORT": "0", **wrong}
    if command == "witness":
        env["RELAY_PUBLISHER_KIND"] = "external"
    process = relay_process(*command.split(), env=env)
    assert process.wait(40) == 1
    lines = [json.loads(line) for line in process.stderr.splitlines()]
    assert lines[-1]["message"] == "fatal"
    assert said in lines[-1]["error"]
    assert process.stdout == ""


@pytest.mark.parametrize("command", ["run", "confirm"])
async def test_a_schema_that_is_not_there_is_an_error_at_start(
    relay_process: StartRelay,
    environment: dict[str, str],
    command: str,
    empty_database: str,
) -> None:
    process = relay_process(command, env={**environment, "DATABASE_URL": empty_database})
    assert process.wait(40) == 1
    assert '"code": "schema_version"' in process.stderr
    assert "relay migrate" in process.stderr


async def test_a_second_signal_ends_at_once(
    relay_process: StartRelay, eventually: Eventually, environment: dict[str, str], database: str
) -> None:
    """The first one asks; whoever insists is obeyed."""
    process = relay_process("run", env=environment)
    await eventually(lambda: ready(process), 40)
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    assert process.wait(20) in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)
