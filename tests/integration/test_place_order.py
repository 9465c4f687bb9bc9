"""Hop 1, place: order and event are one, and a repeated submission is the first order."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from relay.outbox import (
    EventRefusedError,
    IdempotencyConflictError,
    Item,
    NewOrder,
    NotInTransactionError,
    PlacedOrder,
    place_order,
)

Eventually = Callable[..., Awaitable[Any]]

TEA = Item("tea", 2, "9.95")


@pytest.fixture
def pg(service_pg: asyncpg.Connection) -> asyncpg.Connection:
    """Hop 1 writes on the order service's own connection."""
    return service_pg


def new_order(*items: Item, key: str | None = None, **fields: Any) -> NewOrder:
    given = {"customer_id": "c1", "currency": "EUR"} | fields
    return NewOrder(items=items or (TEA,), idempotency_key=key, **given)


async def place(connection: asyncpg.Connection, order: NewOrder) -> PlacedOrder:
    async with connection.transaction():
        return await place_order(connection, order)


async def counted(pg: asyncpg.Connection) -> tuple[int, int]:
    row = await pg.fetchrow(
        "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM relay.outbox)"
    )
    return row[0], row[1]


@pytest_asyncio.fixture
async def other(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def test_an_order_and_its_event_say_the_same(pg: asyncpg.Connection) -> None:
    placed = await place(pg, new_order(TEA, Item("cup", 1, "4"), key="k"))
    order = await pg.fetchrow("SELECT * FROM orders")
    event = await pg.fetchrow("SELECT * FROM relay.outbox")
    assert placed.created
    assert (order["order_id"], order["status"]) == (placed.order_id, "submitted")
    assert (order["total"], order["currency"], order["version"]) == (Decimal("23.90"), "EUR", 1)
    assert (event["id"], event["event_id"]) == (placed.outbox_id, placed.event_id)
    assert (event["aggregate_id"], event["event_type"]) == (str(placed.order_id), "order.placed")
    assert json.loads(event["payload"]) == {
        "order_id": str(placed.order_id),
        "customer_id": "c1",
        "items": [
            {"sku": "tea", "quantity": 2, "price": "9.95"},
            {"sku": "cup", "quantity": 1, "price": "4"},
        ],
        "total": "23.90",
        "currency": "EUR",
        "submitted_at": order["submitted_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    assert json.loads(order["items"]) == json.loads(event["payload"])["items"]


async def test_an_order_is_locked_while_its_transaction_is_open(
    pg: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    await pg.execute("BEGIN")
    placed = await place_order(pg, new_order())
    await pg.execute("COMMIT")
    xids = await other.fetchrow(
        "SELECT o.xmin::text = e.txid::text FROM orders o, relay.outbox e WHERE o.order_id = $1",
        placed.order_id,
    )
    assert xids[0]


async def test_without_a_transaction_nothing_is_written(pg: asyncpg.Connection) -> None:
    with pytest.raises(NotInTransactionError):
        await place_order(pg, new_order())
    assert await counted(pg) == (0, 0)


async def test_a_rollback_takes_both(pg: asyncpg.Connection) -> None:
    await pg.execute("BEGIN")
    await place_order(pg, new_order())
    await pg.execute("ROLLBACK")
    assert await counted(pg) == (0, 0)


@pytest.mark.parametrize(
    ("order", "path"),
    [
        (new_order(Item("tea", 2, "9,95")), "/items/0/price"),
        (new_order(Item("tea", 2, "007")), "/items/0/price"),
        (new_order(Item("tea", 0, "1")), "/items/0/quantity"),
        (new_order(Item("tea", 1.5, "1")), "/items/0/quantity"),  # type: ignore[arg-type]
        (new_order(TEA, Item("", 1, "1")), "/items/1/sku"),
        (new_order(TEA, Item("\x00", 1, "1")), "/items/1/sku"),
        (new_order(Item("tea", 10**6, "999999999999999999")), "/total"),
        (new_order(Item("tea", 10**60, "1")), "/items/0/quantity"),
        (new_order(Item("tea", 10**60 + 1, "1.000001")), "/total"),
        (new_order(Item("tea", 1, "9" * 1_000_000)), "/items/0/price"),
        (new_order(customer_id="c\x00"), "customer_id"),
        (new_order(customer_id=""), "customer_id"),
        (new_order(key=""), "idempotency_key"),
        (new_order(key="k" * 256), "idempotency_key"),
        (new_order(currency="euro"), "/currency"),
        (NewOrder("c1", [], "EUR"), "/items"),
        (new_order(*[Item("x" * 250, 1, "1")] * 1000), ""),
    ],
)
async def test_a_refused_order_has_written_nothing(
    pg: asyncpg.Connection, order: NewOrder, path: str
) -> None:
    async with pg.transaction():
        with pytest.raises(EventRefusedError) as refused:
            await place_order(pg, order)
        assert refused.value.path == path
    assert await counted(pg) == (0, 0)


async def test_large_sums_are_exact(pg: asyncpg.Connection) -> None:
    items = [Item("a", 999_999, "123456789.123457")] * 7 + [Item("b", 1, "0.000001")]
    await place(pg, new_order(*items))
    exact = 7 * 999_999 * 123_456_789_123_457 + 1
    assert await pg.fetchval("SELECT total FROM orders") == Decimal(exact).scaleb(-6)


async def test_the_same_key_returns_the_first_order(pg: asyncpg.Connection) -> None:
    first = await place(pg, new_order(key="k"))
    await pg.execute("UPDATE orders SET status = 'confirmed', version = 2")
    again = await place(pg, new_order(key="k"))
    assert (again.order_id, again.created, again.status) == (first.order_id, False, "confirmed")
    assert (again.submitted_at, again.event_id) == (first.submitted_at, None)
    assert await counted(pg) == (1, 1)


async def test_keys_belong_to_their_customer_and_no_key_means_a_new_order(
    pg: asyncpg.Connection,
) -> None:
    for order in (
        new_order(key="k"),
        new_order(key="k", customer_id="c2"),
        new_order(),
        new_order(),
    ):
        assert (await place(pg, order)).created
    assert await counted(pg) == (4, 4)


@pytest.mark.parametrize(
    "other_body",
    [
        new_order(Item("tea", 3, "9.95"), key="k"),
        new_order(TEA, TEA, key="k"),
        new_order(key="k", currency="USD"),
    ],
)
async def test_another_body_under_the_same_key_is_refused(
    pg: asyncpg.Connection, other_body: NewOrder
) -> None:
    first = await place(pg, new_order(key="k"))
    async with pg.transaction():
        with pytest.raises(IdempotencyConflictError) as conflict:
            await place_order(pg, other_body)
        assert await pg.fetchval("SELECT 1") == 1
    assert conflict.value.order_id == str(first.order_id)
    assert await counted(pg) == (1, 1)


LOCKED = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_a_second_submission_waits_for_the_first_ones_end(
    pg: asyncpg.Connection,
    other: asyncpg.Connection,
    database: str,
    end: str,
    eventually: Eventually,
) -> None:
    observer = await asyncpg.connect(database)
    await pg.execute("BEGIN")
    first = await place_order(pg, new_order(key="k"))
    second = asyncio.create_task(place(other, new_order(key="k")))
    await eventually(lambda: observer.fetchval(LOCKED, other.get_server_pid()))
    assert not second.done()
    await pg.execute(end)
    placed = await second
    assert placed.created is (end == "ROLLBACK")
    assert (placed.order_id == first.order_id) is (end == "COMMIT")
    assert await counted(observer) == (1, 1)
    await observer.close()


async def test_twenty_at_once_make_one_order(database: str, pg: asyncpg.Connection) -> None:
    async with asyncpg.create_pool(database, min_size=20, max_size=20) as pool:

        async def submit() -> PlacedOrder:
            async with pool.acquire() as connection:
                return await place(connection, new_order(key="k"))

        placed = await asyncio.gather(*(submit() for _ in range(20)))
    assert sum(one.created for one in placed) == 1
    assert len({one.order_id for one in placed}) == 1
    assert await counted(pg) == (1, 1)


async def test_under_repeatable_read_the_second_is_told_to_retry(
    pg: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    async with other.transaction(isolation="repeatable_read"):
        await other.fetchval("SELECT count(*) FROM orders")
        await place(pg, new_order(key="k"))
        with pytest.raises(asyncpg.SerializationError):
            await place_order(other, new_order(key="k"))
    assert await counted(pg) == (1, 1)


async def test_a_cancelled_submission_has_written_nothing(
    pg: asyncpg.Connection, other: asyncpg.Connection, eventually: Eventually
) -> None:
    await pg.execute("BEGIN")
    await place_order(pg, new_order(key="k"))
    task = asyncio.create_task(place(other, new_order(key="k")))
    await eventually(lambda: pg.fetchval(LOCKED, other.get_server_pid()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await pg.execute("ROLLBACK")
    assert await counted(other) == (0, 0)


async def test_an_order_id_may_be_the_callers_own(pg: asyncpg.Connection) -> None:
    order_id = uuid4()
    assert (await place(pg, new_order(order_id=order_id))).order_id == order_id
    with pytest.raises(asyncpg.UniqueViolationError):
        await place(pg, new_order(order_id=order_id))
    assert await counted(pg) == (1, 1)


async def test_order_and_event_store_the_same_context_and_a_repeat_makes_no_span(
    pg: asyncpg.Connection,
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    for _ in range(2):
        async with pg.transaction():
            placed = await place_order(pg, new_order(key="k"), tracer=tracer)
    (create,) = exporter.get_finished_spans()
    context = create.get_span_context()
    header = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    row = await pg.fetchrow(
        "SELECT o.traceparent, e.traceparent, e.event_id FROM orders o, relay.outbox e"
    )
    assert (row[0], row[1], placed.traceparent) == (header, header, header)
    assert create.attributes is not None
    assert create.attributes["messaging.message.id"] == str(row["event_id"])


async def test_the_order_services_role_is_enough_and_no_more(pg: asyncpg.Connection) -> None:
    await pg.execute("SET ROLE relay_writer")
    first = await place(pg, new_order(key="k"))
    assert (await place(pg, new_order(key="k"))).order_id == first.order_id
    for forbidden in (
        "SELECT payload FROM relay.outbox",
        "UPDATE relay.outbox SET payload = '{}'",
        "DELETE FROM relay.outbox",
        "UPDATE orders SET status = 'confirmed'",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pg.execute(forbidden)
    await pg.execute("RESET ROLE")
    assert await counted(pg) == (1, 1)
