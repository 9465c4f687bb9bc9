"""Hop 1's test kit: what a shop's code appended, in the shop's own tests, without Kafka.

Invariant: it reads the rows in the transaction of the test, committed or not, and changes nothing.

    with recorded(connection) as outbox:
        shop.place_order(...)
    assert outbox.types == ["order.placed"]

`connection` is whatever the code itself uses: psycopg, psycopg2, a SQLAlchemy Session or
Connection, Django's `connection`; for asyncpg and SQLAlchemy's async forms there is
`recorded_async`. The login needs to read relay.outbox, as the one that made the test database does
(relay_writer may not).
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

_LAST: Final = "SELECT coalesce(max(id), 0)::text FROM relay.outbox"
_SINCE: Final = """
SELECT id::text, event_id::text, aggregate_type, aggregate_id, aggregate_version::text, event_type,
       payload::text, headers::text, traceparent, encode(payload_bytes, 'base64'), content_type
  FROM relay.outbox WHERE id > {after} ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event that was appended, in the order of the outbox.

    Attributes:
        payload: as JSON says it, and `text` as it is written; of a payload of bytes those bytes,
            and `text` is empty.
        content_type: of a payload of bytes.
    """

    outbox_id: int
    event_id: UUID
    aggregate_type: str
    aggregate_id: str
    aggregate_version: int | None
    event_type: str
    payload: Any
    text: str
    headers: dict[str, str]
    traceparent: str | None
    content_type: str | None = None


@dataclass(slots=True)
class Recorded:
    """What was appended while the block ran; filled when it ends."""

    events: list[RecordedEvent] = field(default_factory=list)

    @property
    def types(self) -> list[str]:
        """The event types, in order."""
        return [one.event_type for one in self.events]

    def of(self, aggregate_id: object) -> list[RecordedEvent]:
        """Return the events of one order."""
        return [one for one in self.events if one.aggregate_id == str(aggregate_id)]


@contextmanager
def recorded(connection: Any) -> Iterator[Recorded]:
    """Record what is appended on `connection` while the block runs.

    Raises:
        TypeError: not a connection that this module knows.
    """
    after = int(_query(connection, _LAST)[0][0])
    outbox = Recorded()
    yield outbox
    outbox.events.extend(map(_event, _query(connection, _SINCE.format(after=after))))


@asynccontextmanager
async def recorded_async(connection: Any) -> AsyncIterator[Recorded]:
    """Record what is appended on an asyncpg connection, or SQLAlchemy's async forms."""
    after = int((await _query_async(connection, _LAST))[0][0])
    outbox = Recorded()
    yield outbox
    outbox.events.extend(map(_event, await _query_async(connection, _SINCE.format(after=after))))


def _query(connection: Any, statement: str) -> list[Any]:
    if hasattr(connection, "flush"):  # a session of SQLAlchemy
        connection.flush()
        connection = connection.connection()
    if hasattr(connection, "exec_driver_sql"):
        return [tuple(row) for row in connection.exec_driver_sql(statement)]
    if not hasattr(connection, "cursor"):
        raise TypeError(f"a connection is needed, not {type(connection).__name__}")
    with connection.cursor() as cursor:
        cursor.execute(statement)
        rows = cursor.fetchall()
    return [tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in rows]


async def _query_async(connection: Any, statement: str) -> list[Any]:
    if hasattr(connection, "run_sync"):
        rows: list[Any] = await connection.run_sync(_query, statement)
        return rows
    return [tuple(row) for row in await connection.fetch(statement)]


def _event(row: tuple[Any, ...]) -> RecordedEvent:
    return RecordedEvent(
        outbox_id=int(row[0]),
        event_id=UUID(row[1]),
        aggregate_type=row[2],
        aggregate_id=row[3],
        aggregate_version=None if row[4] is None else int(row[4]),
        event_type=row[5],
        payload=b64decode(row[9] or "") if row[6] is None else json.loads(row[6]),
        text=row[6] or "",
        headers=json.loads(row[7]) if row[7] else {},
        traceparent=row[8],
        content_type=row[10],
    )
