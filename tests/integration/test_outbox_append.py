"""Hop 1, append: in the order's transaction or not at all, and in order within an order."""

import asyncio
import json
import random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    NonRecordingSpan,
    NoOpTracer,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    use_span,
)

from relay.outbox import (
    Event,
    NotInTransactionError,
    SchemaMismatchError,
    append,
    standard,
)

ANY = standard().with_type("order.changed", None)


@pytest.fixture
def pg(service_pg: asyncpg.Connection) -> asyncpg.Connection:
    """Hop 1 writes on the order service's own connection."""
    return service_pg


def change(order_id: str = "7", **payload: Any) -> Event:
    return Event("order.changed", order_id, payload)


async def rows(pg: asyncpg.Connection) -> list[asyncpg.Record]:
    return await pg.fetch("SELECT *, payload::text AS text FROM relay.outbox ORDER BY id")


async def test_append_returns_what_the_row_holds(pg: asyncpg.Connection) -> None:
    event = Event(
        "order.changed", "7", '{ "a": 1.0 }', aggregate_version=3, headers={"tenant": "é"}
    )
    async with pg.transaction():
        stored = await append(pg, event, event_types=ANY)
    (row,) = await rows(pg)
    assert (row["id"], row["event_id"]) == (stored.outbox_id, stored.event_id)
    assert (row["aggregate_type"], row["aggregate_id"]) == ("order", "7")
    assert (row["aggregate_version"], row["event_type"]) == (3, "order.changed")
    assert row["text"] == '{ "a": 1.0 }'
    assert json.loads(row["headers"]) == {"tenant": "é"}


async def test_without_a_transaction_nothing_is_written(pg: asyncpg.Connection) -> None:
    with pytest.raises(NotInTransactionError, match="open one"):
        await append(pg, change(), event_types=ANY)
    assert await rows(pg) == []


async def test_a_rollback_takes_the_event_with_it(pg: asyncpg.Connection) -> None:
    transaction = pg.transaction()
    await transaction.start()
    await append(pg, change(), event_types=ANY)
    await transaction.rollback()
    assert await rows(pg) == []


async def test_a_savepoint_rolled_back_takes_only_its_own_event(pg: asyncpg.Connection) -> None:
    async with pg.transaction():
        await append(pg, change("kept"), event_types=ANY)
        savepoint = pg.transaction()
        await savepoint.start()
        await append(pg, change("dropped"), event_types=ANY)
        await savepoint.rollback()
    assert [row["aggregate_id"] for row in await rows(pg)] == ["kept"]


async def test_a_refused_event_leaves_the_transaction_usable(pg: asyncpg.Connection) -> None:
    async with pg.transaction():
        with pytest.raises(SchemaMismatchError):
            await append(pg, Event("order.placed", "7", {"order_id": "7"}))
        await append(pg, change(), event_types=ANY)
    assert len(await rows(pg)) == 1


async def test_the_callers_own_codecs_do_not_touch_the_row(pg: asyncpg.Connection) -> None:
    for name, coder in (("json", json.dumps), ("uuid", repr), ("jsonb", json.dumps)):
        await pg.set_type_codec(name, encoder=coder, decoder=repr, schema="pg_catalog")
    async with pg.transaction():
        stored = await append(pg, Event("order.changed", "7", '{"a" : 1}'), event_types=ANY)
    text = await pg.fetchval("SELECT payload::text FROM relay.outbox")
    assert text == '{"a" : 1}'
    assert isinstance(stored.event_id, UUID)


async def test_a_pools_proxy_is_a_connection_too(database: str) -> None:
    async with (
        asyncpg.create_pool(database, min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        assert (await append(connection, change(), event_types=ANY)).outbox_id


async def test_another_drivers_connection_is_named_in_the_refusal() -> None:
    with pytest.raises(TypeError, match=r"relay\.outbox\.psycopg"):
        await append(object(), change(), event_types=ANY)  # type: ignore[arg-type]


async def test_a_changed_order_locks_before_it_appends(
    database: str, pg: asyncpg.Connection
) -> None:
    """Eight writers on three orders, some of them rolling back: versions rise with the ids."""
    orders = [uuid4() for _ in range(3)]
    await pg.executemany(
        "INSERT INTO orders (order_id, customer_id, items, total, currency)"
        " VALUES ($1, 'c', '[]', 1, 'EUR')",
        [(order,) for order in orders],
    )

    async def write(seed: int) -> None:
        choices = random.Random(seed)
        connection = await asyncpg.connect(database)
        try:
            for _ in range(25):
                transaction = connection.transaction()
                await transaction.start()
                order = choices.choice(orders)
                version = await connection.fetchval(
                    "UPDATE orders SET version = version + 1 WHERE order_id = $1 RETURNING version",
                    order,
                )
                event = Event("order.changed", str(order), {}, aggregate_version=version)
                await append(connection, event, event_types=ANY)
                if choices.random() < 0.2:
                    await transaction.rollback()
                else:
                    await transaction.commit()
        finally:
            await connection.close()

    await asyncio.gather(*(write(seed) for seed in range(8)))
    written = await rows(pg)
    for order in orders:
        versions = [r["aggregate_version"] for r in written if r["aggregate_id"] == str(order)]
        assert versions == list(range(2, len(versions) + 2))
    assert len(written) > 100


class Recorded:
    """A private SDK, so that no test depends on the process's global provider."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")


async def test_the_row_stores_the_create_spans_own_context(pg: asyncpg.Connection) -> None:
    recorded = Recorded()
    with recorded.tracer.start_as_current_span("POST /orders", kind=SpanKind.SERVER) as server:
        async with pg.transaction():
            stored = await append(pg, change(), event_types=ANY, tracer=recorded.tracer)
    create, _ = recorded.exporter.get_finished_spans()
    assert (create.name, create.kind) == ("create orders.events", SpanKind.PRODUCER)
    assert create.parent == server.get_span_context()
    assert create.attributes is not None
    assert dict(create.attributes) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "create",
        "messaging.operation.type": "create",
        "messaging.destination.name": "orders.events",
        "messaging.message.id": str(stored.event_id),
        "order.id": "7",
    }
    (row,) = await rows(pg)
    context = create.get_span_context()
    assert row["traceparent"] == (
        f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    )
    assert (stored.traceparent, stored.tracestate) == (row["traceparent"], row["tracestate"])


@pytest.mark.parametrize("flags", [0, 1])
async def test_without_an_sdk_the_callers_context_is_stored_sampled_or_not(
    pg: asyncpg.Connection, flags: int
) -> None:
    caller = SpanContext(
        trace_id=0xABC,
        span_id=0xDEF,
        is_remote=True,
        trace_flags=TraceFlags(flags),
        trace_state=TraceState([("vendor", "x"), ("other", "y")]),
    )
    with use_span(NonRecordingSpan(caller)):
        async with pg.transaction():
            await append(pg, change(), event_types=ANY, tracer=NoOpTracer())
    (row,) = await rows(pg)
    assert row["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-0{flags}"
    assert row["tracestate"] == "vendor=x,other=y"


async def test_without_any_context_the_columns_stay_null(pg: asyncpg.Connection) -> None:
    async with pg.transaction():
        stored = await append(pg, change(), event_types=ANY, tracer=NoOpTracer())
    (row,) = await rows(pg)
    assert (
        (row["traceparent"], row["tracestate"])
        == (None, None)
        == (
            stored.traceparent,
            stored.tracestate,
        )
    )


async def test_a_failed_insert_is_an_error_on_its_span(pg: asyncpg.Connection) -> None:
    recorded = Recorded()
    await pg.execute("ALTER TABLE relay.outbox RENAME TO elsewhere")
    with pytest.raises(asyncpg.UndefinedTableError):
        async with pg.transaction():
            await append(pg, change(), event_types=ANY, tracer=recorded.tracer)
    (create,) = recorded.exporter.get_finished_spans()
    assert create.status.status_code is StatusCode.ERROR
    assert create.attributes is not None
    assert create.attributes["error.type"] == "UndefinedTableError"
