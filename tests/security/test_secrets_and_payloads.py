"""Secrets and payloads stay where they belong: everything that real commands leave is searched."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from relay.outbox import Item, NewOrder, place_order

KAFKA_PASSWORD = "kafka-secret-5d1c"
DATABASE_PASSWORD = "database-secret-77ab"
OTLP_TOKEN = "otlp-secret-90fe"
SECRETS = (KAFKA_PASSWORD, DATABASE_PASSWORD, OTLP_TOKEN)

PAYLOADS = (
    "customer-payload-41",
    "sku-payload-42",
    "header-payload-43",
    "foreign-payload-44",
    "return-payload-45",
    "broken-payload-46",
)
CUSTOMER, SKU, HEADER, FOREIGN, RETURN, BROKEN = PAYLOADS

# Whole rows and records, kept for those who may see them.
WITH_CONTENT = {"outbox", "quarantine", "kept", "pending_return"}


@dataclass
class Collector:
    """What an OTLP collector was sent."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            zipped = self.headers.get("content-encoding") == "gzip"
            found.bodies.append(gzip.decompress(body) if zipped else body)
            found.tokens.add(self.headers.get("authorization", ""))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    yield found
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
async def login(database: str, pg: asyncpg.Connection) -> Any:
    """A user with every right and a password that can be searched for."""
    user = f"login_{uuid.uuid4().hex[:8]}"
    await pg.execute(f"CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{DATABASE_PASSWORD}'")
    parts = urlsplit(database)
    yield f"postgresql://{user}:{DATABASE_PASSWORD}@{parts.hostname}:{parts.port}{parts.path}"
    await pg.execute(f"DROP ROLE {user}")


@pytest.fixture
def environment(
    secure_kafka: Any, certificates: Any, login: str, collector: Collector, tmp_path: Path
) -> dict[str, str]:
    suffix = uuid.uuid4().hex[:8]
    names = [f"{name}.{suffix}" for name in ("orders.events", "orders.returns", "probe")]
    admin = AdminClient({"bootstrap.servers": secure_kafka.bootstrap_servers})
    for done in admin.create_topics([NewTopic(name, 3, 1) for name in names]).values():
        done.result(30)
    file = tmp_path / "database_url"
    file.write_text(login + "\n")
    return {
        "DATABASE_URL": "",
        "DATABASE_URL_FILE": str(file),
        "KAFKA_BOOTSTRAP_SERVERS": secure_kafka.address("SASLTLS"),
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": "relay-user",
        "KAFKA_SASL_PASSWORD": KAFKA_PASSWORD,
        "KAFKA_SSL_CA_LOCATION": str(certificates.trusted.file),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{OTLP_TOKEN}",
        "OTEL_TRACES_EXPORTER": "otlp",
        "RELAY_FLOW_EVENTS_TOPIC": names[0],
        "RELAY_FLOW_RETURNS_TOPIC": names[1],
        "RELAY_FLOW_PROBE_TOPIC": names[2],
        "RELAY_FLOW_EVENTS": json.dumps({"order.placed": {"deadline_seconds": 1}}),
        "RELAY_LOG_LEVEL": "debug",
        "RELAY_METRICS_PORT": "0",
        "RELAY_TRACEBACK": "1",
    }


async def place(pg: asyncpg.Connection) -> str:
    """An order, an order's event by a foreign writer, and one whose event cannot be sent."""
    async with pg.transaction():
        order = await place_order(pg, NewOrder(CUSTOMER, [Item(SKU, 1, "9.95")], "EUR"))
    insert = """INSERT INTO relay.outbox
                       (aggregate_type, aggregate_id, event_type, payload, headers)
                VALUES ('order', $1, $2, $3::text::json, $4::text::json)"""
    payload, headers = json.dumps({"note": FOREIGN}), json.dumps({"note": HEADER})
    await pg.execute(insert, str(uuid.uuid4()), "order.placed", payload, headers)
    await pg.execute(insert, str(uuid.uuid4()), "order.unmapped", payload, headers)
    return str(order.order_id)


def answer(secure_kafka: Any, topic: str, order: str) -> None:
    """Returns as a foreign processor writes them: one good, one broken, one of no order."""
    producer = Producer({"bootstrap.servers": secure_kafka.bootstrap_servers})
    good = json.dumps({"order_id": order, "status": "confirmed", "note": RETURN})
    broken = json.dumps({"order_id": order, "status": "confirmed", "note": BROKEN})[:-3]
    foreign = json.dumps({"order_id": str(uuid.uuid4()), "status": "confirmed", "note": BROKEN})
    for value in (broken, foreign, good):
        producer.produce(topic, key=order, value=value, headers=[("note", RETURN.encode())])
    assert producer.flush(15) == 0


COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("check", "--all"),
    ("check", "--json"),
    ("unreturned",),
    ("unreturned", "--json"),
    ("incidents",),
    ("incidents", "--json"),
    ("diagnose",),
    ("reconcile",),
    ("reconcile", "--json"),
    ("probe", "--within", "20"),
    ("quarantine", "list"),
    ("quarantine", "list", "--json"),
    ("migrate", "--verify"),
)


async def test_what_real_commands_leave_holds_no_secret_and_no_payload(
    database: str,
    pg: asyncpg.Connection,
    secure_kafka: Any,
    collector: Collector,
    environment: dict[str, str],
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    services = [relay_process(*command, env=environment) for command in (("run",), ("confirm",))]
    order = await place(pg)
    answer(secure_kafka, environment["RELAY_FLOW_RETURNS_TOPIC"], order)

    async def handled() -> bool:
        assert all(one.is_running() for one in services), [one.stderr for one in services]
        status = await pg.fetchval("SELECT status FROM orders")
        kinds = await pg.fetch("SELECT kind FROM relay.quarantine")
        sent = await pg.fetchval("SELECT sum(record_count) FROM relay.delivery_ledger")
        return status == "confirmed" and len(kinds) >= 3 and (sent or 0) >= 2

    await eventually(handled, 60)
    await eventually(lambda: bool(collector.bodies), 20)
    said = []
    titles = repr([psutil.Process(one.pid).cmdline() for one in services])
    queries = await pg.fetch("SELECT application_name, query FROM pg_stat_activity")
    commands = [*COMMANDS, ("diagnose", order), ("diagnose", "--json", order), ("trace", order)]
    for command in commands:
        done = await asyncio.to_thread(relay_command, *command, env=environment)
        assert done.returncode in (0, 3), (command, done.stderr)
        said.append((command, done.stdout + done.stderr))
    for one in services:
        assert one.terminate() == 0, one.stderr
        said.append((one.arguments, one.stdout + one.stderr))
    written = await tables(pg)
    spans = b"".join(collector.bodies).decode("utf-8", "replace")

    # The search can find: the token reached the collector, and the spans are of these orders.
    assert any(OTLP_TOKEN in token for token in collector.tokens)
    assert order in spans
    assert order in written["inbox"]
    for marker in (*SECRETS, *PAYLOADS):
        assert marker not in titles
        assert marker not in repr(queries), marker
        assert marker not in spans, marker
        assert [command for command, text in said if marker in text] == [], marker
        assert [name for name, text in written.items() if marker in text] == [], marker


async def tables(pg: asyncpg.Connection) -> dict[str, str]:
    """The text of every row of every table of ours that is not meant to hold content."""
    names = await pg.fetch(
        """SELECT relname FROM pg_class WHERE relnamespace = 'relay'::regnamespace
              AND relkind IN ('r', 'v') AND NOT relispartition"""
    )
    found = {}
    for (name,) in names:
        if name not in WITH_CONTENT:
            rows = await pg.fetch(f'SELECT t::text FROM relay."{name}" t')
            found[name] = "\n".join(row[0] for row in rows)
    return found


WRONG = "wrong-secret-31de"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DATABASE_URL", f"postgresql://postgres:{WRONG}@127.0.0.1:1/orders"),
        ("DATABASE_URL", f"postgresql://postgres:{WRONG}@[bad/orders"),
        ("DATABASE_URL", f"postgresql://postgres:{WRONG}@127.0.0.1:notaport/orders"),
        ("DATABASE_URL", f"postgresql://127.0.0.1:1/orders?user=x&password={WRONG}"),
        ("DATABASE_URL", f"postgresql://127.0.0.1:1/orders?sslmode={WRONG}&password={WRONG}"),
        ("DATABASE_URL", f"mysql://postgres:{WRONG}@127.0.0.1:1/orders"),
        ("DATABASE_URL", f"host=127.0.0.1 port=1 password={WRONG}"),
        ("DATABASE_URL", f"postgresql://postgres:{WRONG}%zz@127.0.0.1:1/orders"),
        ("DATABASE_URL", f"postgresql://postgres:{WRONG}/{WRONG}@127.0.0.1:1/orders"),
        ("DATABASE_URL", f"postgresql://postgres:{WRONG}?{WRONG}@127.0.0.1:1/orders"),
        ("DATABASE_URL", f"postgresql://postgres:{WRONG}#{WRONG}@127.0.0.1:1/orders"),
        ("KAFKA_SASL_PASSWORD", WRONG),
        ("KAFKA_SSL_KEY_PASSWORD", WRONG),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={WRONG}\x01"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"{WRONG}"),
    ],
)
@pytest.mark.parametrize("command", [("check",), ("--json", "status"), ("--json", "diagnose")])
def test_no_error_shows_what_it_is_about(
    relay_command: Callable[..., Any], command: tuple[str, ...], name: str, text: str
) -> None:
    env = {"DATABASE_URL": "postgresql://postgres@127.0.0.1:1/orders"}
    env |= {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "RELAY_TRACEBACK": "1"}
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "otlp"}
    done = relay_command(*command, env=env | {name: text}, within_seconds=30)
    assert WRONG not in done.stdout + done.stderr
