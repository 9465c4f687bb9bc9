"""Hop 1 through psycopg and SQLAlchemy: the same row, the same rules, the caller's transaction."""

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
import pytest
import sqlalchemy as sa
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from relay.outbox import Event, EventRefusedError, NotInTransactionError, append, standard
from relay.outbox import psycopg as with_psycopg
from relay.outbox import psycopg2 as with_psycopg2
from relay.outbox import sqlalchemy as with_sqlalchemy
from relay.outbox.testing import recorded, recorded_async

ANY = standard().with_type("order.changed", None)
TEXT = '{ "a": "\\u00e9é" }'
EVENT = Event("order.changed", "7", TEXT, aggregate_version=2, headers={"tenant": "t"})
CALLER = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))


@pytest.fixture
def pg(service_pg: asyncpg.Connection) -> asyncpg.Connection:
    """Hop 1 writes on the order service's own connection."""
    return service_pg


class Base(DeclarativeBase):
    pass


class Order(Base):
    """An order service's own model."""

    __tablename__ = "orders"
    order_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    customer_id: Mapped[str]
    items: Mapped[list[Any]] = mapped_column(sa.JSON)
    total: Mapped[int] = mapped_column(sa.Numeric)
    currency: Mapped[str]


def order() -> Order:
    return Order(order_id=uuid.uuid4(), customer_id="c", items=[], total=1, currency="EUR")


def url(dsn: str, driver: str) -> str:
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


@pytest.fixture
def engine(database: str) -> Iterator[sa.Engine]:
    made = sa.create_engine(url(database, "psycopg"))
    yield made
    made.dispose()


@pytest.fixture
async def async_engine(database: str, driver: str) -> AsyncIterator[Any]:
    made = create_async_engine(url(database, driver))
    yield made
    await made.dispose()


async def the_row(pg: asyncpg.Connection) -> asyncpg.Record:
    (row,) = await pg.fetch("SELECT *, payload::text AS text FROM relay.outbox")
    return row


async def assert_whole(pg: asyncpg.Connection, stored: Any) -> None:
    row = await the_row(pg)
    assert (row["id"], row["event_id"]) == (stored.outbox_id, stored.event_id)
    assert (row["aggregate_id"], row["aggregate_version"]) == ("7", 2)
    assert (row["text"], row["headers"]) == (TEXT, '{"tenant":"t"}')
    assert row["traceparent"] == stored.traceparent == f"00-{0xABC:032x}-{0xDEF:016x}-01"


async def test_psycopg_appends_in_the_callers_transaction(
    pg: asyncpg.Connection, database: str
) -> None:
    with psycopg.connect(database, row_factory=dict_row) as connection:
        connection.execute("SELECT 1")
        with use_span(NonRecordingSpan(CALLER)):
            stored = with_psycopg.append(connection, EVENT, event_types=ANY)
        assert await pg.fetch("SELECT 1 FROM relay.outbox") == []
        connection.commit()
    await assert_whole(pg, stored)


async def test_psycopg_async_appends_in_the_callers_transaction(
    pg: asyncpg.Connection, database: str
) -> None:
    async with (
        await psycopg.AsyncConnection.connect(database, autocommit=True) as connection,
        connection.transaction(),
    ):
        with use_span(NonRecordingSpan(CALLER)):
            stored = await with_psycopg.append_async(connection, EVENT, event_types=ANY)
    await assert_whole(pg, stored)


async def test_psycopg_rolls_both_back(pg: asyncpg.Connection, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("SELECT 1")
        with_psycopg.append(connection, EVENT, event_types=ANY)
        connection.rollback()
    assert await pg.fetch("SELECT 1 FROM relay.outbox") == []


@pytest.mark.parametrize("autocommit", [True, False])
async def test_psycopg_is_refused_outside_a_transaction(
    pg: asyncpg.Connection, database: str, autocommit: bool
) -> None:
    with (
        psycopg.connect(database, autocommit=autocommit) as connection,
        pytest.raises(NotInTransactionError),
    ):
        with_psycopg.append(connection, EVENT, event_types=ANY)
    async with await psycopg.AsyncConnection.connect(database, autocommit=autocommit) as other:
        with pytest.raises(NotInTransactionError):
            await with_psycopg.append_async(other, EVENT, event_types=ANY)
    assert await pg.fetch("SELECT 1 FROM relay.outbox") == []


async def test_psycopg_refuses_a_bad_event_and_goes_on(
    pg: asyncpg.Connection, database: str
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("SELECT 1")
        with pytest.raises(EventRefusedError):
            with_psycopg.append(connection, Event("order.changed", "7", "[]"), event_types=ANY)
        with_psycopg.append(connection, EVENT, event_types=ANY)
    await the_row(pg)


async def test_sqlalchemy_appends_on_a_connection(
    pg: asyncpg.Connection, engine: sa.Engine
) -> None:
    with engine.begin() as connection, use_span(NonRecordingSpan(CALLER)):
        stored = with_sqlalchemy.append(connection, EVENT, event_types=ANY)
    await assert_whole(pg, stored)


async def test_a_session_writes_the_order_before_its_event(
    pg: asyncpg.Connection, engine: sa.Engine
) -> None:
    with Session(engine, autoflush=False) as session, use_span(NonRecordingSpan(CALLER)):
        session.add(order())
        stored = with_sqlalchemy.append(session, EVENT, event_types=ANY)
        assert session.scalar(sa.text("SELECT count(*) FROM orders")) == 1
        session.commit()
    await assert_whole(pg, stored)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_sqlalchemys_async_forms_append_too(
    pg: asyncpg.Connection, async_engine: Any
) -> None:
    async with AsyncSession(async_engine) as session:
        session.add(order())
        with use_span(NonRecordingSpan(CALLER)):
            stored = await with_sqlalchemy.append_async(session, EVENT, event_types=ANY)
        await session.commit()
    await assert_whole(pg, stored)
    async with async_engine.connect() as connection:
        await connection.begin()
        await with_sqlalchemy.append_async(connection, EVENT, event_types=ANY)
        await connection.rollback()
    await the_row(pg)


@pytest.mark.parametrize("isolation", ["AUTOCOMMIT", None])
async def test_sqlalchemy_is_refused_outside_a_transaction(
    pg: asyncpg.Connection, database: str, isolation: str | None
) -> None:
    options = {} if isolation is None else {"isolation_level": isolation}
    engine = sa.create_engine(url(database, "psycopg"), **options)
    with engine.connect() as connection:
        if isolation is not None:
            connection.execute(sa.text("SELECT 1"))
        with pytest.raises(NotInTransactionError):
            with_sqlalchemy.append(connection, EVENT, event_types=ANY)
    with Session(engine) as session, pytest.raises(NotInTransactionError):
        with_sqlalchemy.append(session, EVENT, event_types=ANY)
    engine.dispose()
    assert await pg.fetch("SELECT 1 FROM relay.outbox") == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_sqlalchemys_async_autocommit_is_refused(
    pg: asyncpg.Connection, async_engine: Any
) -> None:
    async with async_engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(sa.text("SELECT 1"))
        with pytest.raises(NotInTransactionError):
            await with_sqlalchemy.append_async(connection, EVENT, event_types=ANY)
    assert await pg.fetch("SELECT 1 FROM relay.outbox") == []


def test_psycopg2_appends_in_its_transaction_whatever_its_rows_are(database: str) -> None:
    connection = psycopg2.connect(database, cursor_factory=psycopg2.extras.RealDictCursor)
    try:
        with pytest.raises(NotInTransactionError):
            with_psycopg2.append(connection, EVENT, event_types=ANY)
        with recorded(connection) as outbox:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 AS x")
            appended = with_psycopg2.append(connection, EVENT, event_types=ANY)
        (event,) = outbox.events
        assert (event.event_id, event.text) == (appended.event_id, TEXT)
        assert (event.headers, event.aggregate_version) == ({"tenant": "t"}, 2)
        connection.rollback()
        connection.autocommit = True
        with pytest.raises(NotInTransactionError):
            with_psycopg2.append(connection, EVENT, event_types=ANY)
        with recorded(connection) as outbox:
            pass
        assert outbox.events == []
    finally:
        connection.close()


async def test_the_test_kit_reads_what_each_kind_of_connection_appended(
    database: str, engine: sa.Engine, pg: asyncpg.Connection
) -> None:
    with Session(engine) as session:
        session.add(order())
        with recorded(session) as outbox:
            with_sqlalchemy.append(session, EVENT, event_types=ANY)
        assert outbox.types == ["order.changed"]
        session.rollback()
    with psycopg.connect(database, row_factory=dict_row) as connection:
        connection.execute("SELECT 1")
        with recorded(connection) as outbox:
            with_psycopg.append(connection, EVENT, event_types=ANY)
        assert [one.aggregate_id for one in outbox.of("7")] == ["7"]
        connection.rollback()
    async with pg.transaction():
        async with recorded_async(pg) as outbox:
            await append(pg, EVENT, event_types=ANY)
        assert outbox.types == ["order.changed"]
    with pytest.raises(TypeError, match="a connection is needed"), recorded(object()):
        pass
