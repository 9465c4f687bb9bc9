"""Rows written by clients that know nothing of us: plain INSERTs of the contract's four columns."""

import asyncio
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from confluent_kafka import Message
from psycopg import pq
from psycopg.types.string import StrDumper
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from relay.publish.sending.partitioner import murmur2, partitions

# Any valid JSON is published byte for byte, whatever it means to anybody.
PAYLOADS = {
    "an object": '{"order_id": "x", "status": null}',
    "an array": "[1, [2, {}], []]",
    "a string": '"text"',
    "an empty string": '""',
    "null": "null",
    "true": "true",
    "a number": "-0.0e-0",
    "a thousand digits": "9" * 1000,
    "a number beyond doubles": '{"n": 1e99999, "m": 0.' + "1" * 1000 + "}",
    "odd whitespace": ' {\n\t"a" :\r\n [ ] , "b":{ } } \n',
    "escapes": '{"\\u00e9": "\\ud83d\\ude00\\/\\b\\f"}',
    "raw unicode": '{"é": "😀\u2028 \u00a0"}',
    "duplicate keys": '{"a": 1, "a": 2}',
    "an escaped null character": '"\\u0000"',
    "a lone surrogate, escaped": '"\\ud800"',
    "deep": "[" * 1000 + "]" * 1000,
    "large": '{"x": "' + "y" * 500_000 + '"}',
}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACESTATE = "vendor=1,other=2"

Rows = Sequence[tuple[str, str]]  # order id, payload
INSERT = (
    "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
    " VALUES ('order', %s, 'order.placed', %s)"
)


def by_psycopg(url: str, rows: Rows) -> None:
    with psycopg.connect(url) as connection:
        for row in rows:
            connection.execute(INSERT, row)


def by_psycopg_with_bound_types(url: str, rows: Rows) -> None:
    """Server-side types as a typed driver declares them: text into a json column needs a cast."""
    with psycopg.connect(url) as connection:
        connection.adapters.register_dumper(str, StrDumper)
        connection.cursor().executemany(INSERT.removesuffix("%s)") + "%s::json)", rows)


def by_asyncpg(url: str, rows: Rows) -> None:
    async def write() -> None:
        connection = await asyncpg.connect(url)
        await connection.executemany(
            "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
            " VALUES ('order', $1, 'order.placed', $2)",
            rows,
        )
        await connection.close()

    asyncio.run(write())


def by_libpq_text(url: str, rows: Rows) -> None:
    """One statement of literals through the simple protocol, as psql or PHP send it."""
    connection = pq.PGconn.connect(url.encode())
    escape = pq.Escaping(connection)
    values = b", ".join(
        b"('order', %s, 'order.placed', %s)"
        % (escape.escape_literal(order.encode()), escape.escape_literal(payload.encode()))
        for order, payload in rows
    )
    result = connection.exec_(
        b"INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload) VALUES "
        + values
    )
    assert result.status == pq.ExecStatus.COMMAND_OK, result.error_message
    connection.finish()


def by_copy(url: str, rows: Rows) -> None:
    copy = "COPY relay.outbox (aggregate_type, aggregate_id, event_type, payload) FROM STDIN"
    with psycopg.connect(url) as connection, connection.cursor().copy(copy) as stream:
        for order, payload in rows:
            stream.write_row(("order", order, "order.placed", payload))


class Base(DeclarativeBase):
    pass


class OutboxRow(Base):
    """An order service's own model of the table: the ORM asks for id and event_id back."""

    __tablename__ = "outbox"
    __table_args__: ClassVar[Any] = {"schema": "relay"}
    __mapper_args__: ClassVar[Any] = {"eager_defaults": True}

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    event_id: Mapped[uuid.UUID] = mapped_column(server_default=sa.FetchedValue())
    aggregate_type: Mapped[str]
    aggregate_id: Mapped[str]
    event_type: Mapped[str]
    payload: Mapped[str] = mapped_column(sa.JSON)


def by_an_orm(url: str, rows: Rows) -> None:
    # The ORM would write the text as a JSON string: hand it over as it is.
    engine = sa.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1), json_serializer=str
    )
    with Session(engine) as session:
        written = [
            OutboxRow(
                aggregate_type="order", aggregate_id=order, event_type="order.placed", payload=text
            )
            for order, text in rows
        ]
        session.add_all(written)
        session.flush()
        # Before the commit: it expires what it knows, and to read it all again is not allowed.
        assert all(row.id and row.event_id for row in written)
        session.commit()
    engine.dispose()


WRITERS: Mapping[str, Callable[[str, Rows], None]] = {
    "psycopg": by_psycopg,
    "psycopg, bound types": by_psycopg_with_bound_types,
    "asyncpg": by_asyncpg,
    "libpq text": by_libpq_text,
    "COPY": by_copy,
    "ORM": by_an_orm,
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_foreign_client_writes_is_published_as_it_is(
    name: str, writer: str, loop: Any, database: str
) -> None:
    rows = [(f"order {title} é", payload) for title, payload in PAYLOADS.items()]
    relay = loop.run()
    WRITERS[name](writer, rows)
    records = {record.key: record for record in loop.records(len(rows))}
    assert {key: record.value.decode() for key, record in records.items()} == dict(rows)
    with psycopg.connect(database) as connection:
        stored = connection.execute(
            "SELECT aggregate_id, event_id, to_char(created_at AT TIME ZONE 'UTC',"
            ' \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') FROM relay.outbox'
        ).fetchall()
        assert connection.execute("SELECT count(*) FROM relay.quarantine").fetchone() == (0,)
    for order, event_id, created_at in stored:
        headers = dict(records[order].headers)
        trace = headers.pop("traceparent")
        assert trace.split("-")[1] == event_id.hex
        assert headers == {
            "ce_specversion": "1.0",
            "ce_id": str(event_id),
            "ce_source": "/orders",
            "ce_type": "order.placed",
            "ce_subject": order,
            "ce_time": created_at,
            "content-type": "application/json",
            "relay_epoch": "1",
        }
    assert relay.terminate() == 0


def test_a_writers_own_trace_and_headers_travel(writer: str, loop: Any) -> None:
    event_id = uuid.uuid4()
    loop.run()
    with psycopg.connect(writer) as connection:
        connection.execute(
            "INSERT INTO relay.outbox (event_id, aggregate_type, aggregate_id, aggregate_version,"
            " event_type, payload, headers, traceparent, tracestate)"
            " VALUES (%s, 'order', '7', 3, 'order.placed', '{}', %s, %s, %s)",
            (event_id, '{"tenant": "é", "ce_id": "forged"}', TRACEPARENT, TRACESTATE),
        )
    (record,) = loop.records(1)
    assert record.headers["ce_id"] == str(event_id)
    assert record.headers["tenant"] == "é"
    trace = record.headers["traceparent"].split("-")
    assert (trace[1], trace[3]) == (TRACEPARENT.split("-")[1], "01")
    assert record.headers["tracestate"] == TRACESTATE


@pytest.mark.parametrize(
    "traceparent",
    ["", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", TRACEPARENT.upper(), "é" * 60],
)
def test_a_broken_traceparent_never_stops_an_event(
    writer: str, loop: Any, traceparent: str
) -> None:
    event_id = uuid.uuid4()
    loop.run()
    with psycopg.connect(writer) as connection:
        connection.execute(
            "INSERT INTO relay.outbox (event_id, aggregate_type, aggregate_id, event_type, payload,"
            " traceparent, tracestate) VALUES (%s, 'order', '7', 'order.placed', '{}', %s, %s)",
            (event_id, traceparent, traceparent),
        )
    (record,) = loop.records(1)
    assert record.headers["traceparent"].split("-")[1] == event_id.hex


def test_a_rolled_back_row_is_never_published_and_a_savepoint_keeps_the_rest(
    writer: str, loop: Any
) -> None:
    loop.run()
    with psycopg.connect(writer) as connection:
        connection.execute(INSERT, ("rolled back", "{}"))
        connection.rollback()
        connection.execute(INSERT, ("kept", "1"))
        with pytest.raises(psycopg.errors.InvalidTextRepresentation), connection.transaction():
            connection.execute(INSERT, ("in the savepoint", "not json"))
        connection.commit()
        connection.execute(INSERT, ("last", "2"))
    assert {record.key for record in loop.records(2)} == {"kept", "last"}


# From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
JAVA_HASHES = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


def test_the_hash_is_javas() -> None:
    signed = {
        key: int.from_bytes(murmur2(key.encode()).to_bytes(4), signed=True) for key in JAVA_HASHES
    }
    assert signed == JAVA_HASHES


def test_keys_land_where_javas_partitioner_puts_them(writer: str, loop: Any, topics: Any) -> None:
    """librdkafka's murmur2_random is Java's default partitioner; it says where each key belongs."""
    choices = random.Random(7)
    keys = [
        *JAVA_HASHES,
        *(str(uuid.UUID(int=choices.getrandbits(128))) for _ in range(300)),
        *("".join(choices.choices("aé😀z9-", k=length)) for length in range(1, 40)),
    ]
    loop.run()
    by_psycopg(writer, [(key, "{}") for key in keys])
    oracle = topics.create("oracle", partitions=loop.partitions)
    expected: dict[str, int] = {}

    def delivered(error: Any, message: Message) -> None:
        assert error is None
        expected[message.key().decode()] = message.partition()

    producer = loop.producer()
    for key in keys:
        producer.produce(oracle, key=key.encode(), value=b"", on_delivery=delivered)
    assert producer.flush(30) == 0
    landed = {record.key: record.partition for record in loop.records(len(set(keys)))}
    assert landed == expected
    assert set(landed.values()) == set(range(loop.partitions))
    for key, signed in JAVA_HASHES.items():
        assert landed[key] == (signed & 0x7FFFFFFF) % loop.partitions
    encoded = [key.encode() for key in keys]
    assert partitions(encoded, loop.partitions) == [expected[key] for key in keys]
