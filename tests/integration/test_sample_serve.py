"""Hop 1 of the sample over HTTP: what it answers, and that one request is one trace."""

import asyncio
import dataclasses
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncpg
import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from relay.embedded import EmbeddedPostgres
from relay.runtime.http_protocol import HeadTimeoutProtocol
from relay.runtime.http_server import ListenError
from relay.sample.installation import NotSampleError
from relay.sample.serve import ServeOptions, run_serve
from relay.telemetry.tracing import Tracing, configure

Eventually = Callable[..., Awaitable[Any]]
ORDER: dict[str, Any] = {
    "customer_id": "c1",
    "items": [{"sku": "tea", "quantity": 2, "price": "9.95"}],
    "currency": "EUR",
}
OPTIONS = ServeOptions(port=0, connections=4, max_body_bytes=2_000, wait_seconds=5)


def untraced() -> Tracing:
    environment = {"OTEL_TRACES_EXPORTER": "none"}
    return configure("order-service", environment, version="1", instance_id="t", install=False)


@asynccontextmanager
async def serving(
    dsn: str, options: ServeOptions = OPTIONS, tracing: Tracing | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    stop = asyncio.Event()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run_serve(dsn, options, tracing or untraced(), stop, url.set_result))
    await asyncio.wait({task, url}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        async with httpx.AsyncClient(base_url=await url, timeout=20) as client:
            yield client
    finally:
        stop.set()
        await task


@pytest.fixture
async def service(database: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(database) as client:
        yield client


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"].startswith("urn:outbox-relay:problem:")
    assert problem["title"]
    assert problem["detail"]
    return problem


async def test_an_order_is_placed_and_found(
    service: httpx.AsyncClient, pg: asyncpg.Connection
) -> None:
    response = await service.post("/orders", json=ORDER | {"total": "19.9"})
    assert response.status_code == 201
    placed = response.json()
    assert response.headers["location"] == f"/orders/{placed['order_id']}"
    event = await pg.fetchrow("SELECT aggregate_id, event_id, payload FROM relay.outbox")
    assert event["aggregate_id"] == placed["order_id"]
    assert placed["trace_id"] == event["event_id"].hex
    assert json.loads(event["payload"])["submitted_at"] == placed["submitted_at"]
    found = await service.get(response.headers["location"])
    assert found.status_code == 200
    assert found.json() == {
        "order_id": placed["order_id"],
        "customer_id": "c1",
        "items": ORDER["items"],
        "total": "19.90",
        "currency": "EUR",
        "status": "submitted",
        "version": 1,
        "submitted_at": placed["submitted_at"],
        "returned_at": None,
        "return_reason": None,
        "trace_id": None,
    }


async def test_the_same_key_gets_the_same_order_with_200(
    service: httpx.AsyncClient, pg: asyncpg.Connection
) -> None:
    first = await service.post("/orders", json=ORDER, headers={"Idempotency-Key": "k"})
    again = await service.post("/orders", json=ORDER, headers={"Idempotency-Key": '"k"'})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["order_id"] == first.json()["order_id"]
    assert await pg.fetchval("SELECT count(*) FROM relay.outbox") == 1


async def test_another_body_under_the_same_key_is_409(service: httpx.AsyncClient) -> None:
    first = await service.post("/orders", json=ORDER, headers={"Idempotency-Key": "k"})
    other = ORDER | {"currency": "USD"}
    response = await service.post("/orders", json=other, headers={"Idempotency-Key": "k"})
    problem = assert_problem(response, 409, "idempotency_conflict")
    assert problem["order_id"] == first.json()["order_id"]


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"items": []}, "schema_mismatch", "/items"),
        ({"items": [{"sku": "tea", "quantity": 2}]}, "schema_mismatch", "/items/0"),
        ({"items": [ORDER["items"][0] | {"price": 9.95}]}, "schema_mismatch", "/items/0/price"),
        ({"items": [ORDER["items"][0] | {"size": "L"}]}, "schema_mismatch", "/items/0"),
        ({"total": "20.00"}, "schema_mismatch", "/total"),
        ({"discount": "1"}, "schema_mismatch", ""),
        ({"customer_id": "a\x00"}, "null_character", "/customer_id"),
        ({"currency": None}, "schema_mismatch", "/currency"),
    ],
)
async def test_a_wrong_order_is_422_with_its_path(
    service: httpx.AsyncClient,
    pg: asyncpg.Connection,
    change: dict[str, Any],
    code: str,
    path: str,
) -> None:
    problem = assert_problem(await service.post("/orders", json=ORDER | change), 422, code)
    assert problem["path"] == path
    assert await pg.fetchval("SELECT count(*) FROM orders") == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "payload_not_json"),
        (b"{", 400, "payload_not_json"),
        (b'{"a":"\xff"}', 400, "payload_not_json"),
        (b"[]", 422, "payload_not_an_object"),
        (b'{"a": NaN}', 422, "number_not_finite"),
        (b'{"a":1,"a":1}', 422, "duplicate_key"),
        (b'{"a":' + b"[" * 1900, 422, "payload_too_deep"),
        (b'{"a":"' + b"x" * 2000 + b'"}', 413, "payload_too_large"),
    ],
)
async def test_a_hostile_body_is_a_problem(
    service: httpx.AsyncClient, body: bytes, status: int, code: str
) -> None:
    headers = {"Content-Type": "application/json"}
    assert_problem(await service.post("/orders", content=body, headers=headers), status, code)


async def test_a_body_without_length_is_capped_while_it_comes(
    service: httpx.AsyncClient,
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield b"x" * 1000
            await asyncio.sleep(0)

    headers = {"Content-Type": "application/json"}
    try:
        response = await service.post("/orders", content=endless(), headers=headers)
    except httpx.WriteError:
        assert sent < 1_000_000  # it hung up while we were still sending
    else:
        assert_problem(response, 413, "payload_too_large")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content-Type": ""}, 415, "unsupported_media_type"),
        (
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            415,
            "unsupported_encoding",
        ),
        (
            {"Content-Type": "application/json", "Idempotency-Key": "k" * 256},
            400,
            "bad_idempotency_key",
        ),
        ({"Content-Type": "application/json", "Idempotency-Key": ""}, 400, "bad_idempotency_key"),
    ],
)
async def test_headers_that_do_not_fit(
    service: httpx.AsyncClient, headers: dict[str, str], status: int, code: str
) -> None:
    body = json.dumps(ORDER).encode()
    assert_problem(await service.post("/orders", content=body, headers=headers), status, code)


async def test_two_idempotency_keys_are_refused(service: httpx.AsyncClient) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    response = await service.post("/orders", json=ORDER, headers=headers)
    assert_problem(response, 400, "bad_idempotency_key")


async def test_what_is_not_there_is_a_problem_too(service: httpx.AsyncClient) -> None:
    assert_problem(await service.get("/nothing"), 404, "not_found")
    missing = "/orders/00000000-0000-0000-0000-000000000000"
    assert_problem(await service.get(missing), 404, "no_such_order")
    assert_problem(await service.get("/orders/not-a-uuid"), 404, "no_such_order")
    response = await service.put("/orders", json=ORDER)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


async def test_orders_that_others_wrote_are_shown_as_they_are(
    service: httpx.AsyncClient, pg: asyncpg.Connection
) -> None:
    order_id = await pg.fetchval(
        "INSERT INTO orders (order_id, customer_id, items, total, currency, traceparent) VALUES"
        " (gen_random_uuid(), 'c', $1::text::json, 1e5, 'EUR', 'nonsense') RETURNING order_id",
        f'[{{"n": {"9" * 1000} }}]',
    )
    response = await service.get(f"/orders/{order_id}")
    assert f'"items":[{{"n": {"9" * 1000} }}]' in response.text
    assert (response.json()["total"], response.json()["trace_id"]) == ("100000", None)


async def test_health_says_alive_ready_and_counts(service: httpx.AsyncClient) -> None:
    assert (await service.get("/health")).json() == {"status": "alive"}
    assert (await service.get("/ready")).json() == {"status": "ready"}
    await service.post("/orders", json=ORDER)
    metrics = (await service.get("/metrics")).text
    assert 'order_service_submissions_total{status="201"} 1.0' in metrics


async def test_a_body_that_does_not_come_is_given_up(database: str) -> None:
    options = dataclasses.replace(OPTIONS, wait_seconds=0.3)
    async with serving(database, options) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        with closing(writer):
            writer.write(
                b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b'Content-Length: 100\r\n\r\n{"cust'
            )
            async with asyncio.timeout(10):
                assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")


async def test_a_stuck_database_is_503_with_retry_after(
    database: str, pg: asyncpg.Connection
) -> None:
    options = dataclasses.replace(OPTIONS, wait_seconds=0.3, connections=1)
    async with serving(database, options) as client:
        async with pg.transaction():
            await pg.execute("LOCK TABLE orders")
            response = await client.post("/orders", json=ORDER)
            assert_problem(response, 503, "unavailable")
            assert response.headers["retry-after"] == "1"
        assert (await client.post("/orders", json=ORDER)).status_code == 201


async def test_a_database_that_dies_is_503_until_it_is_back(
    private_postgres: EmbeddedPostgres, private_database: str, eventually: Eventually
) -> None:
    async with serving(private_database) as client:
        assert (await client.post("/orders", json=ORDER)).status_code == 201
        private_postgres.kill()
        assert_problem(await client.post("/orders", json=ORDER), 503, "unavailable")
        assert_problem(await client.get("/ready"), 503, "unavailable")
        assert (await client.get("/health")).status_code == 200
        private_postgres.start()

        async def ready() -> bool:
            return (await client.get("/ready")).status_code == 200

        await eventually(ready)
        assert (await client.post("/orders", json=ORDER)).status_code == 201


async def test_an_error_nobody_foresaw_shows_nothing_of_itself(
    service: httpx.AsyncClient, pg: asyncpg.Connection
) -> None:
    await pg.execute("ALTER TABLE relay.outbox RENAME TO elsewhere")
    problem = assert_problem(await service.post("/orders", json=ORDER), 500, "internal_error")
    assert problem["detail"] == "the request failed; it was logged"


class Recorded:
    """Tracing into memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = dataclasses.replace(untraced(), provider=provider)

    def named(self, name: str) -> Any:
        (span,) = [one for one in self.exporter.get_finished_spans() if one.name == name]
        return span


async def test_a_request_is_the_root_of_its_orders_trace(
    database: str, pg: asyncpg.Connection
) -> None:
    recorded = Recorded()
    async with serving(database, tracing=recorded.tracing) as client:
        placed = (await client.post("/orders", json=ORDER)).json()
        found = (await client.get(f"/orders/{placed['order_id']}")).json()
    server, create = recorded.named("POST /orders"), recorded.named("create orders.events")
    assert (server.kind, create.kind) == (SpanKind.SERVER, SpanKind.PRODUCER)
    assert server.parent is None
    assert create.parent.span_id == server.context.span_id
    assert dict(server.attributes) == {
        "http.request.method": "POST",
        "http.route": "/orders",
        "url.path": "/orders",
        "url.scheme": "http",
        "http.response.status_code": 201,
    }
    trace_id = f"{server.context.trace_id:032x}"
    assert placed["trace_id"] == found["trace_id"] == trace_id
    header = await pg.fetchval("SELECT traceparent FROM relay.outbox")
    assert header.split("-")[1:3] == [trace_id, f"{create.context.span_id:016x}"]


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_a_callers_trace_is_continued_sampled_or_not(
    database: str, pg: asyncpg.Connection, flags: str
) -> None:
    recorded = Recorded()
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-{flags}", "tracestate": "v=1"}
    async with serving(database, tracing=recorded.tracing) as client:
        assert (await client.post("/orders", json=ORDER, headers=headers)).status_code == 201
    assert len(recorded.exporter.get_finished_spans()) == (2 if flags == "01" else 0)
    row = await pg.fetchrow("SELECT traceparent, tracestate FROM relay.outbox")
    assert row["traceparent"].startswith(f"00-{'a' * 32}-")
    assert row["traceparent"].endswith(f"-{flags}")
    assert row["tracestate"] == "v=1"


async def test_with_exporting_off_the_callers_context_is_stored_as_it_came(
    service: httpx.AsyncClient, pg: asyncpg.Connection
) -> None:
    header = f"00-{'a' * 32}-{'b' * 16}-01"
    await service.post("/orders", json=ORDER, headers={"traceparent": header})
    assert await pg.fetchval("SELECT traceparent FROM relay.outbox") == header


async def test_a_failure_of_ours_is_an_error_of_the_span(
    database: str, pg: asyncpg.Connection
) -> None:
    recorded = Recorded()
    await pg.execute("ALTER TABLE relay.outbox RENAME TO elsewhere")
    async with serving(database, tracing=recorded.tracing) as client:
        await client.post("/orders", json=ORDER)
        await client.post("/orders", content=b"")
    failed, refused = (
        one for one in recorded.exporter.get_finished_spans() if one.kind is SpanKind.SERVER
    )
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "500"
    assert refused.status.status_code is StatusCode.UNSET


async def test_a_production_installation_is_refused(database: str, pg: asyncpg.Connection) -> None:
    await pg.execute("UPDATE relay.installation SET kind = 'production'")
    with pytest.raises(NotSampleError, match="production"):
        async with serving(database):
            pass


async def test_a_database_without_our_schema_is_refused(empty_database: str) -> None:
    with pytest.raises(NotSampleError, match="relay migrate"):
        async with serving(empty_database):
            pass


async def test_a_taken_port_is_named(service: httpx.AsyncClient, database: str) -> None:
    port = service.base_url.port
    assert port is not None
    with pytest.raises(ListenError, match=str(port)):
        async with serving(database, dataclasses.replace(OPTIONS, port=port)):
            pass


async def test_the_writers_role_is_enough(database: str, pg: asyncpg.Connection) -> None:
    name = f"order_service_{os.urandom(4).hex()}"
    await pg.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE relay_writer")
    try:
        url = httpx.URL(database).copy_with(username=name, password="x")
        async with serving(str(url)) as client:
            first = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": "k"})
            again = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": "k"})
            assert (first.status_code, again.status_code) == (201, 200)
            assert (await client.get(first.headers["location"])).status_code == 200
    finally:
        await pg.execute(f"DROP ROLE {name}")


async def test_sigterm_finishes_what_was_begun_and_exits_0(
    relay_process: Callable[..., Any],
    database: str,
    pg: asyncpg.Connection,
    eventually: Eventually,
) -> None:
    holder = await asyncpg.connect(database)
    process = relay_process("sample", "serve", "--port", "0")
    line = await eventually(lambda: process.stdout)
    url = line.split()[-1]
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        async with holder.transaction():
            await holder.execute("LOCK TABLE orders")
            under_way = asyncio.create_task(client.post("/orders", json=ORDER))
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            await eventually(lambda: pg.fetchval(waiting))
            process.send_signal(signal.SIGTERM)

            async def refuses_newcomers() -> bool:
                try:
                    async with httpx.AsyncClient(base_url=url) as newcomer:
                        await newcomer.get("/health")
                except httpx.ConnectError:
                    return True
                return False

            await eventually(refuses_newcomers)
            assert not under_way.done()
        assert (await under_way).status_code == 201
    await holder.close()
    assert process.wait() == 0
    assert await pg.fetchval("SELECT count(*) FROM orders") == 1


async def test_a_head_that_is_never_finished_holds_no_connection(
    service: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeadTimeoutProtocol, "head_seconds", 0.2)
    address = service.base_url
    connections = [
        await asyncio.open_connection(address.host, address.port or 80) for _ in range(50)
    ]
    for number, (_, writer) in enumerate(connections):
        if number % 2:  # a first request that is answered, and a second that is not finished
            writer.write(b"GET /orders/x HTTP/1.1\r\nHost: h\r\n\r\n")
        writer.write(b"POST /orders HTTP/1.1\r\nHost: ")
    async with asyncio.timeout(20):
        for reader, _ in connections:
            await reader.read(-1)  # to the end: the server closed it
    assert (await service.post("/orders", json=ORDER)).status_code == 201
    for _, writer in connections:
        writer.close()
